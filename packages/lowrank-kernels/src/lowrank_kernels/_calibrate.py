"""Measure the forms of a product against each other."""

import random
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lowrank_kernels import _checks
from lowrank_kernels._autocast import without_autocast
from lowrank_kernels._calibration import Calibration, Key
from lowrank_kernels._calibration_file import save as save_calibration
from lowrank_kernels._execute import Factors, Product, Rows, fused_here, product_of
from lowrank_kernels._execute_conv import conv_factors, conv_product_of
from lowrank_kernels._forms import (
    BATCHES,
    DENSE,
    FACTORED,
    FUSED,
    MASKED,
    PACKED,
    STAIRCASE,
    rank_grid,
)
from lowrank_kernels._machine import device_name
from lowrank_kernels._per_sample import lowrank_linear_per_sample

SLICE = 2e-4  # seconds of work between two looks at the clock
ROUNDS = (5, 100)  # the fewest worth a quartile, and more than enough
COPIES = 3  # of the dense weight, as where one lies in memory counts; their median does
Cell = tuple[str, int]  # form, rank


def calibrate(
    in_features: int,
    out_features: int,
    max_rank: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    per_sample: bool = False,
    seconds: float = 1.6,
    save: bool = True,
) -> Calibration:
    """Return measured times of every form of a product, and keep them on disk.

    Batches of 1, 2, 4, … 512 rows are timed, from small to large, as long as the budget allows; the
    largest measured stands for up to four times its rows. All forms at all ranks of a batch take
    turns in an order drawn anew each round, so that a slow moment of the machine falls on all
    alike; a time is the lower quartile over the rounds, as interruptions only ever add.

    Args:
        in_features: n.
        out_features: m.
        max_rank: R, the length of the factors; None is `min(n, m)`.
        dtype: of the factors and inputs.
        device: where they are.
        per_sample: measure the forms of a rank for each row instead, as `dispatch_per_sample`
            chooses among.
        seconds: how long to measure; the smallest batch is measured in any case.
        save: keep the result in the file that dispatchers read. A folder that cannot be written
            to is no error.

    Raises:
        ValueError: a size is below 1, or `seconds` is not positive.
        TypeError: a size is no int, or `dtype` no floating one.

    Example:
        >>> table = calibrate(64, 32, seconds=0.01, save=False)
        >>> sorted(table.seconds)
        ['dense', 'factored', 'packed']
    """
    n, m = (
        _checks.whole("in_features", in_features, 1),
        _checks.whole("out_features", out_features, 1),
    )
    R = _checks.whole("max_rank", min(n, m) if max_rank is None else max_rank, 1)
    place = computing(device)
    key = Key(n, m, R, dtype, device_name(place), samples=bool(per_sample))
    return measure(key, place, seconds=seconds, save=save)


def measure(
    key: Key, device: torch.device, *, seconds: float = 1.6, save: bool = True
) -> Calibration:
    """Return measured times of the product of a key, and keep them on disk."""
    if key.dtype not in _checks.FLOATS:
        raise TypeError(f"dtype must be one of {_checks.FLOATS}, got {key.dtype}")
    seconds = _checks.number("seconds", seconds, above=0)
    with torch.no_grad(), without_autocast(device):
        table = _measure(key, device, seconds)
    if save:
        save_calibration(table, device)
    return table


def computing(device: object) -> torch.device:
    """Return the device; raise where it is none, or one without values."""
    try:
        place = torch.device(device)  # type: ignore[call-overload,unused-ignore]
    except (RuntimeError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"device must be one of torch's, got {device!r}") from error
    if place.type == "meta":
        raise ValueError("device must be one that computes, got meta")
    return place


