"""The plots that every elastic model has."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adlrns._plots import COLOURS, Plot, bars, shortened
from adlrns_models import ElasticModel, LayerProfile
from rank_sched import OperatingPoint

# layers drawn one by one; of a deep model, those that lose most
_DRAWN = 6
_NAME, _TITLE = 36, 26  # characters of a name beside a bar, above a small plot


def frontier_plot(elastic: ElasticModel, point: OperatingPoint, form: str) -> str:
    """Returns the plot of predicted loss against FLOPs and weights, with the chosen point.

    Both are counted in the form that the point was chosen in, `"factored"` or `"identity"`.
    """
    with Plot("frontier", columns=2, height=3.2) as plot:
        for axis, cost in zip(plot.axes, ("flops", "parameters"), strict=True):
            frontier, full = elastic.frontier(cost, form), elastic.full_cost(cost)
            shares, losses = frontier.costs / full, frontier.losses
            kept = losses > 0  # a loss of zero has no logarithm
            axis.plot(shares[kept], losses[kept], color=COLOURS[0], drawstyle="steps-post")
            spent = elastic_cost(elastic, point.ranks, cost, form) / full
            if point.loss > 0:
                axis.plot([spent], [point.loss], "o", color=COLOURS[1], label="chosen")
                axis.legend(loc="upper right")
            axis.set(yscale="log", xlabel=f"share of the dense {cost}", xlim=(0, 1.02))
        plot.axes[0].set_ylabel("predicted loss a sample")
        return plot.svg()


def elastic_cost(elastic: ElasticModel, ranks: Mapping[str, int], cost: str, form: str) -> float:
    """Returns what ranks cost in a form, full rank as the dense weight."""
    total = 0.0
    for name, profile in elastic.profiles.items():
        m, n, rows = profile.size
        rank = ranks[name]
        # one factor of the identity form holds the identity, which is not stored
        saved = rank if form == "identity" else 0
        weights = m * n if rank >= profile.size.max_rank else rank * (m + n - saved)
        weights *= profile.groups
        total += 2.0 * weights * rows if cost == "flops" else weights
    return total


def ranks_plot(elastic: ElasticModel, points: Mapping[str, Mapping[str, int]]) -> str:
    """Returns the plot of the ranks of each layer as shares of full rank, by operating point."""
    names = list(elastic.profiles)
    # inches: a line of text for each layer, or its bars
    height = 1.0 + len(names) * max(0.22, 0.11 * len(points))
    with Plot("ranks", height=height) as plot:
        axis = plot.axes[0]
        shares = {
            label: [ranks[n] / elastic.profiles[n].size.max_rank for n in names]
            for label, ranks in points.items()
        }
        full = {name: elastic.profiles[name].size.max_rank for name in names}
        labels = [f"{shortened(name or 'model', _NAME)} (of {full[name]})" for name in names]
        bars(axis, labels, shares)
        axis.tick_params(axis="y", labelsize=9)
        axis.set(xlabel="rank / full rank", xlim=(0, 1.02))
        axis.legend(title="budget", loc="upper left", bbox_to_anchor=(1, 1))
        return plot.svg()


def loss_plot(elastic: ElasticModel) -> str:
    """Returns the plot of the loss curves, each inside the interval its sketch certifies."""
    chosen = _largest(elastic.profiles)
    width = len(chosen) if len(chosen) <= 4 else 3
    svg = []
    for start in range(0, len(chosen), width):
        part = chosen[start : start + width]
        with Plot(f"loss-{start}", columns=width, height=2.7) as plot:
            for axis, name in zip(plot.axes, part, strict=False):
                _draw_loss(axis, name, elastic.profiles[name])
            for axis in plot.axes[len(part) :]:
                axis.set_axis_off()
            plot.axes[0].set_ylabel("predicted loss a sample")
            plot.axes[0].legend(loc="lower left", fontsize=8)
            svg.append(plot.svg())
    return "\n".join(svg)


def _draw_loss(axis: Any, name: str, profile: LayerProfile) -> None:
    ranks = np.arange(profile.size.max_rank + 1)
    loss, lower, upper = (np.asarray(c) for c in (profile.loss, profile.lower, profile.upper))
    # the lowest thing to see; a loss of zero has no logarithm
    seen = np.concatenate([loss[:-1], upper[:-1]])
    floor = float(seen[seen > 1e-9 * max(float(loss[0]), 1e-30)].min(initial=1.0))
    below = 1e-3 * floor  # where a curve goes that leaves the plot
    low, high = np.maximum(lower, below), np.maximum(upper, below)
    axis.fill_between(
        ranks, low, high, color=COLOURS[1], alpha=0.3, lw=0, label="certified interval"
    )
    axis.plot(ranks, np.maximum(loss, below), color=COLOURS[0], label="estimate", lw=1.6)
    exact = " (exact)" if np.allclose(upper, lower) else ""
    top = 3 * max(float(upper[0]), floor)
    axis.set(yscale="log", xlabel="rank", ylim=(floor, top))
    axis.set_title(shortened(f"layer {name}", _TITLE) + exact, fontsize=9)


def _largest(profiles: Mapping[str, LayerProfile]) -> list[str]:
    kept = sorted(profiles, key=lambda name: -profiles[name].loss[0])[:_DRAWN]
    return [name for name in profiles if name in kept]
