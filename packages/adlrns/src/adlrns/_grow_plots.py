"""The plots of a run with growth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adlrns._grow_train import Row
from adlrns._html import figure, note
from adlrns._plots import COLOURS, Plot, lines, shortened
from adlrns._table import Value

if TYPE_CHECKING:
    from adlrns._grow_report import Grown

_MOST = 12


def figures(grown: "Grown", metric: str, fixed: Sequence[Row] | None) -> list[str]:
    """Returns the plots as fragments.

    Raises:
        MissingExtraError: without matplotlib.
    """
    beside = "; beside the same network without growth." if fixed else "."
    cost = f"All FLOPs of training steps and trials, a point an epoch{beside}"
    runs = {"grown": grown.history} | ({} if fixed is None else {"without growth": fixed})
    parts = [
        figure("Width over time", "Units of the groups that grew.", _widths(grown)),
        figure(f"{metric} over the FLOPs of training", cost, _curves(runs, metric)),
    ]
    measured = [event for event in grown.events if grown.gain(event) is not None]
    if not measured:
        return [*parts, note("No gain was measured: nothing was tried out.")]
    text = "How much less loss held-out items have after a trial than without the edit."
    return [*parts, figure("Gain of every trial", text, _gains(grown, measured))]


def _widths(grown: "Grown") -> str:
    first, last = grown.widths[0][1], grown.widths[-1][1]
    end = int(grown.history[-1]["step"] or 0)
    changed = [name for name in last if last[name] != first.get(name)] or list(last)
    curves = {}
    for name in changed[:_MOST]:
        known = [(step, sizes[name]) for step, sizes in grown.widths if name in sizes]
        known.append((end, known[-1][1]))
        curves[shortened(name, 30)] = ([s for s, _ in known], [w for _, w in known])
    with Plot("widths") as plot:
        lines(plot.axes[0], curves, drawstyle="steps-post", lw=1.6)
        plot.axes[0].set(xlabel="step", ylabel="units", ylim=(0, None))
        plot.axes[0].legend(fontsize=8)
        return plot.svg()


def _curves(runs: Mapping[str, Sequence[Row]], metric: str) -> str:
    curves = {
        name: ([_spent(row) for row in rows], [_number(row[metric]) for row in rows])
        for name, rows in runs.items()
    }
    with Plot("cost") as plot:
        lines(plot.axes[0], curves, marker="o", ms=3, lw=1.4)
        plot.axes[0].set(xlabel="FLOPs spent", ylabel=metric)
        plot.axes[0].legend(fontsize=8)
        return plot.svg()


def _spent(row: Row) -> float:
    return _number(row["training_flops"]) + _number(row["trial_flops"])


def _number(value: Value) -> float:
    return float(value or 0)


def _gains(grown: "Grown", events: Sequence[Any]) -> str:
    names = [f"step {e.step}: {shortened(e.target, 26)}" for e in events]
    kept = [e.decision == "committed" for e in events]
    gains = [grown.gain(e) for e in events]
    with Plot("gains", height=1.2 + 0.28 * len(events)) as plot:
        axis = plot.axes[0]
        for colour, label, wanted in ((COLOURS[2], "kept", True), (COLOURS[5], "undone", False)):
            chosen = [k for k in range(len(events)) if kept[k] is wanted]
            axis.barh(chosen, [gains[k] for k in chosen], 0.7, label=label, color=colour)
        axis.set_yticks(range(len(events)), names)
        axis.set_ylim(len(events) - 0.5, -0.5)
        axis.set(xlabel="gain in held-out loss")
        axis.legend(fontsize=8)
        return plot.svg()
