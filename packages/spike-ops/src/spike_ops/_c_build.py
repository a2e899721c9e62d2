"""Building C by the machine's compiler, and calling it on tensors, on several threads."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

# contraction would round differently from torch; the others allow vector code and change no value
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# of a core's second-level cache, for what a block keeps over all steps
SCRATCH_BYTES = 512 * 1024
WIDEST, NARROWEST = 131_072, 64
# fewer neuron-steps than these are done before a second thread has started
PER_THREAD = 200_000
PLAIN = {Tensor, torch.nn.Parameter}


class CompilerError(RuntimeError):
    """There is no C compiler, or it refused what it was given."""


def compiler() -> str | None:
    """Return the C compiler: `$CC`, else the first of cc, gcc and clang; None without one."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@lru_cache(maxsize=256)
def load(source: str) -> ctypes.CDLL:
    """Return the library of C source, built now; the same source is built once a process.

    Raises:
        CompilerError: There is no compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise CompilerError("no C compiler found: set CC, or install gcc or clang")
    with tempfile.TemporaryDirectory(prefix="spike_ops_") as folder:
        file, library = Path(folder, "run.c"), Path(folder, "run.so")
        file.write_text(source)
        told = [command, *FLAGS, "-shared", "-fPIC", "-o", str(library), str(file), "-lm"]
        done = subprocess.run(told, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompilerError(f"{command} failed: {done.stderr.strip()[-2000:]}")
        return ctypes.CDLL(str(library))  # stays loaded when the file is gone


def function(source: str, name: str) -> Callable[..., None]:
    """Return a function of C source, built if it is not yet."""
    found = load(source)[name]
    found.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_void_p] * 3
    found.restype = None
    return found


def check(data: Sequence[Tensor], kinds: Sequence[torch.dtype]) -> None:
    """Raise unless the memory of tensors is what a function reads: it would not notice.

    Raises:
        TypeError: A tensor is none of torch's own, elsewhere, not in order, or of another type.
    """
    for each, kind in zip(data, kinds, strict=True):
        plain = type(each) in PLAIN and each.is_cpu and each.is_contiguous()
        if not plain or each.dtype is not kind:
            got = f"{type(each).__name__} of {each.dtype} on {each.device}"
            raise TypeError(f"kernels need plain tensors in order, of {kind} on the CPU, got {got}")


def call(
    run: Callable[..., None],
    shape: tuple[int, int],
    rows: int,
    data: Sequence[Tensor],
    numbers: Sequence[float],
) -> None:
    """Run a built function on steps and neurons; `rows` numbers of scratch memory for each."""
    steps, size = shape
    constants = (ctypes.c_double * len(numbers))(*numbers)
    pointers = (ctypes.c_void_p * len(data))(*[each.data_ptr() for each in data])
    dtype = next(each.dtype for each in data if each.is_floating_point())
    width = max(min(SCRATCH_BYTES // (rows * dtype.itemsize), WIDEST, size), NARROWEST)
    threads = max(min(torch.get_num_threads(), steps * size // PER_THREAD), 1)
    share = -(-size // threads // NARROWEST) * NARROWEST

    def part(low: int) -> None:
        scratch = torch.empty(rows * width, dtype=dtype, device="cpu")
        high = min(low + share, size)
        run(steps, size, low, high, width, pointers, scratch.data_ptr(), constants)

    if threads == 1:
        part(0)
    else:
        list(pool(threads).map(part, range(0, size, share)))


@lru_cache(maxsize=8)
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="spike_ops")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # threads do not survive a fork
