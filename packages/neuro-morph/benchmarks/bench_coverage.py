"""Which part of a network's parameters can grow, and how exactly.

    python packages/neuro-morph/benchmarks/bench_coverage.py [--csv FILE] [--only NAME ...]

Every group of every network is grown once in each of its ways, in float64. A parameter is covered
if one of its axes is in a group that grew. ``capture_s`` is the median time of a capture; the
networks are too small to set it against their training steps.
"""

import argparse
import csv
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuro_morph import (
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)
from neuro_morph.testing import architectures, randomized

TURNS = 5
FIELDS = ["net", "parameters", "groups", "growable", "edits", "refused", "coverage", "worst"]
FIELDS += ["capture_s"]
INITS: dict[str, Any] = {
    "free": ZeroFanOut(),
    "copy": Split(),
    "equal": Duplicate(),
    "masked": ZeroFanOut("masked"),
}


def row(name: str, model: nn.Module, inputs: Any) -> dict[str, Any]:
    """What was measured of one network."""
    # some norms compute in float32 whatever they are given
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch", tolerance=1e-6)
    graph, start = morpher.graph, morpher.snapshot()
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    covered: set[str] = set()
    worst, edits, refused = 0.0, 0, 0
    for group in graph:
        for way in graph.ways(group):
            by = group.size if way == "equal" else 2
            try:
                event = morpher.apply(Widen(group.id, by=by, init=INITS[way]))
                covered |= group.parameters()
                worst, edits = max(worst, event.relative_change or 0.0), edits + 1
            except GrowthRefusedError as error:
                print(f"  {name}: {error}"[:200], file=sys.stderr)
                refused += 1
            start.restore()
            morpher._graph = graph
    return {
        "net": name,
        "parameters": sum(sizes.values()),
        "groups": len(graph.groups()),
        "growable": sum(g.growable for g in graph),
        "edits": edits,
        "refused": refused,
        "coverage": round(sum(sizes[n] for n in covered & set(sizes)) / sum(sizes.values()), 4),
        "worst": f"{worst:.1e}",
        "capture_s": round(seconds_of(model, inputs), 4),
    }


def seconds_of(model: nn.Module, inputs: Any) -> float:
    """Seconds of a capture."""
    captures = []
    for _ in range(TURNS):
        start = time.perf_counter()
        GrowthGraph.capture(model, inputs, capture="dispatch")
        captures.append(time.perf_counter() - start)
    return statistics.median(captures)


def main() -> None:
    """Prints a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--only", nargs="*")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name, factory in architectures().items():
        if wanted.only and name not in wanted.only:
            continue
        torch.manual_seed(0)
        rows.append(row(name, *randomized(*factory())))
        print(rows[-1], flush=True)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, float64, CPU")
    if wanted.csv:
        with wanted.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
