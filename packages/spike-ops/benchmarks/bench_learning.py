"""STDP over a window: products of spikes with traces against a step loop, equal results first.

`python bench_learning.py --csv rows.csv` measures, prints and writes; pytest runs it as a bench.
The step loop is SpikingJelly's `stdp_linear_step` where it is installed, and fails by name where
it is not (`--without-spikingjelly` leaves it out); beside it stand the same loop with outer
products as matrix products, which is the best that a loop does, and the dense form of the rule.
Index building and packing from dense are part of every time, but in the rows "packed".
"""

import argparse
import csv
import importlib
import importlib.util
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spike_ops import SpikeTensor
from spike_ops.learning import EProp, PairSTDP, Proportional, exponential_trace

STEPS, BATCH, SIZE, TAU = 32, 16, 512, 2.0
# f(w) = w for weights in [0, 1], as the step loop has it
RULE = PairSTDP(TAU, TAU, dependence=Proportional())
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


def window(density: float) -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    pre, post = (
        (torch.rand(STEPS, BATCH, SIZE, generator=drawn) < density).float() for _ in range(2)
    )
    return pre, post, torch.rand(SIZE, SIZE, generator=drawn)


def spikingjelly(pre: Tensor, post: Tensor, weight: Tensor) -> Tensor:
    name = "spikingjelly.activation_based.functional.learning"
    step = importlib.import_module(name).stdp_linear_step
    traces, dw = (torch.zeros_like(pre[0]), torch.zeros_like(post[0])), torch.zeros_like(weight)
    for s, y in zip(pre, post, strict=True):
        change, traces = step(s, y, traces, weight, tau_pre=TAU, tau_post=TAU)
        dw += change
    return dw


def loop_of_products(pre: Tensor, post: Tensor, weight: Tensor) -> Tensor:
    p, q, dw = torch.zeros_like(pre[0]), torch.zeros_like(post[0]), torch.zeros_like(weight)
    for s, y in zip(pre, post, strict=True):
        p, q = p * (1 - 1 / TAU) + s, q * (1 - 1 / TAU) + y
        dw.addmm_(y.t(), p).addmm_(q.t(), s, alpha=-1)
    return dw.mul_(weight)


def dense_products(pre: Tensor, post: Tensor, weight: Tensor) -> Tensor:
    p, q = (exponential_trace(each, 1 - 1 / TAU).flatten(0, 1) for each in (pre, post))
    return (post.flatten(0, 1).t() @ p).sub_(q.t() @ pre.flatten(0, 1)).mul_(weight)


def from_dense(pre: Tensor, post: Tensor, weight: Tensor) -> Tensor:
    return RULE(pre, post, weight).dw


def from_packed(pre: Tensor, post: Tensor, weight: Tensor) -> Tensor:
    return RULE(fresh(pre), fresh(post), weight).dw


def fresh(spikes: Tensor) -> SpikeTensor:
    # the same bits with no position found yet
    assert isinstance(spikes, SpikeTensor)
    return SpikeTensor(spikes.packed, spikes.shape, spikes.dtype)


WAYS: dict[str, Rule] = {
    "SpikingJelly, step loop": spikingjelly,
    "step loop of products": loop_of_products,
    "dense products": dense_products,
    "PairSTDP, dense spikes": from_dense,
    "PairSTDP, packed spikes": from_packed,
}


