"""A minute of requests on a budget whose cost model is wrong: envelope, utilisation, loss.

`python bench_control.py --csv rows.csv` simulates, prints and writes; pytest runs it as a bench.
Nothing is timed: the clock is simulated, so that every run gives the same rows.

Requests come at random, 50 a second on average, and are 100 ms in flight. All ranks cost 2.5 times
what flows in, so the budget binds all the time. What a request takes is its prediction, times an
error that the cost model does not know, times noise of 20 % (log-normal). The bucket holds two
seconds of the rate. The envelope at time t is capacity + rate·t; overshoot is the largest excess
over it as a share of it, utilisation what was spent in the minute over the envelope at its end.
Losses are means over the requests that were served, as a share of the loss of the cheapest point;
`gain_off_by` is how far the gain is from the error at the end.

The error is one factor for the whole minute, or `drift`: 0.7 rising to 1.5.
"""

import argparse
import csv
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rank_sched import BudgetManager, Frontier, GainCorrection, frontier

ERRORS: dict[str, Callable[[float], float]] = {
    "0.7": lambda share: 0.7,
    "1.0": lambda share: 1.0,
    "1.3": lambda share: 1.3,
    "1.5": lambda share: 1.5,
    "drift": lambda share: 0.7 + 0.8 * share,
}
DURATION_S, PER_SECOND, IN_FLIGHT_S, NOISE = 60.0, 50, 0.1, 0.2
SHARED_BY = 75  # half as many again as come in a second, which keeps a reserve
OFF = GainCorrection(kp=0, ki=0)


@dataclass
class Outcome:
    """One simulated minute."""

    overshoot: float
    utilisation: float
    refused: float
    loss: float
    lag: float


def make_points(layers: int = 24) -> Frontier:
    """Return a frontier in joules: 1 J a request at full rank."""
    rng, curves, costs = np.random.default_rng(0), {}, {}
    for i in range(layers):
        blocks = int(rng.integers(8, 33))
        drops = 10 ** rng.uniform(-1, 1) * np.arange(1, blocks + 1) ** -rng.uniform(0.5, 2.0)
        curves[f"layer{i}"] = np.append(np.cumsum(drops[::-1])[::-1], 0.0)
        costs[f"layer{i}"] = np.arange(1, blocks + 2) * 2.0 ** rng.integers(6, 12)
    whole = sum(cost[-1] for cost in costs.values())
    return frontier(curves, {name: cost / whole for name, cost in costs.items()})


def simulate(how: str, error: Callable[[float], float], seed: int, points: Frontier) -> Outcome:
    """Return what one way to control does with one minute of requests."""
    rng, rate = np.random.default_rng(seed), PER_SECOND / 2.5
    correction = GainCorrection() if how == "bucket, settled, corrected" else OFF
    manager = BudgetManager(rate, 2 * rate, unit="energy_j", correction=correction)
    state, now, running, spent, over, losses, asked = manager.init(0.0), 0.0, [], 0.0, 0.0, [], 0
    static = points.at(rate / PER_SECOND)
    while (now := now + rng.exponential(1 / PER_SECOND)) < DURATION_S:
        while running and running[0][0] <= now:
            done, _, granted, measured = heapq.heappop(running)
            spent += measured
            over = max(over, spent / (manager.capacity + rate * done) - 1)
            known = None if how == "bucket, predictions alone" else measured
            state = state if granted is None else manager.settle(state, granted, known)
        asked += 1
        noise = rng.lognormal(-(NOISE**2) / 2, NOISE) * error(now / DURATION_S)
        granted, point = None, static
        if how != "static ranks":
            state = manager.at(state, now)
            point = manager.ranks_for(points, state, now, requests=SHARED_BY, horizon_s=1.0)
            if point is None:
                continue
            granted, state = manager.admit(state, now, point.cost)
            assert granted is not None
        losses.append(point.loss)
        heapq.heappush(running, (now + IN_FLIGHT_S, asked, granted, point.cost * noise))
    spent += sum(measured for *_, measured in running)
    envelope = manager.capacity + rate * DURATION_S
    return Outcome(
        overshoot=max(over, spent / envelope - 1, 0.0),
        utilisation=spent / envelope,
        refused=1 - len(losses) / asked,
        loss=float(np.mean(losses)) / points.losses[0],
        lag=abs(state.gain / error(1.0) - 1),
    )


WAYS = (
    "static ranks",
    "bucket, predictions alone",
    "bucket, settled",
    "bucket, settled, corrected",
)


def measure(seeds: int = 10) -> list[dict[str, object]]:
    """Return all rows: the worst of the seeds, and the median of what is no promise."""
    rows, points = [], make_points()
    for how in WAYS:
        for name, error in ERRORS.items():
            found = [simulate(how, error, seed, points) for seed in range(seeds)]
            rows.append(
                {
                    "control": how,
                    "error": name,
                    "overshoot": round(max(x.overshoot for x in found), 4),
                    "utilisation": round(min(x.utilisation for x in found), 4),
                    "refused": round(float(np.median([x.refused for x in found])), 4),
                    "loss": round(float(np.median([x.loss for x in found])), 4),
                    "gain_off_by": round(float(np.median([x.lag for x in found])), 4),
                    "seeds": seeds,
                }
            )
    return rows


def show(rows: list[dict[str, object]]) -> None:
    print(f"numpy {np.__version__}; worst overshoot and least utilisation of the seeds, medians")
    print("".join(f"{name:>28}" if name == "control" else f"{name:>13}" for name in rows[0]))
    for row in rows:
        print("".join(f"{v!s:>28}" if k == "control" else f"{v!s:>13}" for k, v in row.items()))


def bench_control() -> None:
    show(measure(seeds=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="where to write the rows")
    arguments = parser.parse_args()
    rows = measure()
    show(rows)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
