"""A LIF layer's passes on a GPU as operators, for compiled graphs too.

Their `numbers` are β, g, c, θ, v_r, half the surrogate's window, its peak and its three constants;
their `flags` are the reset (0 none, 1 soft, 2 hard), whether it is detached, whether the threshold
has to be passed, and the surrogate's number. Tensors that are not asked for come back empty.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from spike_ops._bits import bytes_needed
from spike_ops._triton._bits import pack
from spike_ops._triton._device import EXACT, check_device, check_floats
from spike_ops._triton._lif_kernels import (
    KEPT,
    RESETS,
    lif_backward_kernel,
    lif_forward_kernel,
)
from spike_ops._triton._surrogates import row_of
from spike_ops.neuron._lif_rule import LifRule

# one warp runs the neurons of this many bytes, by bytes of a current: each thread loads 16 bytes,
# and with more warps packing would need a barrier in every step
BYTES = {4: 16, 2: 32}
OPTIONS = {"num_warps": 1, "num_stages": 2} | EXACT


class LifNumbers(NamedTuple):
    """A rule as the operators take it."""

    numbers: list[float]
    flags: list[int]


def numbers_of(rule: LifRule) -> LifNumbers:
    """Return a rule as the operators take it.

    Raises:
        ValueError: The rule resets one step later.
        TypeError: There is no kernel for its surrogate.
    """
    if rule.reset_delay:
        raise ValueError("triton has no kernel for reset_delay")
    kind, constants = row_of(rule.surrogate)
    window = rule.surrogate.support or 0.0
    numbers = [rule.beta, rule.gain, rule.offset, rule.threshold, rule.v_reset, window]
    flags = [RESETS[rule.reset], int(rule.detach_reset), int(rule.strict), kind]
    return LifNumbers([*numbers, rule.surrogate.peak, *constants], flags)


@torch.library.custom_op("spike_ops::triton_lif", mutates_args=())
def lif_forward(
    x: Tensor,
    v: Tensor,
    numbers: list[float],
    flags: list[int],
    kept: str,
    dense: bool,
    packed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return spikes [T, n], their bits, what is kept of h, and v [n] after currents x [T, n].

    What is kept is h ("membrane", in the type of x), the bits of the window ("bits"), σ' as bytes
    ("bytes") or "nothing".
    """
    check_device(x, v)
    check_floats(x, v)
    x, v, last = x.contiguous(), v.contiguous(), torch.empty_like(v.contiguous())
    spikes, bits, saved = memory(x, len(x), v.numel(), v.numel() % 8 == 0, kept, dense, packed)
    reset, _, strict, surrogate = flags
    if v.numel():
        lif_forward_kernel[_grid(x)](
            x, v, spikes, bits, saved, last, *x.shape, *numbers,
            RESET=reset, STRICT=bool(strict), SURROGATE=surrogate, KEEP=KEPT[kept],
            DENSE=dense, PACKED=packed, WHOLE_BYTES=v.numel() % 8 == 0,
            BYTES=BYTES[x.element_size()], **OPTIONS,
        )  # fmt: skip
    if v.numel() % 8:
        bits = pack(bits) if packed else bits
        saved = pack(saved) if kept == "bits" else saved
    return spikes, bits, saved, last


@lif_forward.register_fake
def _(
    x: Tensor,
    v: Tensor,
    numbers: list[float],
    flags: list[int],
    kept: str,
    dense: bool,
    packed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del numbers, flags
    bits = x.new_empty(bytes_needed(x.numel()), dtype=torch.uint8)
    saved = {"membrane": x, "bits": bits, "bytes": x, "nothing": bits[:0]}[kept]
    kind = x.dtype if kept == "membrane" else torch.uint8
    spikes = x.new_empty(x.shape if dense else (0,))
    bits = bits if packed else bits[:0]
    return (
        spikes, bits.new_empty(bits.shape), saved.new_empty(saved.shape, dtype=kind),
        v.new_empty(v.shape),
    )  # fmt: skip


@torch.library.custom_op("spike_ops::triton_lif_backward", mutates_args=())
def lif_backward(
    gs: Tensor,
    gv: Tensor,
    bits: Tensor,
    saved: Tensor,
    numbers: list[float],
    flags: list[int],
    kept: str,
) -> tuple[Tensor, Tensor]:
    """Return gx [T, n] and gv [n] before the first step; `bits` may be empty beside "membrane"."""
    check_device(gs, gv)
    check_floats(gs, gv)
    gs, gv = gs.contiguous(), gv.contiguous()
    gx, first = torch.empty_like(gs), torch.empty_like(gv)
    reset, detach, strict, surrogate = flags
    if gv.numel():
        lif_backward_kernel[_grid(gs)](
            gs, gv, bits, saved, gx, first, *gs.shape, *numbers,
            RESET=reset, STRICT=bool(strict), DETACH=bool(detach), SURROGATE=surrogate,
            KEEP=KEPT[kept], PACKED=bits.numel() > 0, WHOLE_BYTES=gv.numel() % 8 == 0,
            BYTES=BYTES[gs.element_size()], **OPTIONS,
        )  # fmt: skip
    return gx, first


@lif_backward.register_fake
def _(
    gs: Tensor,
    gv: Tensor,
    bits: Tensor,
    saved: Tensor,
    numbers: list[float],
    flags: list[int],
    kept: str,
) -> tuple[Tensor, Tensor]:
    del bits, saved, numbers, flags, kept
    return gs.new_empty(gs.shape), gv.new_empty(gv.shape)


def memory(
    like: Tensor, steps: int, size: int, whole_bytes: bool, kept: str, dense: bool, packed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a kernel writes [steps, size] to: bits one byte each where not whole bytes."""
    shape = steps, size
    bits: Any = (steps * size // 8,) if whole_bytes else shape
    shapes = {"membrane": shape, "bits": bits, "bytes": shape, "nothing": (0,)}
    return (
        like.new_empty(shape if dense else (0,)),
        like.new_empty(bits if packed else (0,), dtype=torch.uint8),
        like.new_empty(shapes[kept], dtype=like.dtype if kept == "membrane" else torch.uint8),
    )


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(bytes_needed(x.shape[1]), BYTES[x.element_size()]),)
