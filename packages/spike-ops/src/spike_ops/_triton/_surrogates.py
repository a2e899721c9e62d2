"""Derivatives of the surrogates inside kernels: a number for each kind, and three constants."""

import triton
import triton.language as tl

from spike_ops import surrogate as kinds
from spike_ops.surrogate import Surrogate

# class -> names of its settings; its place is its number: first the smooth ones, then the others
SETTINGS: dict[type[Surrogate], tuple[str, ...]] = {
    kinds.Sigmoid: ("alpha",),
    kinds.ATan: ("alpha",),
    kinds.FastSigmoid: ("k",),
    kinds.Gaussian: ("width",),
    kinds.MultiGaussian: ("width", "height"),
    kinds.PiecewiseExponential: ("alpha",),
    kinds.SoftSign: ("alpha",),
    kinds.Rectangular: ("width",),
    kinds.Triangle: ("width", "gamma"),
    kinds.PiecewiseQuadratic: ("alpha",),
    kinds.LeakyRectangular: ("width", "height", "leak"),
    kinds.StraightThrough: (),
    kinds.LeakySpike: ("slope",),
    kinds.SparseFastSigmoid: ("k", "window"),
}
NUMBERS = {kind: number for number, kind in enumerate(SETTINGS)}


def row_of(surrogate: Surrogate) -> tuple[int, list[float]]:
    """Return the number of a surrogate's kind and its three constants.

    Raises:
        TypeError: There is no kernel for the surrogate.
    """
    kind = type(surrogate)
    if kind not in NUMBERS:
        raise TypeError(f"triton has no kernel for the surrogate {kind.__name__}")
    constants = [float(getattr(surrogate, name)) for name in SETTINGS[kind]]
    return NUMBERS[kind], constants + [0.0] * (3 - len(constants))


@triton.jit
def normal_at(u, mean, width):  # type: ignore[no-untyped-def]
    """Return the density of the normal distribution; 1 / √(2π) = 0.3989..."""
    z = (u - mean) / width
    return tl.exp(-0.5 * z * z) * (0.3989422804014327 / width)


@triton.jit
def smooth_slope_at(u, a, b, SURROGATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return σ'(u) of numbers 0 to 6."""
    size = tl.abs(u)
    slope = a / 2 / ((1 + a * size) * (1 + a * size))
    if SURROGATE == 0:
        # the exponential stays finite
        s = 1 / (1 + tl.exp(-tl.minimum(tl.maximum(a * u, -80.0), 80.0)))
        slope = a * s * (1 - s)
    if SURROGATE == 1:
        z = 1.5707963267948966 * a * u
        slope = a / 2 / (1 + z * z)
    if SURROGATE == 2:
        slope = 1 / ((1 + a * size) * (1 + a * size))
    if SURROGATE == 3:
        slope = normal_at(u, 0.0, a)
    if SURROGATE == 4:
        sides = normal_at(u, a, 6 * a) + normal_at(u, -a, 6 * a)
        slope = (1 + b) * normal_at(u, 0.0, a) - b * sides
    if SURROGATE == 5:
        slope = a / 2 * tl.exp(-a * size)
    return slope


@triton.jit
def slope_at(u, a, b, c, SURROGATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return σ'(u) of the surrogate of a number in `NUMBERS`; a, b and c are its settings."""
    size = tl.abs(u)
    slope = tl.full(u.shape, 1.0, tl.float32)
    if SURROGATE < 7:
        slope = smooth_slope_at(u, a, b, SURROGATE)
    if SURROGATE == 7:
        slope = tl.where(size < a / 2, 1 / a, 0.0)
    if SURROGATE == 8:
        slope = b * tl.maximum(1 - size / a, 0.0)
    if SURROGATE == 9:
        slope = tl.maximum(a - a * a * size, 0.0)
    if SURROGATE == 10:
        slope = tl.where(size < a, b, c)
    if SURROGATE == 12:
        slope = tl.where(u >= 0, 1.0, a)
    if SURROGATE == 13:
        slope = tl.where(size < b, 1 / ((1 + a * size) * (1 + a * size)), 0.0)
    return slope
