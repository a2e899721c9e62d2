"""Which layers matter, for any PyTorch model: scores, compression plans, carrying them out."""

from importlib.metadata import version

from layer_importance._adapter import UniversalLayerwiseAdapter, create_analyzer
from layer_importance._adapter_config import AnalysisConfig, ModalityType, TaskType
from layer_importance._analyze import analyze
from layer_importance._analyzers import ImportanceAnalyzer, UniversalModel
from layer_importance._batch import Call
from layer_importance._bridge import Bridge, BridgeMoments
from layer_importance._consensus import Consensus
from layer_importance._costs import Costs, measure_costs
from layer_importance._depth_controller import DepthController
from layer_importance._depth_serving import DepthServing
from layer_importance._discover import discover
from layer_importance._elastic_depth import ElasticDepth
from layer_importance._events import BatchEvent, InputEvent, ParameterEvent, UnitEvent
from layer_importance._execute.carry_out import carry_out
from layer_importance._execute.compressed import Compressed
from layer_importance._execute.files import load
from layer_importance._heal_distill import Distilled, distill
from layer_importance._heal_norms import reestimate_norms
from layer_importance._method import (
    ColumnsMethod,
    MeanMethod,
    Method,
    ParameterMethod,
    PassMethod,
    SweepMethod,
)
from layer_importance._moments import Moments
from layer_importance._parts import discover_parts
from layer_importance._plan import Action, CompressionPlan
from layer_importance._planning import plan
from layer_importance._quality_guard import QualityGuard, disagreement
from layer_importance._registry import Registry, registry
from layer_importance._report import Report
from layer_importance._scores import MethodScores, Score, Table
from layer_importance._streaming import analyze_streamed
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._tasks.classification import Classification
from layer_importance._units import Unit, Units
from layer_importance._validity import Validity

__version__ = version("layer-importance")

__all__ = [
    "analyze",
    "analyze_streamed",
    "Report",
    # units
    "discover",
    "discover_parts",
    "Unit",
    "Units",
    # what a model is for
    "Task",
    "Call",
    "Classification",
    # scores
    "Score",
    "MethodScores",
    "Table",
    "Moments",
    "Consensus",
    "Validity",
    # plans, and carrying them out
    "plan",
    "CompressionPlan",
    "Action",
    "Costs",
    "measure_costs",
    "carry_out",
    "Compressed",
    "load",
    "Bridge",
    "BridgeMoments",
    "reestimate_norms",
    "distill",
    "Distilled",
    # depth that changes while serving
    "ElasticDepth",
    "DepthController",
    "QualityGuard",
    "disagreement",
    "DepthServing",
    # methods
    "Method",
    "SweepMethod",
    "ColumnsMethod",
    "MeanMethod",
    "ParameterMethod",
    "PassMethod",
    "Subject",
    "UnitEvent",
    "ParameterEvent",
    "InputEvent",
    "BatchEvent",
    "Registry",
    "registry",
    # by configuration
    "create_analyzer",
    "AnalysisConfig",
    "UniversalLayerwiseAdapter",
    "TaskType",
    "ModalityType",
    "ImportanceAnalyzer",
    "UniversalModel",
]
