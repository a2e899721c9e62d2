"""Energy of NVIDIA GPUs from the counters of their boards."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rank_sched._errors import MeterError
from rank_sched._meter import EnergyWindow, check_window, optional_module, synchronize_torch

# boards update the counter every 20 to 100 ms
_TICK_S = 0.1


class NvmlMeter:
    """The total-energy counters of NVIDIA GPUs, Volta and later, through `nvidia-ml-py`.

    What is counted is the whole board, whoever uses it; the processor is not. Older boards have no
    such counter and are refused. Windows shorter than ten updates, one second, are refused too.

    Args:
        gpus: Numbers in NVML's order (that of the PCI bus) or UUIDs; by default those of
            `CUDA_VISIBLE_DEVICES`, all without it.
        synchronize: Called before both readings, to wait for kernels still running; by default
            `torch.cuda.synchronize` if torch uses a GPU.
        clock: Returns seconds.

    Raises:
        MeterError: The extra `nvml` is not installed, or there is no driver, GPU or counter; at
            the end of a window, that it was too short.
    """

    name = "nvml"

    def __init__(
        self,
        gpus: Sequence[int | str] | None = None,
        *,
        synchronize: Callable[[], object] = synchronize_torch,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._nvml = optional_module("pynvml", extra="nvml")
        self._synchronize, self._clock = synchronize, clock
        try:
            self._nvml.nvmlInit()
            self._handles = [self._handle(gpu) for gpu in self._chosen(gpus)]
            self._read_mj()
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML cannot read an energy counter: {error}") from None
        if not self._handles:
            raise MeterError("NVML must see at least one GPU, got none")

    @contextmanager
    def measure(self) -> Iterator[EnergyWindow]:
        """Measure the energy of the block, in joules, over all GPUs."""
        window = EnergyWindow(self.name)
        self._synchronize()
        before, start = self._counters(), self._clock()
        yield window
        self._synchronize()
        seconds, after = self._clock() - start, self._counters()
        check_window(seconds, shortest_s=10 * _TICK_S)
        used = [end - begin for begin, end in zip(before, after, strict=True)]
        if min(used) < 0:
            raise MeterError("a counter fell within the window: the driver was loaded anew")
        window.close(energy_j=sum(used) / 1e3, duration_s=seconds)

    def _chosen(self, gpus: Sequence[int | str] | None) -> Sequence[int | str]:
        if gpus is not None:
            return gpus
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return range(self._nvml.nvmlDeviceGetCount())
        names = [name.strip() for name in visible.split(",") if name.strip()]
        return [int(name) if name.isdecimal() else name for name in names]

    def _handle(self, gpu: int | str) -> object:
        if isinstance(gpu, str):
            return self._nvml.nvmlDeviceGetHandleByUUID(gpu)
        return self._nvml.nvmlDeviceGetHandleByIndex(gpu)

    def _read_mj(self) -> list[int]:
        return [self._nvml.nvmlDeviceGetTotalEnergyConsumption(x) for x in self._handles]

    def _counters(self) -> list[int]:
        try:
            return self._read_mj()
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML cannot read an energy counter: {error}") from None
