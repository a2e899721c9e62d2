"""The plots of the demo's report."""

from collections.abc import Callable
from functools import partial

from torch import nn

from adlrns._baselines import Chooser, PlainSvd, Tables, data_aware, elastic_at
from adlrns._demo_rows import accuracy
from adlrns._demo_stream import Stream
from adlrns._plots import COLOURS, Plot, lines
from adlrns._table import Table
from adlrns.demo import Digits
from adlrns_models import ElasticModel
from rank_sched import BudgetError, OperatingPoint, allocate, uniform

SHARES = (0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)


def frontier_plot(elastic: ElasticModel, svd: PlainSvd, data: Digits, table: Table) -> str:
    """Returns accuracy against FLOPs, for the elastic model and what it is compared with."""
    aware, dial = data_aware(elastic), partial(elastic_at, elastic)
    points = {
        "adaptive: data-aware, allocated": _curve(aware, allocate, dial, data),
        "plain SVD, allocated": _curve(svd.tables, allocate, svd.at, data),
        "data-aware, uniform ranks": _curve(aware, uniform, dial, data),
        "plain SVD, uniform ranks": _curve(svd.tables, uniform, svd.at, data),
    }
    dense = table.rows[0]
    settled = [row for row in table.rows if str(row["model"]).startswith("materialised")]
    marks = [(row["mflops"], row["accuracy"]) for row in settled]
    with Plot("frontier", columns=2, height=3.8) as plot:
        for axis, title in zip(plot.axes, ("all of it", "the upper end"), strict=True):
            lines(axis, points, marker="o", markersize=3.5, lw=1.4)
            axis.plot([dense["mflops"]], [dense["accuracy"]], "D", color=COLOURS[5], label="dense")
            style = {"color": COLOURS[4], "markersize": 8, "label": "materialised"}
            axis.plot(*zip(*marks, strict=True), "x", **style)
            axis.set(xlabel="MFLOPs a sample", xscale="log", title=title)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        top = float(dense["accuracy"])  # type: ignore[arg-type]
        plot.axes[1].set_ylim(top - 0.06, min(1.0, top + 0.012))
        plot.axes[0].set_ylabel("accuracy on the test images")
        handles, labels = plot.axes[0].get_legend_handles_labels()
        plot.figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
        return plot.svg()


def _curve(
    tables: Tables, chooser: Chooser, at: Callable[[OperatingPoint], nn.Module], data: Digits
) -> tuple[list[float], list[float]]:
    costs, scores = [], []
    for share in SHARES:
        try:
            point = tables.choose(chooser, share)
        except BudgetError:  # below what these ranks can reach
            continue
        costs.append(point.cost / 1e6)
        scores.append(accuracy(at(point), data.test_x, data.test_y))
    return costs, scores


def latency_plot(table: Table) -> str:
    """Returns measured time against the budget, as shares of the dense network's."""
    with Plot("latency", columns=2, height=3.2) as plot:
        for axis, size in zip(plot.axes, (1, 64), strict=True):
            rows = [row for row in table.rows if row["model"] == "adaptive"]
            pairs = sorted((row["budget"], row[f"ratio_{size}"]) for row in rows)
            axis.plot([0, 1], [0, 1], "--", color=COLOURS[5], lw=1, label="time = FLOPs")
            axis.axhline(1, color=COLOURS[5], lw=1)
            axis.plot(*zip(*pairs, strict=True), "o-", color=COLOURS[0], label="adaptive")
            for row in table.rows:
                if str(row["model"]) == "materialised, auto":
                    x, y = [row["budget"]], [row[f"ratio_{size}"]]
                    axis.plot(x, y, "x", color=COLOURS[4], markersize=8, label="materialised, auto")
            axis.set(xlabel="budget", title=f"batch {size}", xlim=(0, 1.02), ylim=(0, None))
        plot.axes[0].set_ylabel("time / dense")
        plot.axes[1].legend(loc="lower right")
        return plot.svg()


def stream_plot(stream: Stream) -> str:
    """Returns the rank of every layer while the batches passed."""
    with Plot("stream", height=3.2) as plot:
        axis = plot.axes[0]
        curves = {f"layer {n}": (list(range(len(r))), r) for n, r in stream.ranks.items()}
        lines(axis, curves, drawstyle="steps-post", lw=1.6)
        top = 1.3 * max(max(ranks) for ranks in stream.ranks.values())
        for phase, start in stream.phases:
            axis.axvline(start, color=COLOURS[5], lw=1, ls=":")
            text = (
                f" {phase}\n right: {stream.adaptive[phase]:.1%} (dense {stream.dense[phase]:.1%})"
            )
            axis.text(start, top, text, va="bottom", fontsize=9)
        axis.set(xlabel="batch", ylabel="rank", yscale="log", ylim=(4, top))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return plot.svg()
