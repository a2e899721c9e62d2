"""Count the spikes that differ after a graph went through a file and another library's importer.

Networks of dyadic weights and inputs (multiples of 1/16, so that sums are exact) are exported with
`to_nir`, written, read by the importer and run step by step. A flip is an output spike, of all
steps, that differs from the network's own. Rows of what a library has no node for say so.

Rows "in metadata" export soft resets as NIR's own neurons whose metadata say what they are: read as
they are, a reset to 0; "told", with the importer's neurons set to the reset that the metadata name.

    python nir_roundtrip.py [--steps 300] [--csv PATH]

It needs nir and h5py beside this package; spikingjelly (2.0), snntorch (1.0) and nirtorch (2.6) for
their columns, which name what is not installed. `nirtorch` runs Euler steps written here from the
definition of the nodes, in float64: what any reader of the format can compute.
"""

import argparse
import contextlib
import csv
import functools
import importlib.metadata
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops.neuron import IF, LIF, Recurrent
from spike_ops.nir import from_nir, read, to_nir, write

DT = 1e-4  # the step that snnTorch's importer takes every graph to have
Run = Callable[[Path, Tensor], Tensor]


def dyadic(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(torch.randint(-12, 20, each.shape, generator=generator) / 16)
    return net


def recurrent(*, bias: bool) -> nn.Module:
    connection = nn.Linear(16, 16, bias=bias)
    return dyadic(
        nn.Sequential(nn.Linear(8, 16), Recurrent(LIF(4.0, decay_input=False), connection))
    )


def networks() -> dict[str, nn.Module]:
    def two(**options: Any) -> nn.Module:
        return dyadic(
            nn.Sequential(
                nn.Linear(8, 16), LIF(4.0, **options), nn.Linear(16, 4), LIF(2.0, **options)
            )
        )

    return {
        "hard": two(decay_input=False),
        "hard, decay_input": two(decay_input=True),
        "hard, strict": two(decay_input=False, strict=True),
        "integrators": dyadic(
            nn.Sequential(nn.Linear(8, 16), IF(), nn.Linear(16, 4), IF(strict=True))
        ),
        "soft": two(reset="soft", decay_input=False),
        "soft, delayed": two(reset="soft", reset_delay=True, decay_input=False),
        "recurrent": recurrent(bias=False),
        "recurrent, bias": recurrent(bias=True),
    }


def softened(net: nn.Module) -> nn.Module:
    """Set the neurons of an imported network to the soft reset of their metadata."""
    for each in net.modules():
        if hasattr(each, "reset_mechanism"):  # snnTorch
            each.reset_mechanism = "subtract"
            each.state_function = each._base_sub
            each.reset_delay = False
        elif hasattr(each, "v_reset"):  # SpikingJelly
            each.v_reset = None
    return net


def own(path: Path, x: Tensor) -> Tensor:
    return from_nir(path, dt=DT)(x)


def stepped(net: Any, x: Tensor) -> Tensor:
    state, out = None, []
    for current in x:
        spikes, state = net(current, state)
        out.append(spikes.reshape(current.shape[0], -1))
    return torch.stack(out)


def spikingjelly(path: Path, x: Tensor, told: bool = False) -> Tensor:
    from spikingjelly.activation_based import nir_exchange

    net = nir_exchange.import_from_nir(path, dt=DT)
    return stepped(softened(net) if told else net, x)


class Leak(nn.Module):
    """One Euler step of NIR's LI, LIF and IF, from their definitions."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        fields = ("tau", "r", "v_leak", "v_threshold", "v_reset")
        self.own = {f: torch.from_numpy(getattr(node, f)) for f in fields if hasattr(node, f)}

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        own = self.own
        v = torch.zeros_like(x).double() if state is None else state
        leak = (own["v_leak"] - v) / own["tau"] if "tau" in own else 0.0
        v = v + DT * (leak + own["r"] * x / own.get("tau", 1.0))
        if "v_threshold" not in own:
            return v, v
        s = (v > own["v_threshold"]).double()
        return s, torch.where(s > 0, own["v_reset"], v)


class Apply(nn.Module):
    """A node without a state."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.double())


def nirtorch(path: Path, x: Tensor) -> Tensor:
    import nir
    import nirtorch as reader

    def tensor(value: Any) -> Tensor:
        return torch.from_numpy(value).double()

    nodes = {
        nir.Affine: lambda n: Apply(
            lambda x: nn.functional.linear(x, tensor(n.weight), tensor(n.bias))
        ),
        nir.Linear: lambda n: Apply(lambda x: nn.functional.linear(x, tensor(n.weight))),
        nir.LIF: Leak,
        nir.IF: Leak,
        nir.LI: Leak,
        nir.Threshold: lambda n: Apply(lambda v: (v > tensor(n.threshold)).double()),
        nir.Scale: lambda n: Apply(lambda x: x * tensor(n.scale)),
    }
    return stepped(reader.nir_to_torch(read(path), nodes), x)


def snntorch(path: Path, x: Tensor, told: bool = False) -> Tensor:
    from snntorch.import_nir import import_from_nir

    net = import_from_nir(read(path))
    return stepped(softened(net) if told else net, x)


def rows(steps: int) -> list[dict[str, str]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-8, 24, (steps, 4, 8), generator=generator) / 16
    importers: dict[str, Run] = {
        "own": own, "nirtorch": nirtorch, "spikingjelly": spikingjelly, "snntorch": snntorch
    }  # fmt: skip
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, net in networks().items():
            path = Path(folder) / "net.nir"
            write(to_nir(net, dt=DT), path)
            found.append(row_of(kind, net(x), importers, path, x))
        net = networks()["soft"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is another network until it is told
            write(to_nir(net, dt=DT, soft_reset="metadata"), path)
        found.append(row_of("soft, in metadata", net(x), importers, path, x))
        after = {
            name: functools.partial(run, told=True) if name in {"spikingjelly", "snntorch"} else run
            for name, run in importers.items()
        }
        found.append(row_of("soft, in metadata, told", net(x), after, path, x))
    return found


def row_of(
    kind: str, expected: Tensor, importers: dict[str, Run], path: Path, x: Tensor
) -> dict[str, str]:
    row = {"network": kind, "rate": f"{expected.mean().item():.3f}"}
    return row | {name: flips(run, path, x, expected) for name, run in importers.items()}


@torch.no_grad()
def flips(run: Run, path: Path, x: Tensor, expected: Tensor) -> str:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            got = run(path, x)
    except ModuleNotFoundError as error:
        return f"not installed: {error.name}"
    except Exception as error:  # a library that cannot read a graph says so in its own way
        return f"refused: {type(error).__name__}: {str(error).splitlines()[0][:60]}"
    return f"{int((got != expected).sum())} of {expected.numel()}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    found = rows(options.steps)
    for name in ("nir", "nirtorch", "spikingjelly", "snntorch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            print(f"{name} {importlib.metadata.version(name)}")
    for row in found:
        print("  ".join(f"{value:<24}" for value in row.values()))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
