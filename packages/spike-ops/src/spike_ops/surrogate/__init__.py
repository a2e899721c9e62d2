"""Surrogates: the step of a spike forward, a smooth derivative backward."""

from spike_ops.surrogate._base import Surrogate, heaviside
from spike_ops.surrogate._common import ATan, Rectangular, Sigmoid, Triangle

__all__ = ["Surrogate", "heaviside", "Sigmoid", "ATan", "Rectangular", "Triangle"]