class _Batch:
    """All forms of a product at one number of rows, and the times of their rounds."""

    def __init__(self, calls: dict[Cell, Rows], x: Tensor) -> None:
        self.calls, self.x = calls, x
        self.rounds: list[dict[Cell, float]] = []
        for call in calls.values():
            call(x)
        # the better of two: one that was interrupted would cost its cell the repeats
        once = {
            cell: min(self._timed(call, 1), self._timed(call, 1)) for cell, call in calls.items()
        }
        self.repeats = {cell: max(1, int(SLICE / t)) for cell, t in once.items()}
        # every slice is preceded by a call that is not timed
        self.cost = sum(t * (self.repeats[cell] + 1) for cell, t in once.items())

    def round(self, order: random.Random) -> None:
        """Time each form once more, none of them always after the same other."""
        cells = list(self.calls)
        order.shuffle(cells)
        self.rounds.append({c: self._timed(self.calls[c], self.repeats[c]) for c in cells})

    def _timed(self, call: Rows, repeats: int) -> float:
        x = self.x
        call(x)
        _wait(x)
        start = perf_counter()
        for _ in range(repeats):
            call(x)
        _wait(x)
        return (perf_counter() - start) / repeats

    def times(self) -> dict[Cell, float]:
        """Return seconds: the lower quartile over the rounds."""
        return {
            c: sorted(r[c] for r in self.rounds)[(len(self.rounds) - 1) // 4] for c in self.calls
        }


def _measure(key: Key, device: torch.device, budget: float) -> Calibration:
    stop, order = perf_counter() + budget, random.Random(0)
    ranks = rank_grid(key.n, key.m, key.R)
    calls = _calls(key, device, ranks)
    batches: list[_Batch] = []
    for rows in BATCHES:
        # a batch costs about twice what the one before it did
        cost = sum(b.cost for b in batches) + (2 * batches[-1].cost if batches else 0)
        if batches and ROUNDS[0] * cost > stop - perf_counter():
            break
        batches.append(_Batch(calls, _input(key, device, rows)))
    for batch in batches:
        batch.round(order)
    # small batches cost little and scatter most: each gets the same time, not the same rounds
    while perf_counter() < stop and (open_ := [b for b in batches if len(b.rounds) < ROUNDS[1]]):
        few = [b for b in open_ if len(b.rounds) < ROUNDS[0]]
        min(few or open_, key=lambda b: b.cost * len(b.rounds)).round(order)
    return _table(key, ranks, batches)


def _calls(key: Key, device: torch.device, ranks: tuple[int, ...]) -> dict[Cell, Rows]:
    draw = partial(_normal, key, device)
    forms = [FACTORED, PACKED]
    make: Callable[[str, Any], Product]
    if key.samples:
        n, m, R, *_ = key
        return _samples(draw(R, n), draw(m, R), draw(m), ranks)
    if key.images is None:
        n, m, R, *_ = key
        factors: Any = Factors(draw(R, n), draw(m, R), draw(m), None, R, draw(m, n))
        make, forms = product_of, forms + [FUSED] * fused_here(device, key.dtype)
    else:
        factors, make = conv_factors(key.m, key.R, key.images, draw), conv_product_of
    calls = {(f, r): make(f, factors._replace(rank=r)).call for f in forms for r in ranks}
    weights = [factors.weight.clone() for _ in range(COPIES)]
    dense = {(DENSE, i): make(DENSE, factors._replace(weight=w)) for i, w in enumerate(weights)}
    return {cell: product.call for cell, product in dense.items()} | calls


def _samples(down: Tensor, up: Tensor, bias: Tensor, ranks: tuple[int, ...]) -> dict[Cell, Rows]:
    """Return the forms of a rank for each row: of ranks spread evenly over 1..r, and all r."""
    most = BATCHES[-1]
    mixed = torch.randperm(most, generator=torch.Generator().manual_seed(0)).to(down.device)

    def call(form: Any, r: int) -> Rows:
        spread = {
            1 << i: (mixed[mixed < 1 << i] * r) // (1 << i) + 1 for i in range(most.bit_length())
        }
        same = torch.full_like(mixed, r)

        def product(x: Tensor) -> Tensor:
            each = spread[len(x)] if form == STAIRCASE else same[: len(x)]
            return lowrank_linear_per_sample(x, down, up, bias, each, implementation=form)

        return product

    return {(form, r): call(form, r) for form in (STAIRCASE, MASKED) for r in ranks}


def _input(key: Key, device: torch.device, batch: int) -> Tensor:
    if key.images is None:
        return _normal(key, device, batch, key.n)
    return _normal(key, device, batch, *key.images[:3])


def _normal(key: Key, device: torch.device, *shape: int) -> Tensor:
    # with a generator of its own: measuring must not move the caller's random numbers
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device).to(key.dtype)


def _table(key: Key, ranks: tuple[int, ...], batches: list[_Batch]) -> Calibration:
    measured = [batch.times() for batch in batches]
    forms = dict.fromkeys(form for form, _ in measured[0])
    seconds = {
        form: tuple(
            (sorted(times[DENSE, i] for i in range(COPIES))[COPIES // 2],)
            if form == DENSE
            else tuple(times[form, r] for r in ranks)
            for times in measured
        )
        for form in forms
    }
    if key.samples:
        return Calibration(key, tuple(b.x.shape[0] for b in batches), ranks, seconds)
    rows = zip(seconds[FACTORED], seconds[PACKED], strict=True)
    seconds[PACKED] = tuple(like_its_neighbours(views, packed) for views, packed in rows)
    return Calibration(key, tuple(b.x.shape[0] for b in batches), ranks, seconds)


def like_its_neighbours(views: tuple[float, ...], packed: tuple[float, ...]) -> tuple[float, ...]:
    """Return the packed times with each ratio to `views` the median of it and its neighbours'.

    Where a copy happens to lie in memory moves a product with one row by a tenth and more, for as
    long as the process lives; the copies of the ranks beside it lie elsewhere.

    Example:
        >>> like_its_neighbours((1.0, 2.0, 4.0, 8.0), (0.5, 3.0, 3.0, 8.0))
        (0.5, 1.5, 4.0, 8.0)
    """
    ratios = [p / v for p, v in zip(packed, views, strict=True)]
    triples = zip(ratios, ratios[1:], ratios[2:], strict=False)
    middle = [sorted(triple)[1] for triple in triples]
    kept = [ratios[0], *middle, ratios[-1]] if len(ratios) > 1 else ratios
    return tuple(v * k for v, k in zip(views, kept, strict=True))


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
