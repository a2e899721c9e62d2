"""Spiking networks by additions."""

import spike_ops._aten  # noqa: F401 - enters what operations do with spikes
from spike_ops._bits import pack_bits, unpack_bits
from spike_ops._cost import Calibration, ProductPlan, calibration, plan_product, use_calibration
from spike_ops._index import Bags, SpikeIndex
from spike_ops._spike_tensor import SpikeTensor

__all__ = [
    "SpikeTensor",
    "SpikeIndex",
    "Bags",
    "pack_bits",
    "unpack_bits",
    "Calibration",
    "ProductPlan",
    "calibration",
    "plan_product",
    "use_calibration",
]
