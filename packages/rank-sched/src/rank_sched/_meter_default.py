"""The best meter a machine has."""

from collections.abc import Mapping
from pathlib import Path

from rank_sched._errors import MeterError
from rank_sched._hardware import HardwareProfile
from rank_sched._meter import EnergyMeter
from rank_sched._meter_estimated import EstimatedMeter
from rank_sched._meter_rapl import POWERCAP, RaplMeter


def default_meter(
    profile: HardwareProfile | str | Mapping[str, float | str] = "desktop-cpu",
    *,
    root: Path | str = POWERCAP,
) -> EnergyMeter:
    """Return a `RaplMeter` where the counters can be read, else an `EstimatedMeter`.

    Args:
        profile: What the estimate assumes, if one is needed.
        root: The powercap folder of sysfs.

    >>> default_meter().name in ("rapl", "estimated")
    True
    """
    try:
        return RaplMeter(root)
    except MeterError:
        return EstimatedMeter(profile)
