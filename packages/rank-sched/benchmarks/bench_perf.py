"""Predicted against measured times of low-rank linear layers, on ranks the table has not seen.

`python bench_perf.py --csv rows.csv` measures, prints and writes; needs torch. For each shape and
batch, times of `F.linear(F.linear(x, down), up, bias)` over the ranks: calls take turns, medians
count. Every other rank goes into a `PerfTable`; the others are predicted by the table, by the
roofline of this processor, and by that roofline calibrated on the same rows. MAPE is the mean
absolute error relative to the measured time, Spearman the correlation of ranks over all cases.
`measured again` compares with the same measurement made right afterwards: how far this machine
agrees with itself.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rank_sched import HardwareProfile, PerfEstimator, PerfRow, PerfTable, linear_shape

if TYPE_CHECKING:
    import torch

SHAPES = ((512, 512), (1024, 1024), (768, 3072), (3072, 768))  # in, out
BATCHES = (1, 16, 128)
SHARES = np.arange(1, 17) / 32  # ranks as shares of the smaller side, up to a half
Case = tuple[int, int, int, int]  # batch, in, out, rank


def cases() -> list[Case]:
    return [
        (batch, n, m, round(float(share) * min(n, m)))
        for n, m in SHAPES
        for batch in BATCHES
        for share in SHARES
    ]


def prepare(case: Case) -> tuple[torch.Tensor, ...]:
    import torch

    batch, n, m, rank = case
    parts = torch.randn(batch, n), torch.randn(rank, n), torch.randn(m, rank), torch.randn(m)
    return tuple(parts)


def measure(chosen: list[Case], *, rounds: int, least_s: float = 4e-4) -> list[float]:
    """Return the median seconds of each case; all cases take turns in every round."""
    import torch.nn.functional as F

    inputs = [prepare(case) for case in chosen]
    times: list[list[float]] = [[] for _ in chosen]
    repeats = [1] * len(chosen)
    for turn in range(-1, rounds):
        for i, (x, down, up, bias) in enumerate(inputs):
            F.linear(F.linear(x, down), up, bias)  # brings its factors back into the cache
            start = time.perf_counter()
            for _ in range(repeats[i]):
                F.linear(F.linear(x, down), up, bias)
            spent = time.perf_counter() - start
            if turn < 0:
                repeats[i] = max(1, int(least_s / spent))
            else:
                times[i].append(spent / repeats[i])
    return [float(np.median(own)) for own in times]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    places = [values.argsort().argsort().astype(float) for values in (a, b)]
    return float(np.corrcoef(*places)[0, 1])


def rows_of(rounds: int) -> list[dict[str, object]]:
    """Return errors of each predictor over all held-out cases, and for each batch."""
    import torch

    chosen = cases()
    known, held = chosen[0::2], chosen[1::2]
    with torch.inference_mode():
        seconds = measure(chosen, rounds=rounds)
        again = measure(chosen, rounds=rounds)[1::2]
    truth = dict(zip(chosen, seconds, strict=True))
    rows = [PerfRow(linear_shape(n, m), b, r, truth[b, n, m, r]) for b, n, m, r in known]
    cpu = HardwareProfile.this_cpu()
    plain = PerfEstimator(cpu)
    work = [plain.linear(b, n, m, r) for b, n, m, r in known]
    fitted = cpu.calibrated(
        [(w.flops, w.traffic_bytes, w.launches, truth[c]) for w, c in zip(work, known, strict=True)]
    )
    guesses = {
        "table": PerfEstimator(fitted).with_table(PerfTable(rows)),
        "calibrated roofline": PerfEstimator(fitted),
        "roofline of this_cpu": plain,
    }
    predicted = {
        name: np.array([e.linear(b, n, m, r).latency_s for b, n, m, r in held])
        for name, e in guesses.items()
    }
    predicted["measured again"] = np.array(again)
    measured = np.array([truth[case] for case in held])
    batches = np.array([case[0] for case in held])
    return [
        {
            "predictor": name,
            "batch": batch or "all",
            "cases": int(own.sum()),
            "mape": round(float(np.abs(values[own] / measured[own] - 1).mean()), 4),
            "worst": round(float(np.abs(values[own] / measured[own] - 1).max()), 4),
            "spearman": round(spearman(values[own], measured[own]), 4),
        }
        for name, values in predicted.items()
        for batch in (0, *BATCHES)
        for own in [(batches == batch) | (batch == 0)]
    ]


def show(rows: list[dict[str, object]]) -> None:
    import torch

    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for row in rows:
        print(
            f"{row['predictor']:22} batch {row['batch']!s:>4}  MAPE {row['mape']:.2%}  "
            f"worst {row['worst']:.1%}  Spearman {row['spearman']:.4f}"
        )


def bench_perf() -> None:
    import pytest

    pytest.importorskip("torch", reason="the times predicted are those of torch")
    show(rows_of(rounds=5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="where to write the rows")
    parser.add_argument("--rounds", type=int, default=31, help="turns each case takes")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = rows_of(arguments.rounds)
    show(rows)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
