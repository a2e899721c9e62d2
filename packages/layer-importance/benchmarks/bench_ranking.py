"""How well each method ranks blocks: rank correlation with true damage, and that given depth.

`python bench_ranking.py --text FILE --csv rows.csv` trains nets of three families with planted
redundancy and scores them on calibration data; the truth is the damage of leaving a block out on
other data. `--family vit --seed 0` runs one net alone; rows are appended. Beside the methods:
`auto`, what an analysis says in the end; `measured`, the damage on the calibration data itself,
which bounds all others from above; `depth`, that later blocks matter less; `mean of ranks`, of all
methods that claim a direction. `--plain` trains nets without planted redundancy instead.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from planted_zoo import FAMILIES, Planted, planted
from scipy import stats

from layer_importance import Report, analyze
from layer_importance._consensus import consensus
from layer_importance._estimated_damage import estimated_damage
from layer_importance._validity import DAMAGE, against, values_of

Row = dict[str, Any]


def rows_of(net: Planted, seconds: float | None) -> list[Row]:
    """Every ranking of one net held against the truth."""
    start = time.perf_counter()
    report = analyze(
        net.net, net.calibration, task=net.task, methods="auto", seconds=seconds, seed=net.seed
    )
    took = time.perf_counter() - start
    truth = analyze(net.net, net.held_out, task=net.task, methods=[DAMAGE])
    damage = values_of(truth[DAMAGE])
    place = {name: index for index, name in enumerate(report.units.names)}
    found = []
    for name, values in rankings(report).items():
        held = against(values, damage, place)
        known = report.validity.methods.get(name)
        found.append(
            {
                "family": net.family,
                "seed": net.seed,
                "method": name,
                "spearman": round(held.spearman, 4),
                "partial": round(held.partial, 4),
                "reliability": round(known.reliability, 4) if known else "",
                "ceiling": round(truth.validity.ceiling, 4),
                "units": held.units,
                "seconds": round(took, 2),
                "loss": round(net.loss, 4),
            }
        )
    return found


def rankings(report: Report) -> dict[str, Mapping[str, float]]:
    """All scores there are, by name."""
    names = report.units.names
    found = {
        name: values_of(scores)
        for name, scores in report.methods.items()
        if scores.direction == "importance" and name != DAMAGE
    }
    cheap = {name: report[name] for name in found}
    ranks = [stats.rankdata([v[n] for n in names]) for v in found.values() if len(v) == len(names)]
    agreed = report.consensus
    assert agreed is not None
    return {
        **found,
        "auto": estimated_damage(report.methods, agreed),
        "auto, nothing left out": consensus(cheap, names).scores,
        "consensus": agreed.scores,
        "measured": values_of(report[DAMAGE]),
        "depth": {name: -float(place) for place, name in enumerate(names)},
        "mean of ranks": dict(zip(names, map(float, sum(ranks)), strict=True)),  # type: ignore[arg-type]
    }


def table(rows: list[Row]) -> str:
    """Means over nets, best first."""
    lines = [f"{'method':28}{'nets':>5}{'spearman':>10}{'min':>8}{'partial':>9}{'min':>8}"]
    methods = dict.fromkeys(row["method"] for row in rows)
    means = []
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        whole, given = ([float(r[c]) for r in mine] for c in ("spearman", "partial"))
        means.append((statistics.fmean(whole), method, len(mine), whole, given))
    for mean, method, nets, whole, given in sorted(means, reverse=True, key=lambda m: m[0]):
        lines.append(
            f"{method:28}{nets:5d}{mean:10.3f}{min(whole):8.3f}"
            f"{statistics.fmean(given):9.3f}{min(given):8.3f}"
        )
    return "\n".join(lines)


def append(path: str, rows: list[Row]) -> None:
    """Adds rows to a file, with a head if it is new."""
    new = not Path(path).exists()
    with Path(path).open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)


def arguments(what: str | None) -> argparse.ArgumentParser:
    """Those of both benchmarks."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=256, help="for calibration")
    parser.add_argument("--text", help="what charlm is trained on")
    parser.add_argument("--cache", help="a folder for trained nets, so that each is trained once")
    parser.add_argument("--plain", action="store_true", help="nets without planted redundancy")
    parser.add_argument("--csv")
    return parser


def taken(
    family: str, seed: int, options: argparse.Namespace, *, plain: bool | None = None
) -> Planted:
    """The net of a family and a seed as the arguments ask for it."""
    return planted(
        family,
        seed,
        steps=options.steps,
        samples=options.samples,
        text=options.text,
        cache=options.cache,
        plain=options.plain if plain is None else plain,
    )


def main() -> None:
    """Trains, scores, prints and writes."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, help="for the analysis")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for family in options.family or FAMILIES:
        for seed in options.seed or (0, 1, 2):
            net = taken(family, seed, options)
            new = rows_of(net, options.seconds)
            rows += new
            if options.csv:
                append(options.csv, new)
    print(table(rows))


if __name__ == "__main__":
    main()
