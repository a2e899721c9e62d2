"""A product with a rank for each row, run in the form that suits the ranks of each batch."""

from math import isfinite

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lowrank_kernels import _checks
from lowrank_kernels._bands import CALLS
from lowrank_kernels._calibration import Key
from lowrank_kernels._dispatch import chooser
from lowrank_kernels._dispatcher import Dispatcher
from lowrank_kernels._explanation import Explanation
from lowrank_kernels._forms import MASKED, STAIRCASE
from lowrank_kernels._machine import device_name
from lowrank_kernels._per_sample import lowrank_linear_per_sample, mapped
from lowrank_kernels._staircase import sort


class DispatchedPerSample:
    """A product with a rank for each row, in the form that is fastest for the ranks at hand.

    Made by `dispatch_per_sample`; called with `x [*batch, ..., n]` and `ranks [*batch]`. Its
    calibration is looked for once.
    """

    __slots__ = ("_factors", "_form", "_inner", "_key", "_table")

    def __init__(
        self,
        factors: tuple[Tensor, Tensor, Tensor | None],
        inner: Tensor | None,
        form: str | None,
        dispatcher: Dispatcher,
    ) -> None:
        self._factors, self._inner, self._form = factors, inner, form
        (R, n), m, device = factors[0].shape, factors[1].shape[0], factors[0].device
        self._key = Key(n, m, R, factors[0].dtype, device_name(device), samples=True)
        self._table = dispatcher._table(self._key, device)

    def __call__(self, x: Tensor, ranks: Tensor) -> Tensor:
        """Return the product of each sample at its own rank, `[*batch, ..., m]`."""
        if not _readable(x, ranks):
            return self._in(STAIRCASE, x, ranks)
        form = self.form(ranks, rows=_beneath(x, ranks))
        y = self._in(form, x, ranks)
        if form == MASKED and not isfinite(y.detach().sum(dtype=torch.float64)):
            # zeros are exact unless they meet infinity or nan, which would show
            return self._in(STAIRCASE, x, ranks)
        return y

    def form(self, ranks: Tensor, *, rows: int = 1) -> str:
        """Return the form for such ranks, each of so many rows: `"staircase"` or `"masked"`."""
        table, batch = self._table, _rows(ranks, rows)
        if self._form is not None:
            return self._form
        if table is None or not batch or not table.covers(batch):
            return STAIRCASE  # whose bands are cut where counting says so
        costs = table.predict_samples(*_mean_and_largest(ranks), batch)
        return min(costs, key=lambda form: costs[form])

    def explain(self, ranks: Tensor, *, rows: int = 1) -> Explanation:
        """Return why: print it, or read its fields."""
        key, table, batch = self._key, self._table, _rows(ranks, rows)
        mean, top = _mean_and_largest(ranks) if batch else (0.0, 0)
        if table is None or not table.covers(batch):
            at, costs = None, _counted(ranks.flatten(), key.R, key.n + key.m)
        else:
            at, costs = table.stand_in(batch), table.predict_samples(mean, top, batch)
        costs = {form: costs[form] for form in sorted(costs, key=lambda form: costs[form])}
        return Explanation(key, top, batch, at, costs, None, self.form(ranks, rows=rows))

    def _in(self, form: str, x: Tensor, ranks: Tensor) -> Tensor:
        options = {"inner_bias": self._inner, "implementation": form}
        return lowrank_linear_per_sample(x, *self._factors, ranks, **options)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        n, m, R, *_ = self._key
        return f"DispatchedPerSample(max_rank={R}, in_features={n}, out_features={m})"


def _rows(ranks: object, each: object) -> int:
    """Return how many rows there are, for ranks that are some."""
    if not isinstance(ranks, Tensor):
        raise TypeError(f"ranks must be an integer tensor, got {type(ranks).__name__}")
    if ranks.dtype not in _checks.INTEGERS:
        raise TypeError(f"ranks must be an integer tensor, got {ranks.dtype}")
    return ranks.numel() * _checks.whole("rows", each, 0)


def _mean_and_largest(ranks: Tensor) -> tuple[float, int]:
    return int(ranks.sum()) / ranks.numel(), int(ranks.max())


def _readable(x: object, ranks: object) -> bool:
    """Tell whether there are ranks to choose by; what is no tensor is refused elsewhere."""
    if is_compiling() or not isinstance(x, Tensor) or not isinstance(ranks, Tensor):
        return False
    return not (ranks.is_meta or mapped(ranks))


def _beneath(x: Tensor, ranks: Tensor) -> int:
    return x.shape[ranks.dim() : -1].numel()


def _counted(ranks: Tensor, size: int, features: int) -> dict[str, float]:
    """Return multiplications a row, calls counted in."""
    stairs, N = sort(ranks, size, features, ranks.device), max(1, ranks.numel())
    area = sum(band.rows * (band.stop - band.start) for band in stairs.bands)
    more = CALLS * max(0, len(stairs.bands) - 1)
    top = stairs.values[0] if stairs.values else 0
    return {STAIRCASE: round((area * features + more) / N), MASKED: top * features}


def dispatch_per_sample(
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
    form: str | None = None,
    dispatcher: Dispatcher | None = None,
) -> DispatchedPerSample:
    """Return the product with a rank for each row, each batch in the form that suits its ranks.

    `dispatch_per_sample(down, up, bias)(x, ranks)` equals
    `lowrank_linear_per_sample(x, down, up, bias, ranks)`. Its forms are `"staircase"`, a pair of
    products for each of a few bands of ranks, and `"masked"`, one pair at the largest rank. By a
    calibration (`calibrate(..., per_sample=True)`) measured times decide; without one the
    staircase, whose bands are counted. In a graph the staircase runs. There is no dense form: a
    dense weight has one rank.

    Args:
        down: first factor `[R, n]`.
        up: second factor `[m, R]`.
        bias: `[m]` or None.
        inner_bias: `[R]` or None, added between the factors.
        form: always this one, `"staircase"` or `"masked"`; None chooses.
        dispatcher: knows the times; None is one that reads the calibrations kept on disk.

    Raises:
        ValueError: a shape, device or form breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> down, up = torch.ones(512, 1024), torch.ones(1024, 512)
        >>> product = dispatch_per_sample(down, up, dispatcher=Dispatcher(cache=False))
        >>> print(product.explain(torch.tensor([16] * 90 + [512] * 10)))
        1024 -> 1024 features, ranks up to 512 of 512, 100 rows, torch.float32 on cpu: staircase
        counted, as nothing is measured near it; bands of ranks against one mask
          staircase     144349 multiplications a row
          masked       1048576 multiplications a row
    """
    _checks.check_factors(down, up, bias, inner_bias)
    if form not in (None, STAIRCASE, MASKED):
        raise ValueError(f"form must be 'staircase', 'masked' or None, got {form!r}")
    return DispatchedPerSample((down, up, bias), inner_bias, form, chooser(dispatcher))
