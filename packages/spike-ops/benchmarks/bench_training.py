"""Time a training step of a 3-layer spiking net against SpikingJelly's: forward, loss, backward.

784-1024-1024-10, LIF (tau 2, hard reset with a detached gradient), cross entropy of the mean
currents. Inputs are spikes at random. Both sides have the same weights, scaled
so that the hidden layers fire about as often as the input; before anything is timed, the loss must
agree to 1e-4 and the gradients to 1e-2 of their norm (sums in another order flip a few spikes).
Calls take turns, the second of two is timed; medians. `times` is how often ours fits into theirs.

Rows, for the arctangent as surrogate and for the rectangular window: `kernels` (spikes as bits
between layers, everything built), `ours` (only the neurons built), `unbuilt` (no compiler), and
SpikingJelly with the same surrogate, which the gradients of each are compared with.

    python bench_training.py [--steps 16] [--batch 64] [--density 0.03] [--rounds 9] [--csv PATH]

It needs spikingjelly (2.0) beside this package, and a C compiler.
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spike_ops import Calibration, SpikeTensor, _native, compile_kernels, use_calibration
from spike_ops._calibration import NATIVE
from spike_ops.neuron import LIF, build
from spike_ops.nn import Linear
from spike_ops.surrogate import ATan, Rectangular, Surrogate

WIDTHS = (784, 1024, 1024, 10)
SURROGATES = {"arctangent": ATan(), "rectangular": Rectangular()}


@contextmanager
def kernels(*, used: bool) -> Iterator[None]:
    """Have products go by the compiled kernels, or as if they had never been."""
    compile_kernels()
    held = list(_native._libraries)
    try:
        if not used:
            _native._libraries.clear()
        with use_calibration(NATIVE if used else Calibration()):
            yield
    finally:
        _native._libraries[:] = held


def ours(surrogate: Surrogate, *, backend: Any = "auto") -> nn.Sequential:
    """Return the net of this package."""
    a, b, c, d = WIDTHS
    options = {"surrogate": surrogate, "detach_reset": True, "spike_out": True, "backend": backend}
    return nn.Sequential(
        Linear(a, b, spike_in=True), LIF(2.0, **options),
        Linear(b, c, spike_in=True), LIF(2.0, **options),
        Linear(c, d, spike_in=True),
    )  # fmt: skip


def theirs(name: str) -> nn.Sequential:
    """Return SpikingJelly's net."""
    from spikingjelly.activation_based import neuron, surrogate

    chosen = {"arctangent": surrogate.ATan, "rectangular": surrogate.Rect}[name]

    def node() -> nn.Module:
        return neuron.LIFNode(
            tau=2.0, detach_reset=True, surrogate_function=chosen(), step_mode="m"
        )

    a, b, c, d = WIDTHS
    return nn.Sequential(nn.Linear(a, b), node(), nn.Linear(b, c), node(), nn.Linear(c, d))


def step(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Make gradients of a batch, and return its loss."""
    for module in net.modules():
        if hasattr(module, "reset") and not isinstance(module, LIF):
            module.reset()
    net.zero_grad()
    loss = F.cross_entropy(net(x).mean(0), y)
    loss.backward()
    return float(loss.detach())


def fire_as_often(net: nn.Sequential, x: Tensor, density: float) -> list[float]:
    """Scale the weights of hidden layers until they fire at a density; return what came."""
    rates = []
    with torch.no_grad():
        for place in (0, 2):
            net[place].bias.zero_()
            low, high = 0.0, 64.0
            first = net[place].weight.clone()
            for _ in range(20):
                net[place].weight.copy_(first * (low + high) / 2)
                spikes = net[: place + 2](x)
                rate = float(spikes.to_dense().mean())
                low, high = (low, (low + high) / 2) if rate > density else ((low + high) / 2, high)
            rates.append(rate)
    return rates


def check(one: nn.Sequential, other: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Raise unless both sides compute the same."""
    apart = abs(step(one, x, y) - step(other, x.to_dense(), y))
    if apart > 1e-4:
        raise RuntimeError(f"losses must agree to 1e-4, differ by {apart:.2g}")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        if (a.grad - b.grad).norm() > 1e-2 * b.grad.norm():
            raise RuntimeError(
                f"gradients must agree to 1e-2, differ by {(a.grad - b.grad).norm()}"
            )


def rows(
    surrogate: str, steps: int, batch: int, density: float, rounds: int
) -> list[dict[str, Any]]:
    """Return medians of all sides with a surrogate."""
    chosen = SURROGATES[surrogate]
    torch.manual_seed(0)
    dense = (torch.rand(steps, batch, WIDTHS[0]) < density).float()
    x, y = SpikeTensor.from_dense(dense), torch.randint(10, (batch,))
    sides = {
        "kernels": ours(chosen),
        "ours": ours(chosen),
        "unbuilt": ours(chosen, backend="eager"),
        "spikingjelly": theirs(surrogate),
    }
    for name in ("kernels", "ours"):
        build(sides[name], dense)
    rates = fire_as_often(sides["ours"], x, density)
    state = {name: value.clone() for name, value in sides["ours"].state_dict().items()}
    for net in sides.values():
        net.load_state_dict(state)
    for name in ("kernels", "ours"):
        with kernels(used=name == "kernels"):
            check(sides[name], sides["spikingjelly"], x, y)
    inputs = {name: dense if name == "spikingjelly" else x for name in sides}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, net in sides.items():
            with kernels(used=name == "kernels"):
                step(net, inputs[name], y)
                begun = time.perf_counter()
                step(net, inputs[name], y)
                times[name].append(time.perf_counter() - begun)
    whole = statistics.median(times["spikingjelly"])
    return [
        {
            "surrogate": surrogate, "row": name, "density": density, "rate1": round(rates[0], 4),
            "rate2": round(rates[1], 4), "ms": round(1e3 * statistics.median(each), 2),
            "least_ms": round(1e3 * min(each), 2),
            "times": round(whole / statistics.median(each), 2),
        }
        for name, each in times.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--density", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--csv", type=Path)
    told = parser.parse_args()
    shape = f"T={told.steps} B={told.batch} {'-'.join(map(str, WIDTHS))} float32"
    threads = torch.get_num_threads()
    print(f"{shape}, {threads} thread(s), torch {torch.__version__}, {platform.machine()}")
    found = []
    for density in told.density:
        for surrogate in SURROGATES:
            for row in rows(surrogate, told.steps, told.batch, density, told.rounds):
                print("  ".join(f"{key} {value!s:>8}" for key, value in row.items()), flush=True)
                found.append(row)
    if told.csv:
        with told.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
