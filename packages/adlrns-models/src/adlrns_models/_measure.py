"""Timing the layers of an elastic model where they run: inside calls of the whole."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from adlrns_models._calibrate import Forward
from adlrns_models._costs import rank_choices
from adlrns_models._kept import Kept, steady_product
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._measure_clock import seconds_of, times_within, wait
from adlrns_models._measured import Measured, conditions_of
from adlrns_models._serving import ranks_here
from rank_sched import EnergyMeter

if TYPE_CHECKING:
    from adlrns_models._elastic_budget import Budgeted

LEVELS = 7  # ranks a layer is measured at; between them times are interpolated
METERED_S = 1.0  # a shorter window of a meter is mostly rounding

Level = dict[str, int]
Point = tuple[Level, dict[str, Kept]]


@torch.no_grad()
def measure(
    elastic: "Budgeted",
    batch: Any,
    *,
    forward: Forward,
    repeats: int,
    meter: EnergyMeter | None,
) -> Measured:
    """Returns the costs of calls on ``batch``.

    The whole network is called at some operating points, which take turns and together take every
    layer through its ranks: once with a clock at each layer and once without, so that what the
    clocks cost is in no time. A layer timed alone finds its weights in the caches that its
    neighbours empty, and at another moment of a busy machine.
    """
    device, layers, levels = next(elastic.parameters()).device, elastic.layers(), _levels(elastic)
    points = [
        (level, {name: steady_product(layers[name], rank) for name, rank in level.items()})
        for level in levels
    ]

    def call() -> None:
        forward(elastic, batch)

    seconds, totals = _medians(call, layers, points, repeats=repeats, device=device)
    rest = [max(0.0, total - sum(s.values())) for total, s in zip(totals, seconds, strict=True)]
    tables = {n: _table([lv[n] for lv in levels], [s[n] for s in seconds]) for n in layers}
    watts = idle = None
    if meter is not None:
        ends = [int(np.argmin(totals)), len(points) - 1]
        joules = [_joules(meter, call, layers, points[i], totals[i], device) for i in ends]
        watts, idle = _line(totals[ends[0]], joules[0], totals[-1], joules[1])
    return Measured(
        ranks={name: ranks for name, (ranks, _) in tables.items()},
        seconds={name: times for name, (_, times) in tables.items()},
        rest_s=statistics.median(rest),
        idle_j=idle,
        watts=watts,
        meter=None if meter is None else meter.name,
        machine=conditions_of(elastic),
    )


def _medians(
    call: Callable[[], None],
    layers: Mapping[str, AdaptiveLayer],
    points: Sequence[Point],
    *,
    repeats: int,
    device: torch.device,
) -> tuple[list[dict[str, float]], list[float]]:
    """Median seconds of each layer, and of the whole call, at each point."""
    parts: list[list[dict[str, float]]] = [[] for _ in points]
    whole: list[list[float]] = [[] for _ in points]
    for turn in range(repeats + 1):
        for i, point in enumerate(points):
            with _at(layers, *point):
                call()  # pays for the caches that the last point filled
                within, total = times_within(call, layers, device), seconds_of(call, device)
            if turn:  # the first one warms up
                parts[i].append(within)
                whole[i].append(total)
    layer_s = [{n: statistics.median(t[n] for t in times) for n in layers} for times in parts]
    return layer_s, [statistics.median(times) for times in whole]


def _levels(elastic: "Budgeted") -> list[Level]:
    """Operating points at even shares of each layer's ranks, closer where small; the last dense."""
    choices = {
        name: rank_choices(profile.size, elastic._step_of(name), "factored")
        for name, profile in elastic.profiles.items()
    }
    shares = (np.linspace(0, 1, LEVELS - 1) ** 1.5).tolist()
    return [
        *(
            {n: c[round(share * max(0, len(c) - 2))] for n, c in choices.items()}
            for share in shares
        ),
        {n: c[-1] for n, c in choices.items()},
    ]


def _table(ranks: Sequence[int], seconds: Sequence[float]) -> tuple[list[int], list[float]]:
    """Ranks rising, each with the median of its times."""
    found: dict[int, list[float]] = {}
    for rank, time_s in zip(ranks, seconds, strict=True):
        found.setdefault(rank, []).append(time_s)
    return sorted(found), [statistics.median(found[rank]) for rank in sorted(found)]


def _line(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    """Slope and intercept through two points, neither negative; the second point is met."""
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 1.0
    slope = min(max(slope, 0.1), y1 / x1 if x1 > 0 else 1.0)
    return slope, y1 - slope * x1


def _joules(
    meter: EnergyMeter,
    call: Callable[[], None],
    layers: Mapping[str, AdaptiveLayer],
    point: Point,
    seconds: float,
    device: torch.device,
) -> float:
    """Joules of one call at a point that takes so many seconds."""
    count = max(1, round(METERED_S / max(seconds, 1e-6)))
    with _at(layers, *point):
        wait(device)
        with meter.measure() as window:
            for _ in range(count):
                call()
            wait(device)  # a device works on after the last call has returned
    return window.energy_j / count


@contextmanager
def _at(
    layers: Mapping[str, AdaptiveLayer], ranks: Level, kept: Mapping[str, Kept]
) -> Iterator[None]:
    """Runs at ``ranks`` as layers do that stay there; what they had kept is back afterwards."""
    before = {layer: layer._kept for layer in layers.values()}
    try:
        for name, layer in layers.items():
            layer._kept = {ranks[name]: kept[name]}
        with ranks_here({layer: ranks[name] for name, layer in layers.items()}):
            yield
    finally:
        for layer, products in before.items():
            layer._kept = products


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Runs ``model`` in ``eval`` mode inside; everything as before outside."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
