"""A kernel of a linear layer and the LIF neurons behind it: no current ever leaves the chip.

Each program owns some neurons of some samples and goes through the time in chunks of a few steps:
their rows of the input are one tile of a product, whose sums then charge the membranes step after
step. The weight is read once a chunk; the membrane stays in registers; spikes leave as bits.
"""

import triton
import triton.language as tl

from spike_ops._triton._bits import packed_bits
from spike_ops._triton._lif_kernels import after_reset, is_fired, level_of
from spike_ops._triton._product_kernels import bits_at, packed_rows
from spike_ops._triton._slices import added


@triton.jit
def steps_of(sums, STEPS: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the steps of sums [STEPS * BATCH, COLUMNS], four of them or the same four times."""
    first, second, third, fourth = sums, sums, sums, sums
    if STEPS == 4:
        # the step is 2 i + j: [i, j, batch, columns]
        parts = tl.permute(tl.reshape(sums, (2, 2, BATCH, COLUMNS)), (2, 3, 0, 1))
        even, odd = tl.split(parts)
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def store_tile(P, bits, begin, rows, columns, width, WHOLE_BYTES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store zeros and ones from an element on, packed where the rows of the layer are bytes."""
    BATCH: tl.constexpr = bits.shape[0]
    COLUMNS: tl.constexpr = bits.shape[1]
    row = tl.arange(0, BATCH)[:, None]
    if WHOLE_BYTES:
        byte = tl.arange(0, COLUMNS // 8)[None, :]
        packed = packed_bits(tl.reshape(bits, (BATCH * COLUMNS // 8, 8)))
        packed = tl.reshape(packed, (BATCH, COLUMNS // 8))
        inside = (row < rows) & (byte < columns // 8)
        tl.store(P + begin // 8 + (row * (width // 8) + byte), packed, mask=inside)
    else:
        column = tl.arange(0, COLUMNS)[None, :]
        inside = (row < rows) & (column < columns)
        tl.store(P + begin + (row * width + column), bits.to(tl.uint8), mask=inside)


@triton.jit
def charged(  # type: ignore[no-untyped-def]
    x, v, begin, rows, columns, S, P, K, width,
    beta, gain, offset, threshold, v_reset, support, peak, a, b, c,
    RESET: tl.constexpr, STRICT: tl.constexpr, SURROGATE: tl.constexpr, KEEP: tl.constexpr,
    DENSE: tl.constexpr, PACKED: tl.constexpr, WHOLE_BYTES: tl.constexpr,
):  # fmt: skip
    """Return v after a step with currents x; store its spikes and what is kept of h.

    Elements of the step begin at `begin`; there are that many rows and columns of them.
    """
    h = gain * x + beta * v + offset
    u = h - threshold
    fired = is_fired(u, STRICT)
    row, column = tl.arange(0, x.shape[0])[:, None], tl.arange(0, x.shape[1])[None, :]
    at = row * width + column
    inside = (row < rows) & (column < columns)
    if DENSE:
        tl.store(S + begin + at, fired.to(S.dtype.element_ty), mask=inside)
    if PACKED:
        store_tile(P, fired, begin, rows, columns, width, WHOLE_BYTES)
    if KEEP == 1:
        tl.store(K + begin + at, h.to(K.dtype.element_ty), mask=inside)
    if KEEP == 2:
        store_tile(K, tl.abs(u) < support, begin, rows, columns, width, WHOLE_BYTES)
    if KEEP == 3:
        tl.store(K + begin + at, level_of(u, peak, a, b, c, SURROGATE), mask=inside)
    return after_reset(h, fired, threshold, v_reset, RESET)


@triton.jit
def currents_of(  # type: ignore[no-untyped-def]
    X, W, B, lines, total, columns, depth, N, row_bits, col_bits, w_row, w_col,
    BITS: tl.constexpr, IN_BYTES: tl.constexpr, BIAS: tl.constexpr, SLICED: tl.constexpr,
    CARRIER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return the currents of some lines of the input, which has `total` of them."""
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k0 in range(0, depth, DEPTH):
        ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
        exist = (ks[:, None] < depth) & (columns[None, :] < N)
        w = tl.load(W + ks[:, None] * w_row + columns[None, :] * w_col, mask=exist, other=0.0)
        exist = (lines[:, None] < total) & (ks[None, :] < depth)
        if BITS:
            if IN_BYTES:
                s = packed_rows(X, lines, k0, total, depth, ROWS, DEPTH)
            else:
                s = bits_at(X, lines, ks, exist, row_bits, col_bits)
            sums = added(sums, s, w, SLICED, CARRIER)
        else:
            x = tl.load(X + lines[:, None] * depth + ks[None, :], mask=exist, other=0.0)
            sums = tl.dot(x, w, sums, input_precision="ieee")
    if BIAS:
        sums += tl.load(B + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    return sums


@triton.jit(do_not_specialize=["steps", "M"])
def linear_lif_kernel(  # type: ignore[no-untyped-def]
    X, W, B, V, S, P, K, LAST,
    steps, M, depth, width, row_bits, col_bits, w_row, w_col,
    beta, gain, offset, threshold, v_reset, support, peak, a, b, c,
    BITS: tl.constexpr, IN_BYTES: tl.constexpr, BIAS: tl.constexpr, SLICED: tl.constexpr,
    CARRIER: tl.constexpr,
    RESET: tl.constexpr, STRICT: tl.constexpr, SURROGATE: tl.constexpr, KEEP: tl.constexpr,
    DENSE: tl.constexpr, PACKED: tl.constexpr, WHOLE_BYTES: tl.constexpr,
    STEPS: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Run all steps of BATCH samples of COLUMNS neurons; store spikes, what is kept, the last v."""
    first = tl.program_id(0).to(tl.int64) * BATCH
    corner = tl.program_id(1).to(tl.int64) * COLUMNS
    # of the tile: what is inside the layer
    rows, places = (M - first).to(tl.int32), (width - corner).to(tl.int32)
    row, column = tl.arange(0, BATCH)[:, None], tl.arange(0, COLUMNS)[None, :]
    begin, at = first * width + corner, row * width + column
    inside = (row < rows) & (column < places)
    v = tl.load(V + begin + at, mask=inside, other=0.0).to(tl.float32)
    line = tl.arange(0, STEPS * BATCH)
    total = steps * M.to(tl.int64)
    for t0 in range(0, steps, STEPS):
        # beyond the last line where there is no such sample
        lines = (t0 + line // BATCH) * M.to(tl.int64) + first + line % BATCH
        lines = tl.where(line % BATCH < rows, lines, total)
        sums = currents_of(
            X, W, B, lines, total, corner + tl.arange(0, COLUMNS), depth, width, row_bits, col_bits,
            w_row, w_col, BITS, IN_BYTES, BIAS, SLICED, CARRIER, STEPS * BATCH, COLUMNS, DEPTH,
        )  # fmt: skip
        parts = steps_of(sums, STEPS, BATCH, COLUMNS)
        for j in tl.static_range(STEPS):
            # the last chunk may reach beyond the last step
            exists = t0 + j < steps
            after = charged(
                parts[j], v, (t0 + j) * M.to(tl.int64) * width + begin, tl.where(exists, rows, 0),
                places, S, P, K, width,
                beta, gain, offset, threshold, v_reset, support, peak, a, b, c,
                RESET, STRICT, SURROGATE, KEEP, DENSE, PACKED, WHOLE_BYTES,
            )  # fmt: skip
            v = tl.where(exists, after, v)
    tl.store(LAST + begin + at, v.to(LAST.dtype.element_ty), mask=inside)
