"""Time the kernels on a GPU against the best dense product and SpikingJelly, after checking them.

One part for each goal: G1 LIF forward and backward, G2 memory of a spiking VGG, G3 a single step of
few rows, G4 products over a grid of densities, G5 exact float32, G6 a linear layer and LIF in one,
G7 SpikingJelly's event-driven products, G8 STDP, G9 many small products.

Every case is checked against its reference first; what is wrong is not timed, and the run ends with
status 1. Then calls take turns in an order drawn anew each round, timed by CUDA events; `times` is
the median over the rounds of theirs over ours within a round, `called` as Python calls them or
`graph` as a recorded graph of launches. `GB/s` are the bytes as counted over ours, `of_copy` their
share of a large copy's; `peak_mb` what a call allocates at most; `waits` whether ours waits for the
device. Where a baseline is missing, `note` says why. SpikingJelly (2.0) picks its own kernels; a
second run with SJ_LIF_CUDA_IMPLEMENTATION=torch or triton tells it which.

    python bench_gpu.py [--goals G1 G3] [--rounds 15] [--csv PATH]
    python bench_gpu.py --interpret       (no GPU: every case in tiny shapes, nothing is timed)
"""

import argparse
import csv
import importlib.metadata
import os
import platform
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
import triton
from _gpu_goals import DEVICE, GOALS, Call, Case

Row = dict[str, Any]
Times = dict[str, list[float]]


def versions() -> Row:
    """Return the machine and what runs on it."""
    try:
        chosen = os.environ.get("SJ_LIF_CUDA_IMPLEMENTATION", "auto")
        jelly = f"{importlib.metadata.version('spikingjelly')}, {chosen}"
    except importlib.metadata.PackageNotFoundError:
        jelly = "missing"
    gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else f"none ({platform.machine()})"
    return {
        "gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": triton.__version__, "python": platform.python_version(), "spikingjelly": jelly,
    }  # fmt: skip


def once_ms(call: Call, repeats: int) -> float:
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(repeats):
        call()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / repeats


def paired(calls: dict[str, Call], rounds: int) -> Times:
    """Return the milliseconds of every call, round by round."""
    repeats = {}
    for name, call in calls.items():
        once_ms(call, 3)
        repeats[name] = max(1, min(50, int(1 / max(once_ms(call, 2), 1e-3))))
    times: Times = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            times[name].append(once_ms(calls[name], repeats[name]))
    return times


def recorded(call: Call) -> Call:
    """Return the replay of the launches of a call."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def peak_mb(call: Call) -> float:
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - held) / 1e6, 1)


def waits(call: Call) -> str:
    """Say whether a call waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return "yes" if "synchroniz" in str(error) else str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def copy_bandwidth() -> float:
    """Return bytes a second of a large copy, read and written."""
    x = torch.empty(1 << 30, device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    times = paired({"copy": lambda: y.copy_(x)}, 9)["copy"]
    return 2 * x.numel() / (statistics.median(times) * 1e-3)


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def callable_of(case: Case) -> tuple[dict[str, Call], dict[str, str]]:
    """Return ours and what it is held against, and why some of that is missing."""
    calls, missing = {"ours": case.ours}, {}
    for name, call in case.against.items():
        if isinstance(call, str):
            missing[name] = call
            continue
        try:
            call()
            calls[name] = call
        except Exception as error:
            # a baseline that fails is one that is missing
            missing[name] = reason_of(error)
    return calls, missing


def measured(case: Case, rounds: int, bandwidth: float) -> Iterator[Row]:
    """Yield a row for each baseline and each way of calling."""
    calls, missing = callable_of(case)
    peaks, waited = {name: peak_mb(call) for name, call in calls.items()}, waits(case.ours)
    modes = {"called": calls}
    if case.graph:
        try:
            modes["graph"] = {name: recorded(call) for name, call in calls.items()}
        except Exception as error:
            missing["graph"] = reason_of(error)
    for mode, each in modes.items():
        times = paired(each, rounds)
        ms = statistics.median(times["ours"])
        rate = case.bytes / ms * 1e3
        same = {"mode": mode, "ours_ms": round(ms, 5), "peak_mb": peaks["ours"], "waits": waited}
        if case.bytes:
            same |= {"GB/s": round(rate / 1e9, 1), "of_copy": round(rate / bandwidth, 3)}
        for name in list(each)[1:]:
            ratio = statistics.median(
                t / o for t, o in zip(times[name], times["ours"], strict=True)
            )
            yield same | {
                "against": name, "ms": round(statistics.median(times[name]), 5),
                "times": round(ratio, 3), "their_peak_mb": peaks[name],
            }  # fmt: skip
    for name, reason in missing.items():
        yield {"against": name, "note": reason}


def interpreted(case: Case) -> Iterator[Row]:
    """Yield a row for each baseline: whether it can be called at all."""
    calls, missing = callable_of(case)
    for name in case.against:
        yield {"against": name, "note": "called" if name in calls else missing[name]}


def rows(goals: list[str], rounds: int, *, tiny: bool) -> Iterator[Row]:
    """Yield the rows of some goals."""
    bandwidth = 0.0 if tiny else copy_bandwidth()
    for goal in goals:
        torch.manual_seed(0)
        for case in GOALS[goal](tiny):
            same = {"goal": goal, "case": case.what, "dtype": str(case.dtype)[6:]}
            off = case.error()
            same |= {"off": round(off, 4)} | case.told
            if not off <= 1:
                yield same | {"note": "wrong: not timed", "failed": True}
                continue
            try:
                for row in interpreted(case) if tiny else measured(case, rounds, bandwidth):
                    yield same | row
            except torch.cuda.OutOfMemoryError as error:
                yield same | {"note": reason_of(error)}


def write(path: Path, kept: list[Row]) -> None:
    columns = list(dict.fromkeys(name for row in kept for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--goals", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--interpret", action="store_true", help="tiny shapes, without a GPU")
    parser.add_argument("--csv", type=Path, help="write the rows here as well, as they come")
    given = parser.parse_args()
    if DEVICE != "cuda" and not given.interpret:
        parser.error("there is no CUDA device; --interpret checks every case without one")
    torch.backends.cuda.matmul.allow_tf32 = False  # as the kernels, which round to nothing shorter
    machine, kept = versions(), []
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    for row in rows(given.goals, given.rounds, tiny=given.interpret):
        print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        kept.append(machine | row)
        if given.csv:
            write(given.csv, kept)
    failed = sum("failed" in row for row in kept)
    print(f"{len(kept)} rows, {failed} cases wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
