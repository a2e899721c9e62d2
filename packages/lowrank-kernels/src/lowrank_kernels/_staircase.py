"""Products whose rank differs from row to row: rows sorted by rank, one product a band of ranks.

With P_i the projector on the first r_i coordinates, applied to row i, the three maps

    shrink(x, w) = P(x wᵀ)      expand(h, w) = (P h) w      outer(h, x) = (P h)ᵀ x

have each other as derivatives, as those of one rank for all rows have.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank_kernels._bands import Band, cut, cut_exactly
from lowrank_kernels._checks import FLOATS
from lowrank_kernels._scratch import scratch

_HALVES = FLOATS[2:]


class Stairs(NamedTuple):
    """Rows sorted by falling rank.

    Attributes:
        order: which row of the input stands where; None where all ranks are equal.
        given: the ranks as they came.
        falling: the sorted ranks.
        values: the same on the host.
        bands: what is computed together.
    """

    order: Tensor | None
    given: Tensor
    falling: Tensor
    values: list[int]
    bands: tuple[Band, ...]

    def back(self, x: Tensor) -> Tensor:
        """Return sorted rows in their own order, in memory of their own."""
        if self.order is None:
            return x.clone()
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(self.values), device=inverse.device)
        return x.index_select(0, inverse)


def sort(ranks: Tensor, size: int, features: int, device: torch.device) -> Stairs:
    """Return the staircase of ranks in 0..size; raise ValueError for any other."""
    ranks = ranks.to(device, torch.int64)
    falling, order = ranks.sort(descending=True)
    values: list[int] = falling.tolist()
    if values and not 0 <= values[-1] <= values[0] <= size:
        wrong = values[0] if values[0] > size else values[-1]
        raise ValueError(f"ranks must be in 0..{size}, got {wrong}")
    if not values or values[0] == values[-1]:
        top, rows = (values[0] if values else 0), len(values)
        bands = (Band(rows, 0, top, rows),) if top else ()
        return Stairs(None, ranks, falling, values, bands)
    return Stairs(order, ranks, falling, values, cut(values, features))


def exact(call: Callable[[Stairs], Tensor], stairs: Stairs) -> Tensor:
    """Return what `call` computes, free of what other rows read in the bands of a row.

    A row whose rank ends within a band is multiplied by zeros from there on. That is exact unless
    it meets infinity or nan, which would show in the result.
    """
    y = call(stairs)
    if all(band.exact == band.rows for band in stairs.bands):
        return y
    if isfinite(y.sum(dtype=torch.float32 if y.dtype in _HALVES else None)):
        return y
    return call(stairs._replace(bands=cut_exactly(stairs.values)))


def linear(
    x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, inner: Tensor | None, stairs: Stairs
) -> Tensor:
    """Return the product of rows `x [N, n]`, `[N, m]`."""
    U = up.t()
    if x.dtype in _HALVES and len(stairs.bands) > 1:
        return _linear_rounded_once(x, down, U, bias, inner, stairs)
    N, bands = x.shape[0], stairs.bands
    if bands and bands[0].rows == N:  # all rows take part: no need to sort them for it
        h = _first(x, down, inner, stairs)
        y = h @ U[: h.shape[1]] if bias is None else torch.addmm(bias, h, U[: h.shape[1]])
        bands = bands[1:]
    else:
        y = x.new_zeros(N, U.shape[1]) if bias is None else bias.repeat(N, 1)
    if bands:
        h = _hidden(x, down, inner, stairs, bands)
        order = stairs.order[: len(h)]  # type: ignore[index]
        y.index_add_(0, order, _accumulated(h, U, bands))
    return y


def _first(x: Tensor, down: Tensor, inner: Tensor | None, stairs: Stairs) -> Tensor:
    """Return the hidden rows of the first band, in the order of the input."""
    _, _, stop, complete = stairs.bands[0]
    h = scratch("first", x, x.shape[0], stop)
    _product(x, down[:stop], None if inner is None else inner[:stop], h)
    if complete < x.shape[0]:
        least = stairs.values[-1]
        _end(h[:, least:], stairs.given, least)
    return h


def _linear_rounded_once(
    x: Tensor, down: Tensor, U: Tensor, bias: Tensor | None, inner: Tensor | None, stairs: Stairs
) -> Tensor:
    """Return the product with one sum for each number: partial sums in half precision lose."""
    h = _hidden(x, down, inner, stairs, stairs.bands)
    y = scratch("sums", x, x.shape[0], U.shape[1])
    y[len(h) :] = 0.0 if bias is None else bias
    for band, after in zip(stairs.bands, [b.rows for b in stairs.bands[1:]] + [0], strict=True):
        _product(h[after : band.rows, : band.stop], U[: band.stop].t(), bias, y[after : band.rows])
    return stairs.back(y)


def _hidden(
    x: Tensor, w: Tensor, inner: Tensor | None, stairs: Stairs, bands: Sequence[Band]
) -> Tensor:
    """Return the hidden rows of the bands, sorted: `[rows, R]`, unwritten outside of them."""
    rows = bands[0].rows
    X = _sorted("rows", x, stairs, rows)
    h = scratch("hidden", x, rows, w.shape[0])
    for band in bands:
        S, start, stop, complete = band
        part = h[:S, start:stop]
        _product(X[:S], w[start:stop], None if inner is None else inner[start:stop], part)
        if complete < S:
            _end(part[complete:], stairs.falling[complete:S], start)
    return h


def _accumulated(h: Tensor, w: Tensor, bands: Sequence[Band]) -> Tensor:
    """Return `h w` over the bands, sorted; `w [R, n]`."""
    y = scratch("sums", h, len(h), w.shape[1])
    for i, (S, start, stop, _) in enumerate(bands):
        if i == 0:
            torch.mm(h[:S, start:stop], w[start:stop], out=y)
        else:
            y[:S].addmm_(h[:S, start:stop], w[start:stop])
    return y


def _product(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, w.t(), out=out)
    else:
        torch.addmm(bias, x, w.t(), out=out)


def _end(part: Tensor, ranks: Tensor, start: int) -> None:
    """Put exact zeros where the rank of a row has ended, whatever stands there."""
    columns = torch.arange(start, start + part.shape[1], device=part.device)
    part.masked_fill_(ranks[:, None] <= columns, 0.0)


def _sorted(use: str, x: Tensor, stairs: Stairs, rows: int) -> Tensor:
    """Return the first `rows` of the sorted rows."""
    if stairs.order is None:
        return x[:rows]
    out = scratch(use, x, rows, x.shape[1])
    return torch.index_select(x, 0, stairs.order[:rows], out=out)


def _projected(h: Tensor, stairs: Stairs) -> Tensor:
    """Return sorted hidden rows with zeros behind the ranks that end within a band."""
    rows = stairs.bands[0].rows
    H = _sorted("hidden", h, stairs, rows)
    for S, start, stop, complete in stairs.bands:
        if complete < S:
            _end(H[complete:S, start:stop], stairs.falling[complete:S], start)
    return H


def shrink(x: Tensor, w: Tensor, inner: Tensor | None, stairs: Stairs) -> Tensor:
    """Return `P(x wᵀ + inner)`, `[N, R]`, zeros behind each rank."""
    h = x.new_zeros(x.shape[0], w.shape[0])
    if not stairs.bands:
        return h
    part = _hidden(x, w, inner, stairs, stairs.bands)
    for S, start, stop, _ in stairs.bands:
        h[:S, start:stop] = part[:S, start:stop]
    return h if stairs.order is None else stairs.back(h)


def expand(h: Tensor, w: Tensor, stairs: Stairs) -> Tensor:
    """Return `(P h) w`, `[N, n]`."""
    y = h.new_zeros(h.shape[0], w.shape[1])
    if not stairs.bands:
        return y
    H = _projected(h, stairs)
    if h.dtype not in _HALVES:
        y = _accumulated(H, w, stairs.bands)
        return stairs.back(torch.cat([y, y.new_zeros(h.shape[0] - len(y), y.shape[1])]))
    for band, after in zip(stairs.bands, [b.rows for b in stairs.bands[1:]] + [0], strict=True):
        torch.mm(H[after : band.rows, : band.stop], w[: band.stop], out=y[after : band.rows])
    return stairs.back(y)


def outer(h: Tensor, x: Tensor, stairs: Stairs, columns: bool) -> Tensor:
    """Return `(P h)ᵀ x`, `[R, n]`; column after column in memory where asked for."""
    R, n = h.shape[1], x.shape[1]
    g = x.new_zeros(n, R).t() if columns else x.new_zeros(R, n)
    if stairs.bands:
        H, X = _projected(h, stairs), _sorted("rows", x, stairs, stairs.bands[0].rows)
        for S, start, stop, _ in stairs.bands:
            if columns:
                torch.mm(X[:S].t(), H[:S, start:stop], out=g[start:stop].t())
            else:
                torch.mm(H[:S, start:stop].t(), X[:S], out=g[start:stop])
    return g
