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
    ("decode",): "piipp",
    ("turn",): "ppiippp",
    ("order",): "pppppppp",
    ("gather_f32", "gather_f64"): "ppiipiipi",
    ("add_f32", "add_f64"): "piipiipp",
    ("unpack_f32", "unpack_f64"): "pip",
    ("masked_f32", "masked_f64"): "piiiiippp",
    ("convolve_f32", "convolve_f64", "collect_f32", "collect_f64"): "ppppiipp",
}
_libraries: list[ctypes.CDLL] = []


def compile_kernels() -> None:
    """Build the event path's kernels with the machine's C compiler and use them from now on.

    It takes about a second, once a process. Products by additions are then the same to the bit as
    before (convolutions to rounding: their sums are taken in one go), and are decided by costs
    measured with the kernels. float32 and float64 on the CPU; everything else goes as before.

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
    return all(
        type(each) in PLAIN and each.device.type == "cpu" and not (wanted and each.requires_grad)
        for each in tensors
    )


def knows(dtype: torch.dtype) -> bool:
    """Say whether there are kernels for a data type."""
    return dtype in MARKS


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


def gather(entries: Tensor, borders: Tensor, table: Tensor, out: Tensor) -> None:
    """Write the sums of rows of a table into columns of a matrix: rows of both are contiguous."""
    width = table.shape[1]

    def part(first: int, last: int) -> None:
        sizes = (first, last, table, table.stride(0), width, out, out.stride(0))
        call(f"gather_{MARKS[table.dtype]}", entries, borders, *sizes)

    in_parts(len(out), len(entries) * width, part)


def add_rows(packed: Tensor, rows: int, table: Tensor) -> Tensor:
    """Return the sums of rows of a table [columns, N] that bits [rows, columns] name: [rows, N]."""
    columns, width = table.shape
    out, scratch = torch.empty(rows, width, dtype=table.dtype), _whole(columns)
    sizes = (rows, columns, table, table.stride(0), width)
    call(f"add_{MARKS[table.dtype]}", packed, *sizes, out, scratch)
    return out


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
    threads = max(min(torch.get_num_threads(), work // PER_THREAD, size), 1)
    if threads == 1:
        part(0, size)
        return
    from spike_ops._c_build import pool

    share = -(-size // threads)
    firsts = range(0, size, share)
    list(pool(threads).map(lambda first: part(first, min(first + share, size)), firsts))


def _whole(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32)


def call(name: str, *values: Any) -> None:
    """Call a kernel on numbers and on tensors, whose memory must be as it reads them."""
    told = [each.data_ptr() if isinstance(each, Tensor) else each for each in values]
    getattr(_libraries[0], name)(*told)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes what the functions take: p for a pointer, i for a number."""
    for names, kinds in FUNCTIONS.items():
        for name in names:
            # an attribute of the library is kept, an item of it is made anew each time
            function = getattr(library, name)
            letters: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64}
            function.argtypes = [letters[kind] for kind in kinds]
            function.restype = None
    return library
