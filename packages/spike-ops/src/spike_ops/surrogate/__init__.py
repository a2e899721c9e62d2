"""Surrogates: the step of a spike forward, a smooth derivative backward."""

from spike_ops.surrogate._base import Surrogate, heaviside
from spike_ops.surrogate._common import ATan, Rectangular, Sigmoid, Triangle
from spike_ops.surrogate._compact import (
    LeakyRectangular,
    LeakySpike,
    PiecewiseQuadratic,
    SparseFastSigmoid,
    StraightThrough,
)
from spike_ops.surrogate._smooth import (
    FastSigmoid,
    Gaussian,
    MultiGaussian,
    PiecewiseExponential,
    SoftSign,
    SuperSpike,
)

__all__ = [
    "Surrogate", "heaviside",
    "Sigmoid", "ATan", "FastSigmoid", "SuperSpike", "SoftSign", "Gaussian", "MultiGaussian",
    "PiecewiseExponential",
    "Rectangular", "Triangle", "PiecewiseQuadratic", "LeakyRectangular", "SparseFastSigmoid",
    "StraightThrough", "LeakySpike",
]  # fmt: skip
