"""Trained networks converted to spiking ones."""

from spike_ops.convert._convert import convert
from spike_ops.convert._errors import ConversionError
from spike_ops.convert._network import ConvertedNet
from spike_ops.convert._neurons import Spiking, WinnerPool
from spike_ops.convert._qcfs import QCFS
from spike_ops.convert._report import ConversionReport, Row

__all__ = [
    "convert", "QCFS", "ConvertedNet", "ConversionReport", "Row", "ConversionError",
    "Spiking", "WinnerPool",
]  # fmt: skip
