"""Time a LIF layer over all steps, forward and backward, against SpikingJelly and snnTorch.

Rows `spikingjelly` and `snntorch` are theirs on the CPU (multi-step node of torch operations;
`Leaky` stepped in a loop), with the same soft reset, surrogate and decay; before anything is timed,
spikes must be equal and gradients agree to 1e-5. `spikingjelly/x` and `snntorch/x` say how many
times longer theirs take. Calls take turns, the second of two is timed; medians. Spikes are dense
but for `spike_out`, which returns bits; `bits` is the rectangular surrogate, which keeps two bits.

    python bench_neurons.py [--steps 16] [--width 2048] [--rounds 15] [--threads 1] [--csv PATH]

It needs spikingjelly (2.0) and snntorch (1.0) beside this package, and a C compiler.
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spike_ops.neuron import LIF, build
from spike_ops.surrogate import Rectangular

Run = Callable[[Tensor], Tensor]
BATCH = 64


def spikingjelly() -> Run:
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.LIFNode(
        tau=2.0, v_reset=None, surrogate_function=surrogate.ATan(), step_mode="m"
    )  # fmt: skip

    def run(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(x)

    return run


def snntorch() -> Run:
    import snntorch as snn
    from snntorch import surrogate

    leaky = snn.Leaky(
        beta=0.5, reset_mechanism="subtract", reset_delay=False, spike_grad=surrogate.atan(2.0)
    )  # fmt: skip

    def run(x: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(x[0]), []
        for current in (x * 0.5).unbind(0):
            fired, membrane = leaky(current, membrane)
            spikes.append(fired)
        return torch.stack(spikes)

    return run


def ours() -> dict[str, Run]:
    soft: dict[str, Any] = {"tau": 2.0, "reset": "soft"}
    return {
        "reference": LIF(**soft, backend="reference"),
        "eager": LIF(**soft, backend="eager"),
        "compiled": LIF(**soft, backend="compiled"),
        "compiled strict": LIF(**soft, backend="compiled", strict=True),
        "compiled spike_out": LIF(**soft, backend="compiled", spike_out=True),
        "compiled bits spike_out": LIF(
            **soft, backend="compiled", spike_out=True, surrogate=Rectangular()
        ),
    }


def one(run: Run, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    x.grad = None
    spikes = run(x)
    spikes.backward(g)
    assert x.grad is not None
    return spikes.detach(), x.grad


def check(runs: dict[str, Run], x: Tensor, g: Tensor) -> None:
    for theirs, same in (("spikingjelly", "compiled"), ("snntorch", "compiled strict")):
        spikes, gradient = one(runs[theirs], x, g)
        found, by_x = one(runs[same], x, g)
        assert torch.equal(found, spikes), f"{theirs}: spikes differ"
        torch.testing.assert_close(by_x, gradient, rtol=1e-5, atol=1e-5)
        assert 0.02 < found.mean() < 0.5


def rows(steps: int, width: int, rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    # weak enough that no membrane stays above the threshold after one subtraction: there snnTorch
    # subtracts again in the next step
    x = (torch.randn(steps, BATCH, width) * 0.8 + 0.4).clamp(max=1.4).requires_grad_()
    g = torch.randn(steps, BATCH, width)
    runs = {"spikingjelly": spikingjelly(), "snntorch": snntorch(), **ours()}
    check(runs, x, g)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            one(run, x, g)  # what the one before left in the cache is not this one's doing
            begun = time.perf_counter()
            one(run, x, g)
            times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(each) * 1e3 for name, each in times.items()}
    return [
        {
            "row": name,
            "ms": round(each, 2),
            "least_ms": round(min(times[name]) * 1e3, 2),
            "spikingjelly/x": round(medians["spikingjelly"] / each, 1),
            "snntorch/x": round(medians["snntorch"] / each, 1),
        }
        for name, each in medians.items()
    ]


def build_seconds() -> float:
    begun = time.perf_counter()
    build(LIF(2.0, reset="soft"), torch.zeros(1, 1))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    shape = f"T={told.steps} B={BATCH} N={told.width} float32"
    print(f"{shape}, {told.threads} thread(s), torch {torch.__version__}, {platform.machine()}")
    print(f"built in {build_seconds():.2f} s")
    found = rows(told.steps, told.width, told.rounds)
    for row in found:
        print("  ".join(f"{key} {value!s:>8}" for key, value in row.items()))
    if told.csv:
        with open(told.csv, "w", newline="") as file:  # noqa: PTH123
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
