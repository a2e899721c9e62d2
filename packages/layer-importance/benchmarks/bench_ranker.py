"""Learns the ranker that the package ships, and tries it on nets held out.

`python bench_ranker.py --text FILE --out learned_ranker.json --csv rows.csv` trains nets of three
families with planted redundancy, scores them on calibration data and measures the damage of leaving
a block out on other data; the ranker is a ridge from the ranks of the scores to those of the
damages. A row a net: how it does with the net held out, and with the net's family held out, beside
the single method that does best over all nets. `--examples FILE` keeps what was measured;
`--plain` adds nets without planted redundancy.
"""

import argparse
import csv
import itertools
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bench_ranking import arguments, taken
from planted_zoo import FAMILIES, Planted

from layer_importance import analyze
from layer_importance._ranker import Ranker
from layer_importance._ranker_training import RankedModel, best_single, held_out, train_ranker
from layer_importance._validity import DAMAGE, values_of

Row = dict[str, Any]
WAYS = {
    "one model held out": lambda one: one.model,
    "one family held out": lambda one: one.family,
}


def example_of(net: Planted) -> RankedModel:
    """What cheap methods say of a net on calibration data, and its damages on other data."""
    report = analyze(net.net, net.calibration, task=net.task, methods="auto", seed=net.seed)
    truth = analyze(net.net, net.held_out, task=net.task, methods=[DAMAGE])
    return RankedModel(
        model=f"{net.family} {net.seed}",
        family=net.family.removesuffix(" plain"),
        order=tuple(report.units.names),
        scores={
            name: values_of(scores)
            for name, scores in report.methods.items()
            if scores.direction == "importance" and name != DAMAGE
        },
        shares={unit.name: float(unit.parameters) for unit in report.units},
        damage=values_of(truth[DAMAGE]),
    )


def examples_of(options: argparse.Namespace) -> list[RankedModel]:
    """Those of all nets that are asked for; measured once, if a file keeps them."""
    kept = None if options.examples is None else Path(options.examples)
    known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    found = []
    kinds = (False, True) if options.plain else (False,)
    seeds, families = options.seed or (0, 1, 2), options.family or FAMILIES
    for plain, seed, family in itertools.product(kinds, seeds, families):
        name = f"{family}{' plain' * plain} {seed}"
        if name not in known:
            known[name] = asdict(example_of(taken(family, seed, options, plain=plain)))
            if kept is not None:
                kept.write_text(json.dumps(known))
        found.append(RankedModel(**{**known[name], "order": tuple(known[name]["order"])}))
    return found


def rows_of(examples: list[RankedModel]) -> list[Row]:
    """Rank correlation with the damage of each net: the ranker's and the best method's."""
    method, alone = best_single(examples)
    found = {way: held_out(examples, group) for way, group in WAYS.items()}
    return [
        {
            "model": one.model,
            **{way: round(values[i], 4) for way, values in found.items()},
            "best method": method,
            "alone": round(alone[i], 4),
        }
        for i, one in enumerate(examples)
    ]


def record(options: argparse.Namespace, examples: list[RankedModel]) -> Row:
    """How the coefficients came about."""
    names = ("layer-importance", "torch", "numpy", "scipy", "scikit-learn")
    seeds = " ".join(f"--seed {seed}" for seed in options.seed or (0, 1, 2))
    return {
        "command": f"python bench_ranker.py --text FILE --steps {options.steps} "
        f"--samples {options.samples} {seeds}{' --plain' * options.plain}",
        "models": [one.model for one in examples],
        "units": sum(len(one.damage) for one in examples),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}},
    }


def told(ranker: Ranker) -> str:
    """The figures, and whether they are enough."""
    lines = [f"penalty {ranker.penalty}"]
    for way, one in ranker.held.items():
        lines.append(
            f"{way}: {one.ranker:.4f}, {one.method} alone {one.best:.4f}, "
            f"{one.advantage:+.4f} ± {one.standard_error:.4f}"
        )
    return "\n".join([*lines, ranker.refusal or "switched on"])


def main() -> None:
    """Measures, learns, tries, prints and writes."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", help="a file that measurements are kept in")
    parser.add_argument("--out", help="where the ranker goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    examples = examples_of(options)
    ranker = train_ranker(examples, record(options, examples))
    rows = rows_of(examples)
    for row in rows:
        print(row)
    print(told(ranker))
    if options.csv:
        with Path(options.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if options.out:
        ranker.save(options.out)


if __name__ == "__main__":
    main()
