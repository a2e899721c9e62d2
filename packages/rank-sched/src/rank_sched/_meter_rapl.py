"""Energy of processor and memory from the counters of the processor itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rank_sched._errors import MeterError
from rank_sched._meter import EnergyWindow, check_window
from rank_sched._numbers import number_in

POWERCAP = Path("/sys/class/powercap")

# the counters advance about once a millisecond (Intel SDM, volume 3, section on RAPL interfaces)
_TICK_S = 1e-3
_FEWEST_TICKS = 10


@dataclass(frozen=True)
class _Zone:
    counter: Path
    range_uj: int

    def read_uj(self) -> int:
        return _read_int(self.counter)


class RaplMeter:
    """The energy counters of Linux powercap: all processor packages and their memory.

    Zones named `package-*` and `dram` are added up; the parts of a package and `psys`, which
    contains it, are not counted twice. A counter that starts anew within a window is handled; a
    window in which it could do so twice is refused, as is one shorter than ten ticks of the
    counter, whose figure would be mostly rounding.

    Args:
        root: The powercap folder of sysfs.
        max_power_w: The most one zone may draw, which bounds the length of a window: a counter
            with a range of 262 kJ allows 524 s at 500 W.
        clock: Returns seconds.

    Raises:
        MeterError: There is no counter, or it cannot be read; at the end of a window, that its
            length cannot be answered for.
    """

    name = "rapl"

    def __init__(
        self,
        root: Path | str = POWERCAP,
        *,
        max_power_w: float = 500.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._zones = _find_zones(Path(root))
        max_power_w = number_in("max_power_w", max_power_w, 1e-3, 1e6)
        self._longest_s = min(zone.range_uj for zone in self._zones) / 1e6 / max_power_w
        self._clock = clock

    @contextmanager
    def measure(self) -> Iterator[EnergyWindow]:
        """Measure the energy of the block, in joules, over all zones."""
        window, before, start = EnergyWindow(self.name), self._read_uj(), self._clock()
        yield window
        seconds, after = self._clock() - start, self._read_uj()
        self._check_length(seconds)
        used = sum(
            end - begin if end >= begin else end - begin + zone.range_uj
            for begin, end, zone in zip(before, after, self._zones, strict=True)
        )
        window.close(energy_j=used / 1e6, duration_s=seconds)

    def _read_uj(self) -> list[int]:
        return [zone.read_uj() for zone in self._zones]

    def _check_length(self, seconds: float) -> None:
        check_window(seconds, shortest_s=_FEWEST_TICKS * _TICK_S)
        if seconds > self._longest_s:
            raise MeterError(
                f"a window must last at most {self._longest_s:g} s, or the counter may start "
                f"anew twice, got {seconds:g} s: use several windows"
            )


def _find_zones(root: Path) -> list[_Zone]:
    folders = [
        folder for folder in sorted(root.glob("intel-rapl:*")) if _is_counted(folder / "name")
    ]
    if not folders:
        raise MeterError(f"no RAPL zone in {root}: not Linux, a virtual machine, or no driver")
    zones = [
        _Zone(folder / "energy_uj", _read_int(folder / "max_energy_range_uj")) for folder in folders
    ]
    for zone in zones:
        zone.read_uj()
    return zones


def _is_counted(name: Path) -> bool:
    try:
        text = name.read_text().strip()
    except OSError:
        return False
    return text.startswith("package") or text == "dram"


def _read_int(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        raise MeterError(
            f"{path} must be readable; by default only root may read it: grant read access"
        ) from None
    except (OSError, ValueError) as error:
        raise MeterError(f"{path} must hold a counter, got {error}") from None
