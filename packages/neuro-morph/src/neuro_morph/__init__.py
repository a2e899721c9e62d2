"""Networks that grow while they train, exactly, on unmodified models."""

from neuro_morph import _rebuilding as _rebuilding
from neuro_morph._accumulators import Limits
from neuro_morph._back_off import BackOff
from neuro_morph._budget import Budget, Usage, apply_within
from neuro_morph._callbacks_hf import MorphTrainerCallback
from neuro_morph._callbacks_lightning import MorphLightningCallback
from neuro_morph._candidates import widenings
from neuro_morph._candidates_layers import candidates, connections, deepenings
from neuro_morph._checkpoint import load_checkpoint, save_checkpoint
from neuro_morph._configuration import fit_config
from neuro_morph._division import Divide
from neuro_morph._dnm import DNMFramework
from neuro_morph._dnm_analyzer import LayerPerformanceAnalyzer
from neuro_morph._dnm_config import DNMConfig
from neuro_morph._dnm_connections import ConnectionGrowthManager
from neuro_morph._dnm_division import AdaptiveNeuronDivision
from neuro_morph._dnm_net2net import DNMNet2Net
from neuro_morph._edge import GrownEdge
from neuro_morph._edge_scores import EdgeScore, score_edges
from neuro_morph._edit import Edit, Performed, Site
from neuro_morph._edit_connect import Connect
from neuro_morph._edit_deepen import Deepen
from neuro_morph._edit_heads import AddHeads
from neuro_morph._edit_split import SplitSteepest
from neuro_morph._edit_together import Together
from neuro_morph._edit_widen import Widen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent, standing
from neuro_morph._event_log import EventLog
from neuro_morph._graph import GrowthGraph
from neuro_morph._group_statistics import GroupStatistics, Statistics
from neuro_morph._groups import GrowthGroup, Member
from neuro_morph._growth_plan import GrowthPlan
from neuro_morph._initial import Duplicate, Split, UnitInit, ZeroFanOut
from neuro_morph._initial_pairs import AntisymmetricPair
from neuro_morph._inputs import ExampleInputs
from neuro_morph._masked_norm import MaskedLayerNorm
from neuro_morph._metrics import METRICS, Metric
from neuro_morph._metrics._mutual_information import mutual_information
from neuro_morph._morpher import Morpher
from neuro_morph._nest import NeST
from neuro_morph._optimizer_state import register_optimizer_state
from neuro_morph._paired import PairedGain, paired_gain
from neuro_morph._plan_widen import Units
from neuro_morph._policy import GrowthPolicy
from neuro_morph._policy_settings import PolicySettings
from neuro_morph._proposals import Proposal, propose_units
from neuro_morph._proposed_units import Proposed, gradmax, senn, tiny
from neuro_morph._run_snapshot import RunSnapshot
from neuro_morph._score import scores_of
from neuro_morph._smaller import fitting
from neuro_morph._snapshot import Snapshot
from neuro_morph._sparse_densities import erk_densities, uniform_densities
from neuro_morph._sparse_growth import SparseGrowth, SparseUpdate
from neuro_morph._spec import ArchitectureSpec
from neuro_morph._splitting import Splitting, splitting_of
from neuro_morph._statistics import collect_statistics
from neuro_morph._tournament import Tournament, TournamentResult, Trial
from neuro_morph._triggers import (
    Decision,
    GeneralizationGap,
    GradientHealth,
    Information,
    Period,
    Plateau,
    Quorum,
    Saturation,
    Topology,
    Traces,
    Trigger,
    Vote,
)
from neuro_morph._unit_rates import set_unit_rates

__version__ = "0.1.0"

__all__ = [
    "AdaptiveNeuronDivision",
    "AddHeads",
    "AntisymmetricPair",
    "ArchitectureSpec",
    "BackOff",
    "Budget",
    "Connect",
    "ConnectionGrowthManager",
    "DNMConfig",
    "DNMFramework",
    "DNMNet2Net",
    "Decision",
    "Deepen",
    "Divide",
    "Duplicate",
    "EdgeScore",
    "Edit",
    "EventLog",
    "ExampleInputs",
    "GeneralizationGap",
    "GradientHealth",
    "GroupStatistics",
    "GrownEdge",
    "GrowthGraph",
    "GrowthGroup",
    "GrowthPlan",
    "GrowthPolicy",
    "GrowthRefusedError",
    "Information",
    "LayerPerformanceAnalyzer",
    "Limits",
    "METRICS",
    "MaskedLayerNorm",
    "Member",
    "Metric",
    "MorphLightningCallback",
    "MorphTrainerCallback",
    "Morpher",
    "MorphogenesisEvent",
    "NeST",
    "PairedGain",
    "Performed",
    "Period",
    "Plateau",
    "PolicySettings",
    "Proposal",
    "Proposed",
    "Quorum",
    "RunSnapshot",
    "Saturation",
    "Site",
    "Snapshot",
    "SparseGrowth",
    "SparseUpdate",
    "Split",
    "SplitSteepest",
    "Splitting",
    "Statistics",
    "Together",
    "Topology",
    "Tournament",
    "TournamentResult",
    "Traces",
    "Trial",
    "Trigger",
    "UnitInit",
    "Units",
    "Usage",
    "Vote",
    "Widen",
    "ZeroFanOut",
    "apply_within",
    "candidates",
    "collect_statistics",
    "connections",
    "deepenings",
    "erk_densities",
    "fit_config",
    "fitting",
    "gradmax",
    "load_checkpoint",
    "mutual_information",
    "paired_gain",
    "propose_units",
    "register_optimizer_state",
    "save_checkpoint",
    "score_edges",
    "scores_of",
    "senn",
    "set_unit_rates",
    "splitting_of",
    "standing",
    "tiny",
    "uniform_densities",
    "widenings",
]
