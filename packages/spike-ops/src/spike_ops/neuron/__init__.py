"""Neurons: currents [T, B, ...] in, spikes [T, B, ...] out."""

from spike_ops.neuron._adaptive import ALIF, CUBA
from spike_ops.neuron._backends import Choice
from spike_ops.neuron._base import Neuron
from spike_ops.neuron._build import build
from spike_ops.neuron._gated import GLIF
from spike_ops.neuron._graded import CLIF, ILIF, LIAF, SigmaDelta
from spike_ops.neuron._izhikevich import Izhikevich
from spike_ops.neuron._lif import IF, LIF
from spike_ops.neuron._membrane import Membrane
from spike_ops.neuron._node import BaseNode
from spike_ops.neuron._nodes import IFNode, LIFNode
from spike_ops.neuron._nonlinear import EIF, QIF, AdEx
from spike_ops.neuron._parallel import PSN, MaskedPSN, SlidingPSN
from spike_ops.neuron._plif import KLIF, PLIF
from spike_ops.neuron._response import SRM, TsodyksMarkram
from spike_ops.neuron._wrappers import Delay, Diagonal, Recurrent, Refractory

__all__ = [
    "Neuron", "Membrane", "Choice", "build",
    "IF", "LIF", "PLIF", "KLIF", "ALIF", "CUBA", "QIF", "EIF", "AdEx", "Izhikevich", "SRM",
    "GLIF", "CLIF", "LIAF", "ILIF", "SigmaDelta", "PSN", "MaskedPSN", "SlidingPSN",
    "BaseNode", "IFNode", "LIFNode",
    "Recurrent", "Diagonal", "Refractory", "Delay", "TsodyksMarkram",
]  # fmt: skip
