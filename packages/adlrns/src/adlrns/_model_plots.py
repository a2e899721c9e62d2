"""The plots that every elastic model has."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adlrns._plots import COLOURS, Plot, bars
from adlrns_models import ElasticModel, LayerProfile
from rank_sched import OperatingPoint

# layers drawn one by one; of a deep model, those that lose most
_DRAWN = 6


def frontier_plot(elastic: ElasticModel, point: OperatingPoint) -> str:
    """Returns the plot of predicted loss against FLOPs and weights, with the chosen point."""
    with Plot("frontier", columns=2, height=3.2) as plot:
        for axis, cost in zip(plot.axes, ("flops", "parameters"), strict=True):
            frontier, full = elastic.frontier(cost), elastic.full_cost(cost)
            shares, losses = frontier.costs / full, frontier.losses
            kept = losses > 0  # a loss of zero has no logarithm
            axis.plot(shares[kept], losses[kept], color=COLOURS[0], drawstyle="steps-post")
            spent = elastic_cost(elastic, point.ranks, cost) / full
            if point.loss > 0:
                axis.plot([spent], [point.loss], "o", color=COLOURS[1], label="chosen")
                axis.legend(loc="upper right")
            axis.set(yscale="log", xlabel=f"share of the dense {cost}", xlim=(0, 1.02))
        plot.axes[0].set_ylabel("predicted loss a sample")
        return plot.svg()


def elastic_cost(elastic: ElasticModel, ranks: Mapping[str, int], cost: str) -> float:
    """Returns what ranks cost as two factors a layer, full rank as the dense weight."""
    total = 0.0
    for name, profile in elastic.profiles.items():
        m, n, rows = profile.size
        rank = ranks[name]
        weights = m * n if rank >= profile.size.max_rank else rank * (m + n)
        total += 2.0 * weights * rows if cost == "flops" else weights
    return total


def ranks_plot(elastic: ElasticModel, points: Mapping[str, Mapping[str, int]]) -> str:
    """Returns the plot of the ranks of each layer as shares of full rank, by operating point."""
    names = list(elastic.profiles)[:24]
    with Plot("ranks") as plot:
        axis = plot.axes[0]
        shares = {
            label: [ranks[n] / elastic.profiles[n].size.max_rank for n in names]
            for label, ranks in points.items()
        }
        labels = [f"{n or 'model'}\n(of {elastic.profiles[n].size.max_rank})" for n in names]
        bars(axis, labels, shares)
        if len(names) > 8:
            axis.tick_params(axis="x", labelrotation=90)
        axis.set_ylabel("rank / full rank")
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
    title = f"layer {name}{exact}"
    axis.set(yscale="log", xlabel="rank", title=title, ylim=(floor, top))


def _largest(profiles: Mapping[str, LayerProfile]) -> list[str]:
    kept = sorted(profiles, key=lambda name: -profiles[name].loss[0])[:_DRAWN]
    return [name for name in profiles if name in kept]
