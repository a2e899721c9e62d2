"""The roofline of the processor this runs on, from three micro-benchmarks."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_SECONDS = 0.25  # for each benchmark
_SIZE = 768  # of the product: beyond the second-level cache, done in milliseconds
_COPY_BYTES = 64 * 2**20  # beyond the caches of most processors


class Speeds(NamedTuple):
    """What three kernels of numpy reached."""

    peak_flops_per_s: float
    bandwidth_bytes_per_s: float
    launch_overhead_s: float


def measure_cpu() -> Speeds:
    """Return the speed of a product, of a copy and of a call that does nothing, in about a second.

    The fastest of many repetitions counts for the first two: whatever else ran can only slow them.
    The median counts for the call, since overhead is what a usual call pays.
    """
    matrix = np.ones((_SIZE, _SIZE), dtype=np.float32)
    source = np.ones(_COPY_BYTES // 8)
    product, target = np.empty_like(matrix), np.empty_like(source)
    small, out = np.ones((1, 1), dtype=np.float32), np.empty((1, 1), dtype=np.float32)
    multiply = _times(lambda: np.matmul(matrix, matrix, out=product))
    copy = _times(lambda: np.copyto(target, source))
    call = _times(lambda: np.matmul(small, small, out=out))
    return Speeds(
        peak_flops_per_s=2 * _SIZE**3 / min(multiply),
        bandwidth_bytes_per_s=2 * _COPY_BYTES / min(copy),  # read once and written once
        launch_overhead_s=float(np.median(call)),
    )


def memory_bytes() -> float:
    """Return the main memory of this machine; 8 GB where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 8e9


def _times(run: Callable[[], object]) -> list[float]:
    run()  # warms caches and threads
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(max(time.perf_counter() - start, 1e-9))
    return times
