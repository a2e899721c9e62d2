"""Neurons: currents [T, B, ...] in, spikes [T, B, ...] out."""

from spike_ops.neuron._base import Choice, Neuron
from spike_ops.neuron._lif import IF, LIF, build

__all__ = ["Neuron", "Choice", "LIF", "IF", "build"]
