"""Spiking networks by additions: spikes as bits, products only where a neuron fired.

What is here concerns spikes and their products. The rest is in `spike_ops.neuron`, `surrogate`,
`nn`, `functional`, `memory`, `encoding`, `decoding`, `losses`, `learning`, `structure`, `convert`,
`nir`, `chips`, `energy`, `events` and `monitor`.
"""

import spike_ops._aten
import spike_ops._aten_conv
import spike_ops._aten_views  # noqa: F401 - these enter what operations do with spikes
from spike_ops._bits import pack_bits, unpack_bits
from spike_ops._calibrate import calibrate
from spike_ops._calibration import Calibration, calibration, use_calibration
from spike_ops._cost import ProductPlan, plan_product
from spike_ops._files import load_spikes, save_spikes
from spike_ops._index import Bags, SpikeIndex
from spike_ops._native import compile_kernels
from spike_ops._spike_tensor import SpikeTensor

__all__ = [
    "SpikeTensor",
    "SpikeIndex",
    "Bags",
    "pack_bits",
    "unpack_bits",
    "save_spikes",
    "load_spikes",
    "ProductPlan",
    "plan_product",
    "Calibration",
    "calibration",
    "use_calibration",
    "calibrate",
    "compile_kernels",
]
