"""The table of an experiment: means over seeds, beside full rank and beside the goals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from adlrns._datasets import Task
from adlrns._score import FALLING
from adlrns._settle import told_forms
from adlrns._stats import interval
from adlrns._table import Column, Table, Value

# shares of full rank's cost, and percentage points of accuracy
GOAL = {"energy_ratio": 0.42, "ratio_n": 0.48, "memory_ratio": 0.38, "points": -0.3}
_MEANS = ("metric", "energy_j", "p50_1_s", "p50_n_s", "mean_1_s", "mean_n_s", "memory_bytes")


def table_of(rows: Sequence[dict[str, Any]], task: Task, title: str, *, size: int) -> Table:
    """Returns one row a method and budget, over all seeds.

    Args:
        rows: of all seeds, each with its `seed`.
        task: whose metric it is.
        title: of the table.
        size: inputs of the larger batch.
    """
    table = Table(title, _columns(rows, task, size))
    full = {row["seed"]: row for row in rows if row["budget"] is None}
    groups: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["budget"]), []).append(row)
    for (model, budget), members in groups.items():
        table.rows.append({"model": model, "budget": budget, **_means(members, full, task)})
    if task.metric == "accuracy":
        table.rows.append({"model": "goal", **GOAL})
    table.notes += [*_notes(rows, task, size), *_told(table.rows)]
    return table


def _means(
    members: Sequence[dict[str, Any]], full: dict[int, dict[str, Any]], task: Task
) -> dict[str, Value]:
    found: dict[str, Value] = {key: fmean(row[key] for row in members) for key in _MEANS}
    scale = 100 if task.metric == "accuracy" else 1
    points = [scale * (row["metric"] - full[row["seed"]]["metric"]) for row in members]
    pairs = [(row, full[row["seed"]]) for row in members]
    for name, key in (("energy", "energy_j"), ("memory", "memory_bytes"), ("flops", "flops")):
        found[f"{name}_ratio"] = fmean(row[key] / base[key] for row, base in pairs)
    found |= {key: fmean(row[key] for row in members) for key in ("ratio_1", "ratio_n")}
    found |= {"points": fmean(points), "sure": interval(points), "seeds": len(members)}
    found |= {"energy_by": members[0]["energy_by"], "forms": _forms(members)}
    found |= {"energy_uj": 1e6 * fmean(row["energy_j"] for row in members)}
    found |= {"p50_1_ms": 1e3 * fmean(row["p50_1_s"] for row in members)}
    found |= {"p50_n_ms": 1e3 * fmean(row["p50_n_s"] for row in members)}
    found |= {"memory_mb": fmean(row["memory_bytes"] for row in members) / 1e6}
    return found


def _forms(members: Sequence[dict[str, Any]]) -> str | None:
    """Returns how many settled layers of all seeds are in each form."""
    counts: Counter[str] = Counter()
    for row in members:
        counts.update(row.get("forms") or {})  # rows of an earlier version have none
    return told_forms(dict(counts.most_common())) or None


def _columns(rows: Sequence[dict[str, Any]], task: Task, size: int) -> tuple[Column, ...]:
    accuracy = task.metric == "accuracy"
    unit = "_points" if accuracy else ""  # hundredths
    return (
        Column("model", "model"),
        Column("budget", "budget", ".2f", name="flops_budget"),
        Column("metric", task.metric, ".2%" if accuracy else ".4f", name=task.metric),
        Column(
            "points",
            "points\nto full" if accuracy else "to full",
            "+.2f" if accuracy else "+.4f",
            name=f"{task.metric}_to_full{unit}",
        ),
        Column(
            "sure",
            "± 95 %",
            ".2f" if accuracy else ".4f",
            where="wide",
            name=f"{task.metric}_to_full_ci95{unit}",
        ),
        Column(
            "energy_uj",
            f"µJ a sample,\n{rows[0]['energy_by']}",
            ".1f",
            where="wide",
            name="energy_uj_per_sample",
        ),
        Column("energy_ratio", "/ full", ".2f", name="energy_to_full"),
        Column("energy_by", "energy by", where="csv"),
        *_times("1", "1", ".3f"),
        *_times("n", str(size), ".2f"),
        Column("memory_mb", "weights,\nMB", ".3f", where="wide", name="weights_mb"),
        Column("memory_ratio", "/ full", ".2f", name="weights_to_full"),
        Column("flops_ratio", "FLOPs\n/ full", ".2f", name="flops_to_full"),
        Column("mean_1_s", "mean s, batch 1", ".6f", where="csv", name="mean_s_batch_1"),
        Column(
            "mean_n_s", f"mean s, batch {size}", ".6f", where="csv", name=f"mean_s_batch_{size}"
        ),
        Column("forms", "settled layers", where="csv", name="settled_layers"),
        Column("seeds", "seeds", "d", where="csv"),
    )


def _times(key: str, size: str, form: str) -> tuple[Column, Column]:
    return (
        Column(
            f"p50_{key}_ms",
            f"p50 ms,\nbatch {size}",
            form,
            where="wide",
            name=f"p50_ms_batch_{size}",
        ),
        Column(f"ratio_{key}", "/ full", ".2f", name=f"time_to_full_batch_{size}"),
    )


def _notes(rows: Sequence[dict[str, Any]], task: Task, size: int) -> list[str]:
    better = "lower is better" if task.metric in FALLING else "higher is better"
    seeds = sorted({row["seed"] for row in rows})
    return [
        f"{task.metric}: {len(task.valid)} items that nothing was trained on, {better}; mean of "  # type: ignore[arg-type]
        f"seeds {', '.join(map(str, seeds))}, differences seed by seed, ± by Student's t",
        "ADLRNS: one set of weights for every budget; settled: as plain layers at this one; by "
        "input: easy inputs get few ranks, unsure ones a second run",
        "budget: share of the dense FLOPs of the layers with ranks, mean over inputs",
        f"time: medians of interleaved rounds on the processor, batches of 1 and {size}; where an "
        "input may run twice its mean says more, which is in the CSV file",
        "weights: those that are needed to serve the row, at the ranks that it uses",
        rows[0]["energy_note"],
    ]


def _told(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    """Says which forms settled layers have taken."""
    found = [f"{r['model']}, {r['budget']}: {r['forms']}" for r in rows if r.get("forms")]
    if not found:
        return []
    return [
        f"settled layers of all seeds, by their form: {'; '.join(found)}; a dense one has all its "
        "FLOPs, whatever its rank"
    ]
