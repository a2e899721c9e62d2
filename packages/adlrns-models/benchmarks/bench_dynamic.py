"""What deciding costs and saves: dynamic layers and kept streams against what they stand for.

`python bench_dynamic.py --csv rows.csv` measures, prints and writes; pytest runs it as a bench.
Each ratio comes from calls that take turns within one run; times are medians. The rivals are the
dense layer, and two products of contiguous copies of the factors at the rank that was decided,
which is what an oracle would run.
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models import DynamicLinear, EventLinear, SpectralGate

Row = dict[str, object]
SIZE, R_MAX, R_MIN = 1024, 256, 16


def paired(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()  # pays for the caches that the last one emptied
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def inputs(layer: DynamicLinear, kind: str, batch: int) -> Tensor:
    """Return inputs in the span of r_min directions, of 64, or half of each."""
    basis = layer.down.detach()
    basis = basis / basis.norm(dim=1, keepdim=True)
    easy = torch.randn(batch, R_MIN) @ basis[:R_MIN]
    hard = torch.randn(batch, 64) @ basis[:64]
    if kind == "mixed":
        easy[1::2] = hard[1::2]
        return easy
    return easy if kind == "easy" else hard


def rival(layer: DynamicLinear, rank: int) -> Callable[[Tensor], Tensor]:
    """Return two products of compact copies at a rank."""
    down, up = layer.down[:rank].detach().clone(), layer.up[:, :rank].detach().contiguous()
    inner, outer = layer.inner_bias[:rank].detach().clone(), layer.outer_bias.detach()
    return lambda x: F.linear(F.linear(x, down, inner), up, outer)


def gate_rows(gate: str, granularity: str, kind: str, batch: int, repeats: int) -> Row:
    """Return the time of a layer relative to its rivals, its rank and its share of the FLOPs."""
    torch.manual_seed(0)
    chosen = SpectralGate(0.1) if gate == "spectral" else gate
    layer = DynamicLinear(SIZE, SIZE, R_MAX, R_MIN, gate=chosen, granularity=granularity).eval()
    if gate == "learned":  # an untrained gate gives all inputs one rank: this one
        layer.gate.scorer.last.bias.data.copy_(torch.tensor([0.0, 1.0] + [0.0] * 6))
    if gate == "block":  # every other block open
        layer.gate.scorer.last.bias.data.copy_(torch.tensor([9.0, -9.0] * 4))
    dense, x = nn.Linear(SIZE, SIZE), inputs(layer, kind, batch)
    layer(x)
    mean = float(torch.as_tensor(layer.last_rank).double().mean())
    same = rival(layer, round(mean))
    calls = {"layer": lambda: layer(x), "dense": lambda: dense(x), "oracle": lambda: same(x)}
    times = paired(calls, repeats)
    return {
        "what": gate,
        "granularity": granularity,
        "input": kind,
        "batch": batch,
        "rank": round(mean, 1),
        "flops": round(float(layer.decision.share), 3),
        "per_dense": round(times["layer"] / times["dense"], 3),
        "per_oracle": round(times["layer"] / times["oracle"], 3),
    }


def event_rows(moved: float, rank: int, batch: int, repeats: int) -> Row:
    """Return the time of a kept stream where a share of the rows moves at every call."""
    torch.manual_seed(0)
    dense = nn.Linear(SIZE, SIZE)
    layer = EventLinear(dense, theta=1.0, rank=rank).eval()
    frames = [torch.randn(batch, SIZE)]
    count = round(moved * batch)
    for _ in range(9):
        frame = frames[-1].clone()
        frame[torch.randperm(batch)[:count]] += 0.1
        frames.append(frame)
    # forth and back, so that the frames that follow each other differ by one step
    stream = iter((frames + frames[-2:0:-1]) * 10**5)
    times = paired(
        {"layer": lambda: layer(next(stream)), "dense": lambda: dense(frames[0])}, repeats
    )
    return {
        "what": f"EventLinear, rank {rank}",
        "granularity": "row",
        "input": f"{moved:.0%} of the rows move",
        "batch": batch,
        "rank": rank,
        "flops": round(count / batch + rank * 2 / SIZE, 3),
        "per_dense": round(times["layer"] / times["dense"], 3),
        "per_oracle": "",
    }


@torch.no_grad()
def rows(repeats: int = 40) -> list[Row]:
    """Return all rows."""
    cases = [("spectral", kind) for kind in ("easy", "mixed", "hard")]
    cases += [("learned", "mixed"), ("block", "mixed")]
    measured = [
        gate_rows(gate, granularity, kind, batch, repeats)
        for gate, kind in cases
        for granularity in ("call", "sample")
        for batch in (1, 32, 256)
        if batch > 1 or (granularity == "call" and kind != "mixed") or gate != "spectral"
    ]
    return measured + [
        event_rows(moved, rank, 256, repeats) for moved in (0.0, 0.1, 0.5) for rank in (0, 64)
    ]


def bench_dynamic() -> None:
    for each in rows(10):
        print(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(options.repeats)
    for each in found:
        print(*each.values(), sep="\t")
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread"
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*found[0], "machine"])
            writer.writeheader()
            writer.writerows(each | {"machine": machine} for each in found)


if __name__ == "__main__":
    main()
