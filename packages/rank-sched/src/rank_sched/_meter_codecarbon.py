"""Energy through CodeCarbon."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rank_sched._errors import MeterError
from rank_sched._meter import EnergyWindow, check_window, optional_module
from rank_sched._numbers import number_in

_JOULES_PER_KWH = 3.6e6


class CodeCarbonMeter:
    """What CodeCarbon makes of processor, memory and GPUs, without its network and its files.

    CodeCarbon samples: it adds up power times time every `every_s` seconds. Memory is always
    a model, and so is the processor where it finds no counter, which it does not tell; the name
    therefore says estimated. Windows shorter than ten samples are refused.

    Args:
        every_s: Seconds between two samples.
        country: Three-letter code that CodeCarbon wants; it has no effect on the energy.
        clock: Returns seconds.

    Raises:
        MeterError: The extra `codecarbon` is not installed; at the end of a window, that it was
            too short or CodeCarbon has no figure.
    """

    name = "codecarbon (estimated)"

    def __init__(
        self,
        *,
        every_s: float = 1.0,
        country: str = "USA",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._module = optional_module("codecarbon", extra="codecarbon")
        self._every_s = number_in("every_s", every_s, 0.1, 3600.0)
        self._country, self._clock = country, clock

    @contextmanager
    def measure(self) -> Iterator[EnergyWindow]:
        """Measure the block, in joules; a tracker starts and stops around it."""
        window = EnergyWindow(self.name)
        tracker = self._started()
        start = self._clock()
        try:
            yield window
        except BaseException:
            with suppress(Exception):
                tracker.stop()
            raise
        seconds = self._clock() - start
        tracker.stop()
        check_window(seconds, shortest_s=10 * self._every_s)
        # CodeCarbon logs its own failures and goes on without a figure
        data = getattr(tracker, "final_emissions_data", None)
        if data is None:
            raise MeterError("CodeCarbon has no figure for the window; its log says why")
        window.close(energy_j=_JOULES_PER_KWH * float(data.energy_consumed), duration_s=seconds)

    def _started(self) -> Any:
        # one for each window: a tracker cannot be started twice
        tracker = self._module.OfflineEmissionsTracker(
            country_iso_code=self._country,
            measure_power_secs=self._every_s,
            save_to_file=False,
            log_level="error",
            allow_multiple_runs=True,
        )
        try:
            tracker.start()
        except Exception as error:
            # a constructor that failed has only logged it and left a tracker without its fields
            raise MeterError(f"CodeCarbon cannot start, its log says why: {error}") from None
        return tracker
