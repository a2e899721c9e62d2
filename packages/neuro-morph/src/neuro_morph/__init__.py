"""Networks that grow while they train, exactly, on unmodified models."""

from neuro_morph._checkpoint import load_checkpoint, save_checkpoint
from neuro_morph._division import Divide
from neuro_morph._edit import Edit, Performed, Site
from neuro_morph._edit_widen import Widen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._event_log import EventLog
from neuro_morph._graph import GrowthGraph
from neuro_morph._groups import GrowthGroup, Member
from neuro_morph._initial import Duplicate, Split, UnitInit, ZeroFanOut
from neuro_morph._inputs import ExampleInputs
from neuro_morph._masked_norm import MaskedLayerNorm
from neuro_morph._morpher import Morpher
from neuro_morph._optimizer_state import register_optimizer_state
from neuro_morph._snapshot import Snapshot
from neuro_morph._spec import ArchitectureSpec

__version__ = "0.1.0"

__all__ = [
    "ArchitectureSpec",
    "Divide",
    "Duplicate",
    "Edit",
    "EventLog",
    "ExampleInputs",
    "GrowthGraph",
    "GrowthGroup",
    "GrowthRefusedError",
    "MaskedLayerNorm",
    "Member",
    "MorphogenesisEvent",
    "Morpher",
    "Performed",
    "Site",
    "Snapshot",
    "Split",
    "UnitInit",
    "Widen",
    "ZeroFanOut",
    "load_checkpoint",
    "register_optimizer_state",
    "save_checkpoint",
]
