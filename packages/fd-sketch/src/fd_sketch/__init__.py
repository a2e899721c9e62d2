"""Streaming covariance sketches with an exact error certificate."""

from importlib.metadata import version

from fd_sketch._bank import SketchBank
from fd_sketch._choose import covariance_sketch
from fd_sketch._exact_gram import ExactGram
from fd_sketch._frequent_directions import FrequentDirections
from fd_sketch._protocol import CovarianceSketch
from fd_sketch._reference import frequent_directions_reference
from fd_sketch._sliding import SlidingFrequentDirections

__all__ = [
    "CovarianceSketch",
    "FrequentDirections",
    "ExactGram",
    "covariance_sketch",
    "SketchBank",
    "SlidingFrequentDirections",
    "frequent_directions_reference",
]
__version__ = version("fd-sketch")
