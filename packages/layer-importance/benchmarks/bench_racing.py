"""What a race for the least important units costs beside leaving each out on all samples.

`python bench_racing.py --csv rows.csv` draws problems with known truth: twelve units whose true
damages are spread as in trained nets (a few large, many small), a part of each sample's damage that
all units share, and noise of a unit's own that is normal, skewed or heavy-tailed. Races are for the
three least damages at an error probability of 0.05. `gap` is how far, at least, the third and the
fourth damage are apart; with none, some races cannot be decided, and say so.
"""

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layer_importance._racing import Race, RaceResult

Row = dict[str, Any]
UNITS, LEAST, DELTA, BATCH = 12, 3, 0.05, 32
NOISES = ("normal", "skewed", "heavy-tailed")


def problem(seed: int, noise: str, samples: int, gap: float) -> tuple[Tensor, Tensor]:
    """True damages ``[units]``, in order, and those of samples ``[samples, units]``."""
    generator = torch.Generator().manual_seed(seed)
    means = (1.5 * torch.randn(UNITS, generator=generator).double() - 3).exp().sort().values
    means[LEAST:] += (gap - (means[LEAST] - means[LEAST - 1])).clamp_min(0)
    common = torch.randn(samples, 1, generator=generator).double()
    own = torch.randn(samples, UNITS, generator=generator).double()
    if noise == "skewed":
        own = torch.empty(samples, UNITS).double().exponential_(generator=generator) - 1
    if noise == "heavy-tailed":  # Student's with five degrees of freedom, of variance 1
        chi = torch.randn(5, samples, UNITS, generator=generator).double().square().sum(0)
        own = own * (3 / chi).sqrt()
    return means, means + common * (0.1 + means) + own * (0.1 + means)


def raced(draws: Tensor) -> RaceResult:
    """The race on the samples, batch by batch."""
    race = Race([str(i) for i in range(UNITS)], LEAST, delta=DELTA)
    for rows in draws.split(BATCH):
        if race.done:
            break
        race.add({name: rows[:, int(name)] for name in race.alive})
    return race.result()


def row_of(noise: str, samples: int, gap: float, problems: int) -> Row:
    """All problems of one kind."""
    least = {str(i) for i in range(LEAST)}
    wrong = certain = right = plain = 0
    costs = []
    for seed in range(problems):
        _, draws = problem(seed, noise, samples, gap)
        found = raced(draws)
        wrong += bool(set(found.decided) - least)
        certain += found.certain
        right += set(found.bottom) == least
        plain += set(map(str, draws.mean(0).argsort()[:LEAST].tolist())) == least
        costs.append(sum(found.draws.values()) / draws.numel())
    return {
        "noise": noise,
        "gap": gap,
        "samples": samples,
        "problems": problems,
        "wrongly_decided": wrong,
        "decided": certain,
        "right": right,
        "right_by_all_samples": plain,
        "mean_cost": round(statistics.fmean(costs), 3),
        "median_cost": round(statistics.median(costs), 3),
    }


def main() -> None:
    """Races, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row_of(noise, options.samples, gap, options.problems)
        for gap in (0.02, 0.0)
        for noise in NOISES
    ]
    for row in rows:
        print(row)
    if options.csv:
        with Path(options.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
