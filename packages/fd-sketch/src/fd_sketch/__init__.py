"""Streaming covariance sketches with an exact error certificate."""

from importlib.metadata import version

from fd_sketch._exact_gram import ExactGram
from fd_sketch._frequent_directions import FrequentDirections
from fd_sketch._protocol import CovarianceSketch
from fd_sketch._reference import frequent_directions_reference

__all__ = [
    "CovarianceSketch",
    "FrequentDirections",
    "ExactGram",
    "frequent_directions_reference",
]
__version__ = version("fd-sketch")
