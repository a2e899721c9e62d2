"""How long a change of depth takes while serving, and what a pass costs at each depth.

`python bench_elastic.py --csv rows.csv`; levels take turns, times are medians of single calls.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from planted_zoo import BLOCKS, CharLM

from layer_importance import ElasticDepth

LEVELS = (0, 3, 6, 9)


def rows_of(width: int, changes: int, passes: int) -> list[dict[str, Any]]:
    """A row a level."""
    torch.manual_seed(0)
    net = CharLM([0.0] * BLOCKS, 64, width).eval()
    ids = torch.randint(0, 64, (8, 48))
    order = [f"blocks.{n}" for n in reversed(range(BLOCKS))]
    with torch.no_grad():
        plain = net(ids)
        elastic = ElasticDepth(net, order, example=ids)
        assert torch.equal(net(ids), plain)
        switched: dict[int, list[float]] = {level: [] for level in LEVELS}
        passed: dict[int, list[float]] = {level: [] for level in LEVELS}
        for turn in range(changes):
            for level in LEVELS:
                start = time.perf_counter()
                elastic.set_level(level)
                switched[level].append(time.perf_counter() - start)
                if turn < passes:
                    start = time.perf_counter()
                    net(ids)
                    passed[level].append(time.perf_counter() - start)
    whole = statistics.median(passed[0])
    return [
        {
            "width": width,
            "level": level,
            "blocks": BLOCKS - level,
            "change_us": round(1e6 * statistics.median(switched[level]), 2),
            "slowest_of_99_in_100_us": round(1e6 * _quantile(switched[level], 0.99), 2),
            "pass_ms": round(1e3 * statistics.median(passed[level]), 2),
            "of_whole": round(statistics.median(passed[level]) / whole, 3),
        }
        for level in LEVELS
    ]


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--changes", type=int, default=1000, help="to each level")
    parser.add_argument("--passes", type=int, default=50, help="at each level")
    parser.add_argument("--csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [r for width in (48, 256) for r in rows_of(width, options.changes, options.passes)]
    for row in rows:
        print(row)
    if options.csv:
        with Path(options.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
