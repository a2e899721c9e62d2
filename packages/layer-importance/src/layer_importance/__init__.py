"""Which layers matter, for any PyTorch model: scores, compression plans, carrying them out."""

from importlib.metadata import version

from layer_importance._analyze import analyze
from layer_importance._batch import Call
from layer_importance._discover import discover
from layer_importance._events import BatchEvent, LeafEvent, UnitEvent
from layer_importance._method import MeanMethod, Method, PassMethod, SweepMethod
from layer_importance._moments import Moments
from layer_importance._registry import Registry, registry
from layer_importance._report import Report
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._tasks.classification import Classification
from layer_importance._units import Unit, Units

__version__ = version("layer-importance")

__all__ = [
    "analyze",
    "Report",
    # units
    "discover",
    "Unit",
    "Units",
    # what a model is for
    "Task",
    "Call",
    "Classification",
    # scores
    "Score",
    "MethodScores",
    "Moments",
    # methods
    "Method",
    "SweepMethod",
    "MeanMethod",
    "PassMethod",
    "Subject",
    "UnitEvent",
    "LeafEvent",
    "BatchEvent",
    "Registry",
    "registry",
]
