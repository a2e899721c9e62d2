"""Structure: which neurons are connected, with which sign, and how they silence each other."""

from spike_ops.structure._balance import balanced_variance, balanced_weight
from spike_ops.structure._base import Structure, Wiring
from spike_ops.structure._columns import Columns, LayeredColumn, potjans_diesmann
from spike_ops.structure._dale import DaleSign, dale_, dale_signs, keep_signs_
from spike_ops.structure._graphs import ScaleFree, SmallWorld
from spike_ops.structure._inhibition import GlobalInhibition, KWinners, MexicanHat, k_winners
from spike_ops.structure._random import FixedInDegree, RandomConnections
from spike_ops.structure._rewire import deep_rewire_, set_rewire_
from spike_ops.structure._space import DistanceDependent

__all__ = [
    "Structure",
    "Wiring",
    "RandomConnections",
    "FixedInDegree",
    "SmallWorld",
    "ScaleFree",
    "DistanceDependent",
    "Columns",
    "LayeredColumn",
    "potjans_diesmann",
    "DaleSign",
    "dale_",
    "dale_signs",
    "keep_signs_",
    "balanced_weight",
    "balanced_variance",
    "k_winners",
    "KWinners",
    "GlobalInhibition",
    "MexicanHat",
    "set_rewire_",
    "deep_rewire_",
]
