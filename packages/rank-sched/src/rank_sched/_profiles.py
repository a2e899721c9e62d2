"""Profiles of known devices, from public datasheets.

Peaks are for 32-bit floats outside the tensor cores. Idle power and the time of a launch are in no
datasheet: they are round figures of what such devices usually show, and the energies per FLOP and
byte follow from the thermal design power (see `HardwareProfile.from_datasheet`). Treat every
energy and every small latency as an estimate until calibrated or metered.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rank_sched._hardware import HardwareProfile

_V100 = HardwareProfile.from_datasheet(
    "v100",
    peak_flops_per_s=15.7e12,  # NVIDIA V100 datasheet, SXM2, single precision
    bandwidth_bytes_per_s=900e9,  # same, HBM2
    memory_bytes=16e9,  # same, the smaller of two
    tdp_w=300,  # same, maximum power consumption
    idle_power_w=50,  # estimate: readings with a CUDA context open
    launch_overhead_s=5e-6,  # estimate: an operator call from Python
)

_A100 = HardwareProfile.from_datasheet(
    "a100",
    peak_flops_per_s=19.5e12,  # NVIDIA A100 datasheet, SXM 80 GB, FP32
    bandwidth_bytes_per_s=2039e9,  # same, HBM2e
    memory_bytes=80e9,  # same
    tdp_w=400,  # same, maximum thermal design power
    idle_power_w=60,  # estimate
    launch_overhead_s=5e-6,  # estimate
)

_H100 = HardwareProfile.from_datasheet(
    "h100",
    peak_flops_per_s=67e12,  # NVIDIA H100 datasheet, SXM, FP32
    bandwidth_bytes_per_s=3.35e12,  # same, HBM3
    memory_bytes=80e9,  # same
    tdp_w=700,  # same, maximum thermal design power
    idle_power_w=70,  # estimate
    launch_overhead_s=5e-6,  # estimate
)

_H200 = HardwareProfile.from_datasheet(
    "h200",
    peak_flops_per_s=67e12,  # NVIDIA H200 datasheet, SXM, FP32
    bandwidth_bytes_per_s=4.8e12,  # same, HBM3e
    memory_bytes=141e9,  # same
    tdp_w=700,  # same, maximum thermal design power
    idle_power_w=70,  # estimate
    launch_overhead_s=5e-6,  # estimate
)

_JETSON = HardwareProfile.from_datasheet(
    "jetson-agx-orin",
    peak_flops_per_s=5.3e12,  # NVIDIA Jetson AGX Orin technical brief, 64 GB module, FP32
    bandwidth_bytes_per_s=204.8e9,  # same, LPDDR5, shared with the processor
    memory_bytes=64e9,  # same
    tdp_w=60,  # same, the highest power mode of the module
    idle_power_w=10,  # estimate
    launch_overhead_s=1e-5,  # estimate: an operator call from Python on its slower cores
)

_DESKTOP_CPU = HardwareProfile.from_datasheet(
    "desktop-cpu",
    # AMD Ryzen 7 7700X specification: 8 cores at a base clock of 4.5 GHz; a Zen 4 core does two
    # 256-bit multiply-adds a cycle, 32 FLOP
    peak_flops_per_s=8 * 4.5e9 * 32,
    bandwidth_bytes_per_s=2 * 8 * 5.2e9,  # same: two 64-bit channels of DDR5-5200
    memory_bytes=128e9,  # same, the most it takes
    tdp_w=105,  # same, default TDP
    idle_power_w=20,  # estimate: package power of an idle desktop
    launch_overhead_s=3e-6,  # estimate: an operator call from Python
)

PROFILES: Mapping[str, HardwareProfile] = MappingProxyType(
    {profile.name: profile for profile in (_V100, _A100, _H100, _H200, _JETSON, _DESKTOP_CPU)}
)
"""The known devices by name."""
