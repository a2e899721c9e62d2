"""The tasks that come with the package: one file each, one row here."""

from layer_importance._entry_points import TASKS, loaded, no_subclass, offered
from layer_importance._task import Task
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

BUILT_IN: tuple[type[Task], ...] = (
    Classification,
    Generation,
    Retrieval,
    Recommendation,
    Detection,
    Segmentation,
    Translation,
    Summarization,
    QuestionAnswering,
    ReinforcementLearning,
    Regression,
)
_SPELLINGS = {"summarisation": "summarization", "question_answering": "qa"}


def task(which: str | Task) -> Task:
    """Returns the task called so, or the one given.

    Those that other packages offer by entry points (group ``layer_importance.tasks``) come first.

    Raises:
        ValueError: if there is none of that name.
    """
    if isinstance(which, Task):
        return which
    named = {kind.name: kind for kind in BUILT_IN}
    name = _SPELLINGS.get(which, which)
    kind = loaded(TASKS, name, no_subclass(Task)) or named.get(name)
    if kind is None:
        known = ", ".join(dict.fromkeys([*named, *offered(TASKS)]))
        raise ValueError(f"task must be a Task or one of {known}, got {which!r}")
    found: Task = kind()
    return found
