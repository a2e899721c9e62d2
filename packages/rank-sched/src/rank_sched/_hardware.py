"""What a device can do, and what it draws while doing it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from numpy.typing import ArrayLike

from rank_sched._calibrate import fit_roofline
from rank_sched._machine import processor_name
from rank_sched._numbers import number_in
from rank_sched._this_cpu import measure_cpu, memory_bytes

# generous limits: from a microcontroller to a rack; beyond them a unit has been mistaken
_LIMITS = {
    "peak_flops_per_s": (1e6, 1e18),
    "bandwidth_bytes_per_s": (1e6, 1e16),
    "launch_overhead_s": (0.0, 1.0),
    "idle_power_w": (0.0, 1e5),
    "energy_per_flop_j": (0.0, 1.0),
    "energy_per_byte_j": (0.0, 1.0),
    "memory_bytes": (1e3, 1e18),
}
_MOST_POWER_W = 1e5


@dataclass(frozen=True)
class HardwareProfile:
    """The few numbers a roofline needs, each with its unit in its name.

    Attributes:
        name: What reports call it.
        peak_flops_per_s: FLOP per second; a multiply-add counts as two.
        bandwidth_bytes_per_s: Bytes per second to and from main memory.
        launch_overhead_s: Fixed time of one kernel or operator call.
        idle_power_w: Power drawn while doing nothing.
        energy_per_flop_j: Energy of one FLOP beyond idling.
        energy_per_byte_j: Energy of moving one byte beyond idling.
        memory_bytes: Capacity of the main memory.

    Raises:
        ValueError: A value is outside all that is built, alone or as the power it implies.
    """

    name: str
    peak_flops_per_s: float
    bandwidth_bytes_per_s: float
    launch_overhead_s: float
    idle_power_w: float
    energy_per_flop_j: float
    energy_per_byte_j: float
    memory_bytes: float

    def __post_init__(self) -> None:
        for field, (low, high) in _LIMITS.items():
            hint = "; is the unit right?"
            object.__setattr__(
                self, field, number_in(field, getattr(self, field), low, high, hint=hint)
            )
        if self.full_load_power_w > _MOST_POWER_W:
            raise ValueError(
                f"energy_per_flop_j={self.energy_per_flop_j:g} and "
                f"energy_per_byte_j={self.energy_per_byte_j:g} must imply at most "
                f"{_MOST_POWER_W:g} W at full load, got {self.full_load_power_w:g} W: "
                "real devices spend about 1e-12 to 1e-10 J on either; is the unit right?"
            )

    @property
    def full_load_power_w(self) -> float:
        """Power with arithmetic and memory both busy, in watts."""
        arithmetic = self.energy_per_flop_j * self.peak_flops_per_s
        return self.idle_power_w + arithmetic + self.energy_per_byte_j * self.bandwidth_bytes_per_s

    @classmethod
    def from_datasheet(
        cls,
        name: str,
        *,
        peak_flops_per_s: float,
        bandwidth_bytes_per_s: float,
        memory_bytes: float,
        tdp_w: float,
        idle_power_w: float,
        launch_overhead_s: float,
    ) -> Self:
        """Return a profile whose energies are estimated from the thermal design power.

        Datasheets give no energy per operation. What the device may draw beyond idling is split in
        halves, one for arithmetic at its peak and one for memory at its full bandwidth:
        e_F = (TDP - idle)/2/P and e_Q = (TDP - idle)/2/BW, so that `full_load_power_w` is the TDP.

        Raises:
            ValueError: The TDP is not above the idle power, or a value outside all that is built.

        >>> HardwareProfile.from_datasheet(
        ...     "example", peak_flops_per_s=10e12, bandwidth_bytes_per_s=1e12, memory_bytes=16e9,
        ...     tdp_w=250, idle_power_w=50, launch_overhead_s=5e-6,
        ... ).energy_per_flop_j
        1e-11
        """
        _check_powers(tdp_w, idle_power_w)
        return cls(
            name=name,
            peak_flops_per_s=peak_flops_per_s,
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            launch_overhead_s=launch_overhead_s,
            idle_power_w=idle_power_w,
            energy_per_flop_j=(tdp_w - idle_power_w) / 2 / peak_flops_per_s,
            energy_per_byte_j=(tdp_w - idle_power_w) / 2 / bandwidth_bytes_per_s,
            memory_bytes=memory_bytes,
        )

    @classmethod
    def this_cpu(cls, *, tdp_w: float = 105.0, idle_power_w: float = 20.0) -> Self:
        """Return the profile of the processor this runs on, measured in about a second.

        Peak, bandwidth and overhead are those of a product, a copy and an empty call of numpy, with
        the threads numpy uses. The energies follow from the powers given, as in `from_datasheet`;
        the defaults are guesses for a desktop.

        Raises:
            ValueError: `tdp_w` is not above `idle_power_w`.

        >>> HardwareProfile.this_cpu().peak_flops_per_s > 1e8
        True
        """
        _check_powers(tdp_w, idle_power_w)
        speeds = measure_cpu()
        return cls.from_datasheet(
            f"{processor_name()} (measured)",
            peak_flops_per_s=speeds.peak_flops_per_s,
            bandwidth_bytes_per_s=speeds.bandwidth_bytes_per_s,
            launch_overhead_s=speeds.launch_overhead_s,
            memory_bytes=memory_bytes(),
            tdp_w=tdp_w,
            idle_power_w=idle_power_w,
        )

    def calibrated(self, measurements: Sequence[Sequence[float]] | ArrayLike) -> Self:
        """Return this profile with peak, bandwidth and overhead fitted to measured times.

        Least squares of the relative error of t = max(F/P, Q/BW) + n·t0 over all ways to split the
        rows, by arithmetic intensity, into compute-bound and memory-bound ones. What no row
        depends on keeps its value, as do energies and memory.

        Args:
            measurements: Rows of (flops, traffic_bytes, launches, latency_s), `[N, 4]`, N >= 3.

        Raises:
            TypeError: Rows of anything but four numbers, such as those of a `PerfTable`.
            ValueError: Fewer than three rows, another width, or a value that is negative or not
                finite (zero, for times).

        >>> truth = HardwareProfile("x", 1e12, 1e11, 1e-5, 10, 1e-11, 1e-10, 1e9)
        >>> rows = [(1e9, 1e6, 1, 1.01e-3), (1e6, 1e9, 1, 1.001e-2), (0, 1e3, 100, 1.00001e-3)]
        >>> fitted = truth.calibrated(rows)
        >>> round(fitted.peak_flops_per_s / 1e9), round(fitted.bandwidth_bytes_per_s / 1e9)
        (1000, 100)
        """
        peak, bandwidth, overhead = fit_roofline(
            measurements,
            start=(self.peak_flops_per_s, self.bandwidth_bytes_per_s, self.launch_overhead_s),
        )
        return replace(
            self,
            name=f"{self.name} (calibrated)",
            peak_flops_per_s=peak,
            bandwidth_bytes_per_s=bandwidth,
            launch_overhead_s=overhead,
        )


def _check_powers(tdp_w: float, idle_power_w: float) -> None:
    high = number_in("tdp_w", tdp_w, 0.0, _MOST_POWER_W)
    low = number_in("idle_power_w", idle_power_w, *_LIMITS["idle_power_w"])
    if high <= low:
        raise ValueError(f"tdp_w must be above idle_power_w={low:g}, got {high:g}")
