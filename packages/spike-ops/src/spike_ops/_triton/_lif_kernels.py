"""Kernels of a LIF layer over all its steps: the membrane stays in registers.

Each program runs some neurons, eight for each byte of packed spikes. Where the number of neurons
is no multiple of 8, bytes reach over two steps: spikes are then stored one byte each, and packed
by a kernel of its own. Arithmetic is float32 whatever the currents are, in the order of
`LifRule`, without fused products and sums: spikes are those of torch's operations.
"""

import triton
import triton.language as tl

from spike_ops._triton._bits import packed_bits, unpacked_bits
from spike_ops._triton._surrogates import slope_at

RESETS = {"none": 0, "soft": 1, "hard": 2}
KEPT = {"nothing": 0, "membrane": 1, "bits": 2, "bytes": 3}


@triton.jit
def store_bits(P, t, at, byte, bits, size, WHOLE_BYTES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store zeros and ones of step t, packed where steps are whole bytes."""
    if WHOLE_BYTES:
        tl.store(P + t * (size // 8) + byte, packed_bits(bits), mask=byte * 8 < size)
    else:
        tl.store(P + t * size + at, bits.to(tl.uint8), mask=at < size)


@triton.jit
def load_bits(P, t, at, byte, size, WHOLE_BYTES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return zeros and ones of step t of packed bits."""
    if WHOLE_BYTES:
        packed = tl.load(P + t * (size // 8) + byte, mask=byte * 8 < size, other=0)
        bits = unpacked_bits(packed)
    else:
        place = t * size + at
        packed = tl.load(P + (place >> 3), mask=at < size, other=0).to(tl.int32)
        bits = (packed >> (place & 7).to(tl.int32)) & 1
    return bits


@triton.jit
def is_fired(u, STRICT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return where u = h - θ reaches zero."""
    if STRICT:
        fired = u > 0
    else:
        fired = u >= 0
    return fired


@triton.jit
def level_of(u, peak, a, b, c, SURROGATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return σ'(u) as a byte: 255 levels up to its peak."""
    levels = slope_at(u, a, b, c, SURROGATE) * (255 / peak)
    # 1.5 * 2^23: the sum has no bits after the point, rounded half to even
    levels = (levels + 12582912.0) - 12582912.0
    return tl.minimum(tl.maximum(levels, 0.0), 255.0).to(tl.uint8)


@triton.jit
def after_reset(h, fired, threshold, v_reset, RESET: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return v after the step that came to h."""
    v = h
    if RESET == 1:
        v = tl.where(fired, h - threshold, h)
    if RESET == 2:
        v = tl.where(fired, v_reset, h)
    return v


@triton.jit(do_not_specialize=["steps"])
def lif_forward_kernel(  # type: ignore[no-untyped-def]
    X, V, S, P, K, LAST,
    steps, size,
    beta, gain, offset, threshold, v_reset, support, peak, a, b, c,
    RESET: tl.constexpr, STRICT: tl.constexpr, SURROGATE: tl.constexpr, KEEP: tl.constexpr,
    DENSE: tl.constexpr, PACKED: tl.constexpr, WHOLE_BYTES: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """Run all steps of BYTES * 8 neurons; store spikes, what is kept of h, and v at the end."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    at = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    exist = at < size
    v = tl.load(V + at, mask=exist, other=0.0).to(tl.float32)
    for step in range(steps):
        t = tl.cast(step, tl.int64)
        x = tl.load(X + t * size + at, mask=exist, other=0.0).to(tl.float32)
        h = gain * x + beta * v + offset
        u = h - threshold
        fired = is_fired(u, STRICT)
        if DENSE:
            tl.store(S + t * size + at, fired.to(S.dtype.element_ty), mask=exist)
        if PACKED:
            store_bits(P, t, at, byte, fired, size, WHOLE_BYTES)
        if KEEP == 1:
            tl.store(K + t * size + at, h.to(K.dtype.element_ty), mask=exist)
        if KEEP == 2:
            store_bits(K, t, at, byte, tl.abs(u) < support, size, WHOLE_BYTES)
        if KEEP == 3:
            level = level_of(u, peak, a, b, c, SURROGATE)
            tl.store(K + t * size + at, level, mask=exist)
        v = after_reset(h, fired, threshold, v_reset, RESET)
    tl.store(LAST + at, v.to(LAST.dtype.element_ty), mask=exist)


@triton.jit(do_not_specialize=["steps"])
def lif_backward_kernel(  # type: ignore[no-untyped-def]
    GS, GV, P, K, GX, FIRST,
    steps, size,
    beta, gain, offset, threshold, v_reset, support, peak, a, b, c,
    RESET: tl.constexpr, STRICT: tl.constexpr, DETACH: tl.constexpr, SURROGATE: tl.constexpr,
    KEEP: tl.constexpr, PACKED: tl.constexpr, WHOLE_BYTES: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """Go back through all steps of BYTES * 8 neurons; store the gradients of x and of v."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    at = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    exist = at < size
    gv = tl.load(GV + at, mask=exist, other=0.0).to(tl.float32)
    for step in range(steps):
        t = tl.cast(steps - 1 - step, tl.int64)
        g = tl.load(GS + t * size + at, mask=exist, other=0.0).to(tl.float32)
        h = tl.zeros((BYTES, 8), dtype=tl.float32)
        if KEEP == 1:
            h = tl.load(K + t * size + at, mask=exist, other=0.0).to(tl.float32)
            slope = slope_at(h - threshold, a, b, c, SURROGATE)
        elif KEEP == 2:
            slope = load_bits(K, t, at, byte, size, WHOLE_BYTES) * peak
        else:
            level = tl.load(K + t * size + at, mask=exist, other=0)
            slope = level.to(tl.float32) * (peak / 255)
        if PACKED:
            fired = load_bits(P, t, at, byte, size, WHOLE_BYTES) != 0
        else:
            fired = is_fired(h - threshold, STRICT)
        if not DETACH:
            if RESET == 1:
                g -= threshold * gv
            if RESET == 2:
                g += (v_reset - h) * gv
        passed = gv
        if RESET == 2:
            passed = tl.where(fired, 0.0, gv)
        gh = g * slope + passed
        tl.store(GX + t * size + at, (gain * gh).to(GX.dtype.element_ty), mask=exist)
        gv = beta * gh
    tl.store(FIRST + at, gv.to(FIRST.dtype.element_ty), mask=exist)
