"""The event path in C, once it is asked for: the same sums, found and added with less around them.

Nothing is built unless `compile_kernels` is called. Without it, numpy finds the spikes and
`torch.embedding_bag` adds them.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spike_ops._calibration import NATIVE, replace_default

# fewer additions than these are done before a second thread has started
PER_THREAD = 1_000_000
MARKS = {torch.float32: "f32", torch.float64: "f64"}
PLAIN = {Tensor, torch.nn.Parameter}
FUNCTIONS = {
    ("count",): "pi",
    ("decode",): "piipp",
    ("turn",): "ppiippp",
    ("flip",): "piiip",
    ("order",): "pppppppp",
    ("gather_f32", "gather_f64"): "ppiipiipi",
    ("add_f32", "add_f64"): "piipiiiip",
    ("short_f32", "short_f64"): "piiipip",
    ("table_f32", "table_f64"): "piipiiiipp",
    ("unpack_f32", "unpack_f64"): "pip",
    ("masked_f32", "masked_f64"): "piiiiippp",
    ("convolve_f32", "convolve_f64", "collect_f32", "collect_f64"): "ppppiipp",
}
wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # by vmap and its kin: no data
_libraries: list[ctypes.CDLL] = []


def compile_kernels() -> None:
    """Build the event path's kernels with the machine's C compiler and use them from now on.

    It takes about a second, once a process. Products by additions are then the same to the bit as
    before (convolutions to rounding: their sums are taken in one go), and are decided by costs
    measured with the kernels. Dense products are the same to rounding: they are looked up in tables
    of the sums of rows of the weight, where that is cheaper than multiplying. float32 and float64
    on the CPU; everything else goes as before.

    Raises:
        spike_ops.neuron.CompilerError: There is no C compiler, or it fails.
    """
    from spike_ops._c_build import load
    from spike_ops._native_source import source

    if not _libraries:
        _libraries.append(_declare(load(source())))
        replace_default(NATIVE)


def compiled() -> bool:
    """Say whether the kernels are in use."""
    return bool(_libraries)


def takes(*tensors: Tensor) -> bool:
    """Say whether the kernels can be called on tensors: real data here, no gradient wanted."""
    if not _libraries or torch.compiler.is_compiling():
        return False
    wanted = torch.is_grad_enabled()
    for each in tensors:
        if type(each) not in PLAIN or not each.is_cpu or (wanted and each.requires_grad):
            return False
        if wrapped(each) or each.is_neg():  # whose sign is not in its memory
            return False
    return True


def knows(dtype: torch.dtype) -> bool:
    """Say whether there are kernels for a data type."""
    return dtype in MARKS


def count(packed: Tensor) -> int:
    """Return how many bits are set."""
    run: Callable[..., int] = _libraries[0].count
    return run(packed.data_ptr(), packed.numel())


def decode(packed: Tensor, rows: int, columns: int, count: int) -> tuple[Tensor, Tensor]:
    """Return the columns that fired, row after row, and where each row begins: [rows + 1]."""
    entries, borders = _whole(count), _whole(rows + 1)
    call("decode", packed, rows, columns, entries, borders)
    return entries, borders


def turn(entries: Tensor, borders: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Return the rows that fired, column after column, and where each column begins."""
    turned, begins, scratch = _whole(len(entries)), _whole(columns + 1), _whole(columns)
    call("turn", entries, borders, len(borders) - 1, columns, turned, begins, scratch)
    return turned, begins


def flip(packed: Tensor, samples: int, channels: int, plane: int) -> Tensor:
    """Return bits [samples, channels, plane] as [samples, plane, channels], in whole bytes."""
    out = torch.empty_like(packed)
    call("flip", packed, samples, channels, plane, out)
    return out


def gather(entries: Tensor, borders: Tensor, table: Tensor, out: Tensor) -> None:
    """Write the sums of rows of a table into columns of a matrix: rows of both are contiguous."""
    width = table.shape[1]

    def part(first: int, last: int) -> None:
        sizes = (first, last, table, table.stride(0), width, out, out.stride(0))
        call(f"gather_{MARKS[table.dtype]}", entries, borders, *sizes)

    in_parts(len(out), len(entries) * width, part)


def unpack(packed: Tensor, out: Tensor) -> Tensor:
    """Return `out`, contiguous, written over with the ones and zeros of bits."""
    call(f"unpack_{MARKS[out.dtype]}", packed, out.numel(), out)
    return out


def order(
    packed: Tensor, sizes: tuple[int, ...], key: Tensor, shift: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return spikes in the order of their places: samples, groups, channels, plane, places."""
    entries, borders = _whole(count), _whole(sizes[0] * sizes[1] * sizes[4] + 1)
    scratch = _whole(2 * count)
    known = (ctypes.c_int64 * 5)(*sizes)
    call("order", packed, known, key, shift, entries, borders, scratch, scratch[count:])
    return entries, borders


def walk(
    name: str,
    spikes: tuple[Tensor, Tensor],
    source: Tensor,
    sizes: tuple[int, ...],
    span: tuple[int, int],
    tensors: tuple[Tensor, Tensor],
) -> None:
    """Walk along a convolution: `"convolve"` into the result, `"collect"` into the table."""
    known = (ctypes.c_int64 * len(sizes))(*sizes)
    kernel = f"{name}_{MARKS[tensors[0].dtype]}"
    call(kernel, *spikes, source, known, *span, *tensors)


def in_parts(size: int, work: int, part: Callable[[int, int], None]) -> None:
    """Call a function on parts of 0..size, on as many threads as the work is worth."""
    threads = min(torch.get_num_threads(), work // PER_THREAD, size) if work > PER_THREAD else 1
    if threads <= 1:
        part(0, size)
        return
    from spike_ops._c_build import pool

    share = -(-size // threads)
    firsts = range(0, size, share)
    list(pool(threads).map(lambda first: part(first, min(first + share, size)), firsts))


def _whole(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32, device="cpu")


def call(name: str, *values: Any) -> None:
    """Call a kernel on numbers and on tensors, whose memory must be as it reads them."""
    told = [each.data_ptr() if isinstance(each, Tensor) else each for each in values]
    kernel(name)(*told)


def kernel(name: str) -> Callable[..., None]:
    """Return a kernel, which takes numbers and addresses."""
    run: Callable[..., None] = getattr(_libraries[0], name)
    return run


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes what the functions take: p for a pointer, i for a number."""
    for names, kinds in FUNCTIONS.items():
        for name in names:
            # an attribute of the library is kept, an item of it is made anew each time
            function = getattr(library, name)
            letters: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64}
            function.argtypes = [letters[kind] for kind in kinds]
            function.restype = ctypes.c_int64 if name == "count" else None
    return library
