"""What a model is for: tasks that come with the package."""

from layer_importance._task import Task, logits
from layer_importance._tasks import task
from layer_importance._tasks.classification import Classification
from layer_importance._tasks.detection import Detection
from layer_importance._tasks.generation import Generation
from layer_importance._tasks.qa import QuestionAnswering
from layer_importance._tasks.recommendation import Recommendation
from layer_importance._tasks.regression import Regression
from layer_importance._tasks.reinforcement_learning import ReinforcementLearning
from layer_importance._tasks.retrieval import Retrieval
from layer_importance._tasks.segmentation import Segmentation
from layer_importance._tasks.summarization import Summarization
from layer_importance._tasks.translation import Translation

__all__ = [
    "task",
    "Task",
    "logits",
    "Classification",
    "Generation",
    "Retrieval",
    "Recommendation",
    "Detection",
    "Segmentation",
    "Translation",
    "Summarization",
    "QuestionAnswering",
    "ReinforcementLearning",
    "Regression",
]
