"""Sums of products with zeros and ones on tensor cores, exact in the weight's own precision.

A float32 w has 24 significant bits: cut after the first 8, and what is left after its first 8, w is
the sum of three numbers of 8 bits, each a bfloat16. Zeros and ones are bfloat16 as well, so that
three products in bfloat16 add up the bits of w, as long as the last slice is a normal number
(|w| > 2⁻¹⁰⁹). Nothing is rounded but the sums, which are float32.
"""

import triton
import triton.language as tl
from torch import Tensor, float32

from spike_ops._triton._device import INTERPRETED

# the interpreter's bfloat16 is wrong: there, the same slices travel as float32
CARRIER = tl.float32 if INTERPRETED else tl.bfloat16


@triton.jit
def first_bits(w):  # type: ignore[no-untyped-def]
    """Return w cut after 8 significant bits: a number that bfloat16 holds, never larger than w."""
    return (w.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def remainder(w, part):  # type: ignore[no-untyped-def]
    """Return w - part, without the nan of infinite weights."""
    return tl.where(w == part, 0.0, w - part)


@triton.jit
def added(sums, s, w, SLICED: tl.constexpr, CARRIER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return sums + s w for zeros and ones s, the smallest slice first."""
    if SLICED:
        ones = s.to(CARRIER)
        first = first_bits(w)
        rest = remainder(w, first)
        second = first_bits(rest)
        third = remainder(rest, second)
        sums = tl.dot(ones, third.to(CARRIER), sums, input_precision="ieee")
        sums = tl.dot(ones, second.to(CARRIER), sums, input_precision="ieee")
        sums = tl.dot(ones, first.to(CARRIER), sums, input_precision="ieee")
    else:
        sums = tl.dot(s.to(w.dtype), w, sums)
    return sums


def is_sliced(weight: Tensor) -> bool:
    """Say whether a weight is cut into slices: where tensor cores have no product of its type."""
    return weight.dtype == float32
