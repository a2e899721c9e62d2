"""The best meter a machine has."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from rank_sched._errors import MeterError
from rank_sched._hardware import HardwareProfile
from rank_sched._meter import EnergyMeter
from rank_sched._meter_estimated import EstimatedMeter
from rank_sched._meter_nvml import NvmlMeter
from rank_sched._meter_rapl import POWERCAP, RaplMeter

logger = logging.getLogger(__name__)


def default_meter(
    profile: HardwareProfile | str | Mapping[str, float | str] = "desktop-cpu",
    *,
    root: Path | str = POWERCAP,
    gpu: bool | None = None,
) -> EnergyMeter:
    """Return the first of these that works; its `name` says which.

    1. `NvmlMeter`, if a GPU does the work.
    2. `RaplMeter`, if none does: the counter of a processor knows nothing of a GPU.
    3. `EstimatedMeter`, where the counter cannot be read; a log says why: a warning for a GPU,
       since `profile` then stands for another device unless it names that GPU.

    Args:
        profile: What the estimate assumes, if one is needed.
        root: The powercap folder of sysfs.
        gpu: Whether a GPU does the work; by default, whether torch has used one in this process.

    >>> default_meter().name in ("nvml", "rapl", "estimated")
    True
    """
    gpu = _torch_uses_a_gpu() if gpu is None else gpu
    try:
        return NvmlMeter() if gpu else RaplMeter(root)
    except MeterError as error:
        meter = EstimatedMeter(profile)
        level = logging.WARNING if gpu else logging.INFO
        logger.log(level, "energy is estimated by profile %r: %s", meter.profile.name, error)
        return meter


def _torch_uses_a_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
