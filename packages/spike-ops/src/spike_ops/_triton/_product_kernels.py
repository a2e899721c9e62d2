"""Kernels of S @ W for spikes S that stay packed in memory: [M, K] bits, W [K, N], sums float32.

Element (m, k) is bit `m row_bits + k col_bits` of the packed bytes: rows of S are (K, 1), rows of
its transpose (1, K). Addresses are 64-bit. A kernel with GUARD reads the number of spikes from the
device and does nothing unless its side of the limit is meant, so that the host never waits for it.
"""

import triton
import triton.language as tl

from spike_ops._triton._bits import unpacked_bits
from spike_ops._triton._slices import added

ALWAYS, ABOVE, UP_TO = 0, 1, 2  # values of GUARD


@triton.jit
def is_skipped(COUNT, limit, GUARD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Say whether another kernel is to run for this number of spikes."""
    skipped = False
    if GUARD == 1:
        skipped = tl.load(COUNT) <= limit
    if GUARD == 2:
        skipped = tl.load(COUNT) > limit
    return skipped


@triton.jit
def bits_at(P, rows, ks, exist, row_bits, col_bits):  # type: ignore[no-untyped-def]
    """Return the zeros and ones of rows [m] and columns [k], wherever their bits are."""
    at = rows[:, None] * row_bits + ks[None, :] * col_bits
    byte = tl.load(P + (at >> 3), mask=exist, other=0).to(tl.int32)
    return (byte >> (at & 7).to(tl.int32)) & 1


@triton.jit
def packed_rows(P, rows, k0, M, K, ROWS: tl.constexpr, DEPTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the zeros and ones [ROWS, DEPTH] of rows of whole bytes, each byte loaded once."""
    byte = (k0 >> 3) + tl.arange(0, DEPTH // 8)
    exist = (rows[:, None] < M) & (byte[None, :] < (K >> 3))
    packed = tl.load(P + rows[:, None] * (K >> 3) + byte[None, :], mask=exist, other=0)
    bits = unpacked_bits(tl.reshape(packed, (ROWS * DEPTH // 8,)))
    return tl.reshape(bits, (ROWS, DEPTH))


@triton.jit(do_not_specialize=["M", "N", "limit"])
def packed_kernel(  # type: ignore[no-untyped-def]
    P, W, Y, COUNT, limit,
    M, K, N, row_bits, col_bits, w_row, w_col,
    WHOLE_BYTES: tl.constexpr, GUARD: tl.constexpr, SLICED: tl.constexpr, CARRIER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store one tile of S W; the bits become zeros and ones in registers."""
    if is_skipped(COUNT, limit, GUARD):
        return
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k0 in range(0, K, DEPTH):
        ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
        if WHOLE_BYTES:
            s = packed_rows(P, rows, k0, M, K, ROWS, DEPTH)
        else:
            exist = (rows[:, None] < M) & (ks[None, :] < K)
            s = bits_at(P, rows, ks, exist, row_bits, col_bits)
        exist = (ks[:, None] < K) & (columns[None, :] < N)
        w = tl.load(W + ks[:, None] * w_row + columns[None, :] * w_col, mask=exist, other=0.0)
        sums = added(sums, s, w, SLICED, CARRIER)
    tl.store(
        Y + rows[:, None] * N + columns[None, :],
        sums.to(Y.dtype.element_ty),
        mask=(rows[:, None] < M) & (columns[None, :] < N),
    )


@triton.jit(do_not_specialize=["M", "limit"])
def union_kernel(  # type: ignore[no-untyped-def]
    P, INDEX, OFFSETS, MASKS, FOUND, COUNT, limit,
    M, K, row_bits, col_bits, w_row, chunk,
    EVENTS: tl.constexpr, GUARD: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store which columns of a chunk any row of a tile has a spike in, ascending; and how many.

    With EVENTS: where their rows of W begin, and in which rows of the tile they are, as bits.
    """
    if is_skipped(COUNT, limit, GUARD):
        return
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1).to(tl.int64) * chunk
    last = tl.minimum(first + chunk, K)
    # lists of a tile follow each other, as its chunks do
    begin = tl.program_id(0).to(tl.int64) * K + first
    found = 0
    for k0 in range(first, last, DEPTH):
        ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
        exist = (rows[:, None] < M) & (ks[None, :] < last)
        s = bits_at(P, rows, ks, exist, row_bits, col_bits)
        fired = tl.max(s, axis=0)
        at = begin + found + tl.cumsum(fired, 0) - fired
        if EVENTS:
            bit = tl.arange(0, ROWS)[:, None]
            tl.store(OFFSETS + at, ks * w_row, mask=fired > 0)
            tl.store(MASKS + at, tl.sum(s << bit, axis=0), mask=fired > 0)
        else:
            tl.store(INDEX + at, ks.to(tl.int32), mask=fired > 0)
        found += tl.sum(fired, axis=0)
    tl.store(FOUND + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), found)


@triton.jit(do_not_specialize=["M", "N", "limit"])
def compact_kernel(  # type: ignore[no-untyped-def]
    P, W, Y, INDEX, FOUND, COUNT, limit,
    M, K, N, row_bits, col_bits, w_row, w_col,
    GUARD: tl.constexpr, SLICED: tl.constexpr, CARRIER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store one tile of S W over the columns that any of its rows has a spike in."""
    if is_skipped(COUNT, limit, GUARD):
        return
    tile = tl.program_id(0).to(tl.int64)
    rows = tile * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    found = tl.load(FOUND + tile)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for i0 in range(0, found, DEPTH):
        entry = i0 + tl.arange(0, DEPTH)
        exists = entry < found
        ks = tl.load(INDEX + tile * K + entry, mask=exists, other=0).to(tl.int64)
        exist = (rows[:, None] < M) & exists[None, :]
        s = bits_at(P, rows, ks, exist, row_bits, col_bits)
        exist = exists[:, None] & (columns[None, :] < N)
        w = tl.load(W + ks[:, None] * w_row + columns[None, :] * w_col, mask=exist, other=0.0)
        sums = added(sums, s, w, SLICED, CARRIER)
    tl.store(
        Y + rows[:, None] * N + columns[None, :],
        sums.to(Y.dtype.element_ty),
        mask=(rows[:, None] < M) & (columns[None, :] < N),
    )


@triton.jit(do_not_specialize=["M", "N"])
def event_kernel(  # type: ignore[no-untyped-def]
    W, Y, OFFSETS, MASKS, FOUND,
    M, K, N, w_col, chunk,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Store what one chunk of K adds to a tile: rows of W are loaded and added, nothing else.

    The loop holds no multiplication: where a row of W begins is in the list. Every row of the tile
    adds the same entries, zeros where it did not fire, so that its sum is that of its own spikes.
    """
    tile, part = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    bit = tl.arange(0, ROWS)
    rows = tile * ROWS + bit
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tile * K + part * chunk
    W += columns * w_col
    OFFSETS += begin
    MASKS += begin
    found = tl.load(FOUND + tile * tl.num_programs(2) + part)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for i0 in range(0, found, AHEAD):
        # the loads of a few rows are under way at once
        for j in tl.static_range(AHEAD):
            exists = i0 + j < found
            offset = tl.load(OFFSETS + j, mask=exists, other=0)
            mask = tl.load(MASKS + j, mask=exists, other=0)
            # beyond the list: the first row of W, which no row of the tile adds
            w = tl.load(W + offset, mask=columns < N, other=0.0).to(tl.float32)
            fired = ((mask >> bit) & 1) != 0
            sums += tl.where(fired[:, None], w[None, :], 0.0)
        OFFSETS += AHEAD
        MASKS += AHEAD
    tl.store(
        Y + (part * M + rows[:, None]) * N + columns[None, :],
        sums.to(Y.dtype.element_ty),
        mask=(rows[:, None] < M) & (columns[None, :] < N),
    )
