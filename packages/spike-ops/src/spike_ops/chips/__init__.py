"""Neuromorphic chips: whether a network fits, and what it computes there in whole numbers."""

from spike_ops.chips._check import ChipReport, check
from spike_ops.chips._integer import IntegerLayer, IntegerNet
from spike_ops.chips._placing import Placement
from spike_ops.chips._quantize import quantize
from spike_ops.chips._table import CHIPS, LOIHI2, SPECK, SPINNAKER2, XYLO, Chip

__all__ = [
    "check", "quantize", "ChipReport", "Placement", "IntegerNet", "IntegerLayer", "Chip",
    "CHIPS", "LOIHI2", "SPINNAKER2", "SPECK", "XYLO",
]  # fmt: skip
