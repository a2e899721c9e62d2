"""Energy of GPUs and processors through Zeus."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from rank_sched._errors import MeterError
from rank_sched._meter import EnergyWindow, check_window, optional_module

# the slowest of the counters Zeus reads, those of GPUs
_TICK_S = 0.1


class ZeusMeter:
    """All counters that a `ZeusMonitor` finds: NVIDIA and AMD GPUs, processors, their memory.

    The energy is the sum over GPUs, processor packages and memory; `ZeusMonitor` itself adds up
    GPUs alone. Windows shorter than ten updates of a GPU's counter, one second, are refused.

    Args:
        gpus: Numbers of the GPUs as the framework sees them; by default all.
        cpus: Numbers of the processor packages; by default all that may be read.

    Raises:
        MeterError: The extra `zeus` is not installed, or Zeus finds no counter; at the end of a
            window, that it was too short.
    """

    name = "zeus"

    def __init__(
        self, gpus: Sequence[int] | None = None, *, cpus: Sequence[int] | None = None
    ) -> None:
        monitor = optional_module("zeus.monitor", extra="zeus")
        try:
            self._monitor = monitor.ZeusMonitor(
                gpu_indices=None if gpus is None else list(gpus),
                cpu_indices=None if cpus is None else list(cpus),
            )
        except (RuntimeError, ValueError) as error:
            raise MeterError(f"Zeus cannot start: {error}") from None
        if not self._monitor.gpu_indices and not self._monitor.cpu_indices:
            raise MeterError("Zeus must find a counter of a GPU or a processor, found none")
        self._keys = count()

    @contextmanager
    def measure(self) -> Iterator[EnergyWindow]:
        """Measure the energy of the block, in joules, over all that Zeus found."""
        window, key = EnergyWindow(self.name), f"rank-sched {next(self._keys)}"
        # Zeus waits for the kernels of torch, and fails where there is no torch
        sync = "torch" in sys.modules
        self._monitor.begin_window(key, sync_execution=sync)
        try:
            yield window
        except BaseException:
            self._monitor.end_window(key, sync_execution=False, cancel=True)
            raise
        found = self._monitor.end_window(key, sync_execution=sync)
        check_window(found.time, shortest_s=10 * _TICK_S)
        parts = (found.gpu_energy, found.cpu_energy, found.dram_energy)
        joules = sum(sum(part.values()) for part in parts if part)
        window.close(energy_j=float(joules), duration_s=float(found.time))
