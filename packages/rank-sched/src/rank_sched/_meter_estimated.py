"""Energy from time alone."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rank_sched._hardware import HardwareProfile
from rank_sched._meter import EnergyWindow
from rank_sched._numbers import number_in
from rank_sched._read_hardware import read_hardware


class EstimatedMeter:
    """An energy meter for machines without one: assumed power times measured time.

    The power is P_idle + utilization·(P_full - P_idle) of the profile. It says nothing that a clock
    does not say; its name keeps reports honest.

    Args:
        profile: A `HardwareProfile`, or whatever `PerfEstimator` accepts.
        utilization: Assumed share of the full load, 0..1.
        clock: Returns seconds.

    >>> meter = EstimatedMeter("desktop-cpu")
    >>> with meter.measure() as window:
    ...     total = sum(range(1000))
    >>> window.meter, round(window.energy_j / window.duration_s)
    ('estimated', 105)
    """

    name = "estimated"

    def __init__(
        self,
        profile: HardwareProfile | str | Mapping[str, float | str],
        *,
        utilization: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.profile = read_hardware(profile)
        share = number_in("utilization", utilization, 0.0, 1.0)
        idle = self.profile.idle_power_w
        self.power_w = idle + share * (self.profile.full_load_power_w - idle)
        self._clock = clock

    @contextmanager
    def measure(self) -> Iterator[EnergyWindow]:
        """Measure the time of the block and multiply it by the assumed power."""
        window, start = EnergyWindow(self.name), self._clock()
        yield window
        seconds = self._clock() - start
        window.close(energy_j=self.power_w * seconds, duration_s=seconds)
