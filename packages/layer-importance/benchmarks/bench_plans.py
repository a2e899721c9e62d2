"""How good plans are: how much of the way from a random set of blocks to the best one they go.

`python bench_plans.py --text FILE --csv rows.csv` trains nets of three families with planted
redundancy; `--family vit --seed 0` runs one net alone; rows are appended. Every set of three and of
four of twelve blocks is measured on the data a plan is searched on. `searched` is
`(median - plan) / (median - best)` of the damages there, where the best is the best there is;
`held_out` the same on other data, with the median of 60 sets drawn at random, and with the set that
is best on the searched data in the place of the best: what finding it would have been worth.
"""

import random
import statistics
from typing import Any

import torch
from bench_ranking import append, arguments, taken
from planted_zoo import BLOCKS, FAMILIES, Planted

from layer_importance import Report, Subject, analyze
from layer_importance._plan_damage import Judge
from layer_importance._plan_space import Names, Space
from layer_importance._planning import plan
from layer_importance._preserve import preserved
from layer_importance._tasks import task as find_task
from layer_importance._units import Units

Row = dict[str, Any]
Damages = dict[Names, float]
DRAWN = 60


def damages(net: Planted, units: Units, batches: Any, sets: list[Names]) -> Damages:
    """Of every set, on some batches."""
    subject = Subject(net.net, units, find_task(net.task), batches)
    with preserved(net.net, gradients=False), Judge(subject, batches) as judge:
        return dict(zip(sets, judge.damages(sets), strict=True))


def rows_of(net: Planted) -> list[Row]:
    """Every plan for one net."""
    report = analyze(net.net, net.calibration, task=net.task, methods="auto", seed=net.seed)
    cheap = analyze(net.net, net.calibration, task=net.task, methods=["skip_attribution"])
    rows = []
    for k in (3, 4):
        groups = tuple((name,) for name in report.units.names)
        space = Space(groups=groups, gain=lambda names: float(len(names)), need=k)
        sets = space.all_sets(10_000) or []
        searched = damages(net, report.units, net.calibration[::2], sets)
        best = min(sets, key=searched.__getitem__)
        made = plans(net, report, cheap, k)
        drawn = random.Random(net.seed).sample(sets, DRAWN)
        wanted = dict.fromkeys([*drawn, best, *(chosen for _, chosen, _ in made)])
        other = damages(net, report.units, net.held_out, list(wanted))
        usual = statistics.median(searched.values()), statistics.median(other[s] for s in drawn)
        for name, chosen, spent in [*made, ("best of all sets", best, (len(sets), ""))]:
            rows.append(_row(net, k, name, chosen, spent, searched, other, best, usual))
    return rows


def plans(
    net: Planted, report: Report, cheap: Report, k: int
) -> list[tuple[str, Names, tuple[Any, Any]]]:
    """Name, set and expense of every way to plan."""
    ways: dict[str, tuple[Report | None, int]] = {
        "search, L + 10 tries": (cheap, BLOCKS + 10),
        "search, 70 tries": (cheap, 70),
        "search from no scores, 70 tries": (None, 70),
        "skip attribution alone": (cheap, 0),
        "auto scores alone": (report, 0),
    }
    found = []
    for name, (scores, tries) in ways.items():
        made = plan(
            net.net,
            net.calibration,
            report=scores,
            task=net.task,
            units=BLOCKS - k,
            bridges=False,
            evaluations=tries,
            seed=net.seed,
        )
        found.append((name, frozenset(made.removals), (made.evaluations, made.forwards)))
    last = frozenset(report.units.names[-k:])
    return [*found, ("from the end", last, (0, 0.0))]


def _row(
    net: Planted,
    k: int,
    name: str,
    chosen: Names,
    spent: tuple[Any, Any],
    searched: Damages,
    other: Damages,
    best: Names,
    usual: tuple[float, float],
) -> Row:
    return {
        "family": net.family,
        "seed": net.seed,
        "k": k,
        "plan": name,
        "searched": _recovery(searched, chosen, best, usual[0]),
        "held_out": _recovery(other, chosen, best, usual[1]),
        "damage": round(other[chosen], 6),
        "evaluations": spent[0],
        "forwards": round(spent[1], 2) if spent[1] != "" else "",
    }


def _recovery(damage: Damages, chosen: Names, best: Names, median: float) -> float:
    return round((median - damage[chosen]) / (median - damage[best]), 4)


def table(rows: list[Row]) -> str:
    """Means over nets and numbers of blocks."""
    lines = [
        f"{'plan':34}{'searched':>9}{'min':>8}{'held out':>10}{'min':>8}{'tries':>7}{'passes':>8}"
    ]
    for name in dict.fromkeys(row["plan"] for row in rows):
        mine = [row for row in rows if row["plan"] == name]
        first, second = ([r[c] for r in mine] for c in ("searched", "held_out"))
        tries = statistics.fmean(r["evaluations"] for r in mine)
        passes = [r["forwards"] for r in mine if r["forwards"] != ""]
        lines.append(
            f"{name:34}{statistics.fmean(first):9.3f}{min(first):8.3f}"
            f"{statistics.fmean(second):10.3f}{min(second):8.3f}{tries:7.1f}"
            + (f"{statistics.fmean(passes):8.1f}" if passes else "")
        )
    return "\n".join(lines)


def main() -> None:
    """Trains, plans, prints and writes."""
    options = arguments((__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for family in options.family or FAMILIES:
        for seed in options.seed or (0, 1, 2):
            net = taken(family, seed, options)
            new = rows_of(net)
            rows += new
            if options.csv:
                append(options.csv, new)
    print(table(rows))


if __name__ == "__main__":
    main()