def given(name: str, density: float, few: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    pre, post, weight = window(density)
    pre, post = pre[:, :few].contiguous(), post[:, :few].contiguous()
    if "packed" in name:
        return SpikeTensor.from_dense(pre), SpikeTensor.from_dense(post), weight
    return pre, post, weight


def medians(ways: dict[str, Rule], density: float, budget: float) -> dict[str, float]:
    """Return the median seconds of every way; they take turns until the budget is spent."""
    calls = {name: (way, given(name, density)) for name, way in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + budget
    while time.perf_counter() < until or len(found[next(iter(found))]) < 3:
        for name, (way, inputs) in calls.items():
            # as often as the slowest would allow, so that fast ways are not timed cold alone
            for _ in range(1 if "loop" in name else 5):
                start = time.perf_counter()
                way(*inputs)
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def eprop_rows(budget: float) -> list[dict[str, object]]:
    """Return e-prop of adaptive neurons by products, and by a matrix of eligibilities a step."""
    pre, post, weight = window(0.05)
    drawn = torch.Generator().manual_seed(1)
    psi, signal = torch.rand(post.shape, generator=drawn), torch.randn(post.shape, generator=drawn)
    rule = EProp(0.9, kappa=0.8, beta=0.3, rho=0.95)
    wanted = rule.reference(pre, psi, signal, weight).dw
    found = rule(pre, psi, signal, weight).dw
    off = float((found - wanted).abs().max() / wanted.abs().max())
    if off > 1e-5:
        raise RuntimeError(f"EProp differs from its definition by {off:.1e}")
    ways: dict[str, Callable[..., object]]
    ways = {"step loop of eligibilities": rule.reference, "EProp": rule}
    times: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + budget
    while time.perf_counter() < until or len(times["EProp"]) < 3:
        for name, run in ways.items():
            start = time.perf_counter()
            run(pre, psi, signal, weight)
            times[name].append(time.perf_counter() - start)
    slow, fast = (statistics.median(each) for each in times.values())
    return [
        {"what": name, "ms": seconds * 1e3, "x of the loop": slow / seconds, "difference": off}
        for name, seconds in zip(times, (slow, fast), strict=True)
    ]


def check(ways: dict[str, Rule], density: float) -> float:
    """Return the largest difference between the ways, relative to the largest change.

    Raises:
        RuntimeError: They do not compute the same.
    """
    results = {name: way(*given(name, density)) for name, way in ways.items()}
    wanted = loop_of_products(*(each.double() for each in window(density)))
    worst = 0.0
    for name, dw in results.items():
        off = float((dw - wanted).abs().max() / wanted.abs().max())
        worst = max(worst, off)
        if off > 1e-5:
            raise RuntimeError(f"{name} differs from the loop by {off:.1e}")
    return worst


def peak_growth(name: str, density: float) -> int:
    """Return the bytes by which one call raises the peak of a process of its own."""
    asked = [sys.executable, __file__, "--peak", name, "--densities", str(density)]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, density: float) -> None:
    inputs = given(name, density)
    WAYS[name](*given(name, density, few=2))  # so that all libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before = peak_kb()
    WAYS[name](*inputs)
    print((peak_kb() - before) * 1024)


def peak_kb() -> int:
    told = Path("/proc/self/status").read_text()
    return int(told.split("VmHWM:")[1].split()[0])


def rows(densities: list[float], ways: dict[str, Rule], budget: float) -> list[dict[str, object]]:
    table: list[dict[str, object]] = []
    for density in densities:
        worst = check(ways, density)
        times = medians(ways, density, budget)
        for name, seconds in times.items():
            row: dict[str, object] = {"density": density, "way": name, "ms": seconds * 1e3}
            row |= {f"x of {slow}": times[slow] / seconds for slow in list(ways)[:2]}
            row["peak_mb"] = peak_growth(name, density) / 1e6
            table.append(row | {"worst_difference": worst})
    return table


def bench_stdp_is_equal_and_faster() -> None:
    ways = {name: way for name, way in WAYS.items() if name != "SpikingJelly, step loop"}
    assert check(ways, 0.05) <= 1e-5
    for row in rows([0.05], ways, 0.5):
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.05, 0.2])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--without-spikingjelly", action="store_true")
    parser.add_argument("--peak", choices=WAYS)
    asked = parser.parse_args()
    if asked.peak:
        return print_peak(asked.peak, asked.densities[0])
    ways = dict(WAYS)
    if asked.without_spikingjelly:
        del ways["SpikingJelly, step loop"]
    elif importlib.util.find_spec("spikingjelly") is None:
        raise SystemExit("spikingjelly is not installed; --without-spikingjelly goes without it")
    table = rows(asked.densities, ways, asked.seconds)
    print(f"T={STEPS} B={BATCH} {SIZE}x{SIZE} float32, {torch.get_num_threads()} thread(s)")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    for row in [*table, *eprop_rows(asked.seconds)]:
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()))
    if asked.csv:
        with asked.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return None


if __name__ == "__main__":
    main()
