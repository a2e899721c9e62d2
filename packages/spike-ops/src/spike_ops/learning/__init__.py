"""Learning rules as matrix products: activity on both sides of a weight in, its change out."""

from spike_ops.learning._apply import Bounds, apply_, as_gradient_
from spike_ops.learning._base import SynapticRule, Update
from spike_ops.learning._decolle import DecolleLayer, DecolleOutput
from spike_ops.learning._dependence import Additive, PowerLaw, Proportional, WeightDependence
from spike_ops.learning._eprop import EProp
from spike_ops.learning._feedback import feedback_matrix
from spike_ops.learning._geometry import ConvGeometry, Geometry, LinearGeometry, geometry_of
from spike_ops.learning._inhibitory import InhibitorySTDP
from spike_ops.learning._online import trace_gradient
from spike_ops.learning._pair import PairSTDP
from spike_ops.learning._rates import BCM, Hebbian, Oja
from spike_ops.learning._reward import RewardSTDP
from spike_ops.learning._scaling import SynapticScaling, normalize_
from spike_ops.learning._stdp import STDP
from spike_ops.learning._traces import exponential_trace, reverse_trace
from spike_ops.learning._triplet import TripletSTDP
from spike_ops.learning._windows import anti_hebbian_stdp, symmetric_stdp

__all__ = [
    "STDP",
    "PairSTDP",
    "symmetric_stdp",
    "anti_hebbian_stdp",
    "TripletSTDP",
    "InhibitorySTDP",
    "RewardSTDP",
    "Hebbian",
    "Oja",
    "BCM",
    "SynapticScaling",
    "normalize_",
    "EProp",
    "trace_gradient",
    "feedback_matrix",
    "DecolleLayer",
    "DecolleOutput",
    "SynapticRule",
    "Update",
    "Bounds",
    "apply_",
    "as_gradient_",
    "Additive",
    "PowerLaw",
    "Proportional",
    "WeightDependence",
    "Geometry",
    "LinearGeometry",
    "ConvGeometry",
    "geometry_of",
    "exponential_trace",
    "reverse_trace",
]
