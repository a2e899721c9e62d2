"""The table of ablations: differences seed by seed."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from adlrns._datasets import Task
from adlrns._stats import interval
from adlrns._table import Column, Table


def ablation_table(rows: Sequence[dict[str, Any]], task: Task, budget: float) -> Table:
    """Returns one row a part: with it, without it, and the paired difference over seeds."""
    table = Table(f"switched off in turn, at {budget:g} of the FLOPs", _columns(task))
    for part in dict.fromkeys(row["part"] for row in rows):
        members = [row for row in rows if row["part"] == part]
        scale = 100 if task.metric == "accuracy" else 1
        changes = [scale * (row["off"]["metric"] - row["on"]["metric"]) for row in members]
        table.rows.append(
            {
                "part": part,
                "on": fmean(row["on"]["metric"] for row in members),
                "off": fmean(row["off"]["metric"] for row in members),
                "change": fmean(changes),
                "sure": interval(changes),
                "flops_on": fmean(row["on"]["flops"] for row in members),
                "flops_off": fmean(row["off"]["flops"] for row in members),
                "seeds": len(members),
            }
        )
    table.notes += _NOTES
    return table


def _columns(task: Task) -> tuple[Column, ...]:
    accuracy = task.metric == "accuracy"
    form = ".2%" if accuracy else ".4f"
    change = "+.2f" if accuracy else "+.4f"
    unit = "_points" if accuracy else ""  # hundredths
    return (
        Column("part", "switched off", name="switched_off"),
        Column("on", f"{task.metric}\nwith", form, name=f"{task.metric}_with"),
        Column("off", "without", form, name=f"{task.metric}_without"),
        Column("change", "points" if accuracy else "change", change, name=f"change{unit}"),
        Column("sure", "± 95 %", change.removeprefix("+"), name=f"change_ci95{unit}"),
        Column("flops_on", "FLOPs / dense\nwith", ".3f", name="flops_to_dense_with"),
        Column("flops_off", "without", ".3f", name="flops_to_dense_without"),
        Column("seeds", "seeds", "d", where="csv"),
    )


_NOTES = [
    "no network is trained on: each is the dense one, made elastic; thresholds come from items "
    "that were held out",
    "gates: ranks that follow each input, or one for all; data-awareness: factors for the inputs, "
    "or plain SVD; allocation: ranks by what they save, or the same share of every layer",
    "centring: both without weights of outputs; events: a stream of images that drift, layers "
    "that keep what has hardly moved, or compute every frame",
    "±: half the width of the 95 % interval of the mean paired difference, Student's t",
]
