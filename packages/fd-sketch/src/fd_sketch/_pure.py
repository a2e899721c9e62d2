"""Steps of Frequent Directions that write nothing in place, for any number of sketches at once."""

import sys
from typing import Any

import array_api_compat as compat
import numpy as np

from fd_sketch._arrays import Array, namespace


def library(A: Array, name: str = "X") -> Any:
    """Return the Array API namespace of an array, in a way that compilers can follow.

    Raises:
        TypeError: `A` is no array.
        ValueError: jax is without float64.
    """
    if isinstance(A, np.ndarray):
        return namespace(A)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(A, torch.Tensor):
        import array_api_compat.torch as torch_namespace

        return torch_namespace
    if isinstance(A, type) or not compat.is_array_api_obj(A):
        raise TypeError(f"{name} must be an array, got {type(A).__name__}")
    if compat.is_jax_array(A) and not sys.modules["jax"].config.jax_enable_x64:
        raise ValueError(f"{name} must come with jax_enable_x64: a bound is a sum in float64")
    return compat.array_namespace(A)


def zeros(like: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return zeros beside another array."""
    return library(like).zeros(shape, dtype=dtype, **_beside(like))


def counted(like: Array, n: int) -> Array:
    """Return 0, ..., n - 1 beside another array."""
    return library(like).arange(n, **_beside(like))


def _beside(like: Array) -> dict[str, Any]:
    """Return the arguments that make an array on the device of another one."""
    # numpy has one device, and arrays that jax traces have none
    known = not isinstance(like, np.ndarray) and hasattr(like, "device")
    return {"device": like.device} if known else {}


def taken(Z: Array, used: Array, rows: Array, size: int) -> tuple[Array, Array, Array]:
    """Return the rows with up to `Z.shape[-2] - size` more, how many are in use, and delta.

    Where they do not fit, `Z` is filled and shrunk to `size` rows before the rest comes in.
    """
    capacity, n = Z.shape[-2], rows.shape[-2]
    if is_known(used):
        return _taken_at(Z, used, rows, size)
    xp, full, room = library(Z), used + n > capacity, capacity - used
    filled = placed(Z, rows, used, 0)
    B, delta = shrunk(filled, size)
    after = placed(xp.concat([B, Z[..., size:, :] * 0], axis=-2), rows, used * 0 + size, room)
    return (
        xp.where(full, after, filled),
        xp.where(full, size + n - room, used + n),
        xp.where(full, delta, delta * 0.0),
    )


def _taken_at(Z: Array, used: Array, rows: Array, size: int) -> tuple[Array, Array, Array]:
    """Return what `taken` does, with no more work than the number of rows in use asks for."""
    xp, at, n = library(Z), int(used), rows.shape[-2]
    room = Z.shape[-2] - at
    parts = [Z[..., :at, :], rows[..., :room, :], Z[..., at + n :, :]]
    filled = xp.concat(parts, axis=-2)
    if n <= room:
        return filled, used + n, filled[..., 0, 0] * 0
    B, delta = shrunk(filled, size)
    rest = zeros(Z, (*Z.shape[:-2], Z.shape[-2] - size - n + room, Z.shape[-1]), Z.dtype)
    Z = xp.concat([B, rows[..., room:, :], rest], axis=-2)
    return Z, used * 0 + (size + n - room), delta


def is_known(A: Array) -> bool:
    """Return whether the values are there, and not only their place in a graph."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(A, torch.Tensor):
        return not torch.compiler.is_compiling()
    jax = sys.modules.get("jax")
    return jax is None or not isinstance(A, jax.core.Tracer)


def placed(Z: Array, rows: Array, at: Array, skip: Any) -> Array:
    """Return `Z` [..., c, d] with the rows from `skip` on in place of its rows from `at` on."""
    xp, n = library(Z), rows.shape[-2]
    if n == 0:
        return Z
    p = counted(Z, Z.shape[-2])
    source = p - at + skip
    inside = (p >= at) & (source < n)
    moved = xp.take(rows, xp.clip(source, 0, n - 1), axis=-2)
    return xp.where(inside[:, None], moved, Z)


def shrunk(Z: Array, size: int) -> tuple[Array, Array]:
    """Return `B` [..., size, d] and delta [...] with `0 <= Z'Z - B'B <= delta I`.

    The batched form of the step of `FrequentDirections`, from the eigenvalues in float64 of the
    smaller one of `Z Z'` and `Z'Z`. Rows beyond the rank are zero.
    """
    xp, (r, d) = library(Z), Z.shape[-2:]
    n, wide = min(r, d), r <= d
    unit = _unit(Z)
    Y = Z * xp.astype(unit, Z.dtype)
    Yt = xp.matrix_transpose(Y)
    lam, U = xp.linalg.eigh(xp.astype(Y @ Yt if wide else Yt @ Y, xp.float64))
    lam, U = xp.flip(xp.clip(lam, 0.0, None), axis=-1), xp.flip(U, axis=-1)
    delta = lam[..., size : size + 1] if size < n else lam[..., :1] * 0.0
    lam, Ut = lam[..., :size], xp.matrix_transpose(U[..., :, :size])
    # what is left of an exact zero after rounding
    floor = lam[..., :1] * (n * float(np.finfo(np.float64).eps))
    fine = (lam > delta) & (lam > floor)
    some = xp.where(fine, lam, xp.ones_like(lam))
    share = (some - delta) / some if wide else some - delta
    w = xp.sqrt(xp.where(fine, share, lam * 0.0))
    if wide:
        B = xp.astype(w[..., None] * Ut, Z.dtype) @ Z
    else:
        B = xp.astype((w / unit[..., 0])[..., None] * Ut, Z.dtype)
    if lam.shape[-1] < size:
        B = xp.concat([B, zeros(B, (*B.shape[:-2], size - B.shape[-2], d), B.dtype)], axis=-2)
    return B, delta[..., 0] / unit[..., 0, 0] ** 2


def _unit(Z: Array) -> Array:
    """Return a power of two [..., 1, 1] that brings the largest entry near 1, or else 1."""
    xp = library(Z)
    peak = xp.astype(xp.max(xp.abs(Z), axis=(-2, -1), keepdims=True), xp.float64)
    peak = xp.where(peak > 0.0, peak, xp.ones_like(peak))
    exponent = xp.clip(xp.round(xp.log2(peak)), -120.0, 120.0)
    return xp.pow(xp.ones_like(exponent) * 2.0, -exponent)
