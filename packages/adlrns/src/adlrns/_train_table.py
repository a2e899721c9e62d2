"""The table of `adlrns train`: a row a seed, their mean, and how sure it is."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from adlrns._config_file import Config
from adlrns._datasets import Task
from adlrns._energy_budget import where
from adlrns._stats import interval
from adlrns._table import Column, Table, Value

Results = Sequence[dict[str, Any]]


def table_of(config: Config, task: Task, results: Results) -> Table:
    """Returns a row a seed, their mean, and how sure it is."""
    columns = _columns(task, results)
    table = Table(f"{config.model.type} on {config.data.name}", columns)
    for result in results:
        row: dict[str, Value] = {column.key: result.get(column.key) for column in columns}
        table.rows.append(row | {"seed": str(result["seed"])})
    keys = (task.metric, "loss", "flops", "energy_mj")
    known = {key: [row[key] for row in results if row.get(key) is not None] for key in keys}
    if len(results) > 1:
        means = {key: fmean(values) if values else None for key, values in known.items()}
        sure = {key: interval(values) for key, values in known.items()}
        table.rows += [{"seed": "mean", **means}, {"seed": "± 95 %", **sure}]
        table.notes.append("±: half the width of the 95 % interval of the mean, Student's t")
    table.notes.append(f"{task.metric} and loss: the validation part, {len(task.valid)} items")  # type: ignore[arg-type]
    if known["flops"]:
        table.notes.append("FLOPs: those of the dynamic layers, gates included, in evaluation")
    table.notes += [*_budget(config, results), *_bad_steps(results)]
    return table


def diverged(results: Results) -> str:
    """Returns the seeds whose last loss is not finite, nothing if there are none."""
    return ", ".join(str(row["seed"]) for row in results if not math.isfinite(row["loss"]))


def _columns(task: Task, results: Results) -> tuple[Column, ...]:
    energy = Column("energy_mj", "mJ a sample,\npredicted", ".4g")
    return (
        Column("seed", "seed"),
        Column(task.metric, task.metric, ".4f"),
        Column("loss", "loss", ".4f"),
        Column("flops", "FLOPs\n/ dense", ".3f"),
        *([energy] if any(row.get("energy_mj") is not None for row in results) else []),
        Column("parameters", "parameters", ",.0f"),
        Column("epochs", "epochs", ".0f"),
        Column("skipped", "skipped\nsteps", ".0f", where="wide"),
    )


def _budget(config: Config, results: Results) -> list[str]:
    budget = config.scheduler.energy_budget_mJ_per_sample
    spent = {r["seed"]: r["energy_mj"] for r in results if r.get("energy_mj") is not None}
    if budget is None or not spent:
        return []
    # parts of a budget are added up in floating point
    over = [str(seed) for seed, energy in spent.items() if energy > budget * (1 + 1e-9)]
    kept = f"not kept by seeds {', '.join(over)}" if over else "kept"
    told = f"{where(config)}; budget {budget:g}, {kept}"
    return [f"mJ: predicted at the ranks of validation inputs; {told}"]


def _bad_steps(results: Results) -> list[str]:
    notes = []
    if lost := diverged(results):
        notes.append(f"DIVERGED, the last loss is not finite: seeds {lost}")
    skipped = {row["seed"]: row["skipped"] for row in results if row.get("skipped")}
    if skipped:
        told = ", ".join(f"{count} of seed {seed}" for seed, count in skipped.items())
        notes.append(
            f"skipped: steps whose loss or gradient was not finite changed nothing; {told}"
        )
    return notes
