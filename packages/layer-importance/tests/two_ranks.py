"""What each of two processes does; torchrun starts it, test_distributed.py reads what it writes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layer_importance import Method, Report, analyze
from layer_importance.distributed import analyze as analyze_together
from layer_importance.methods import (
    LayerAblation,
    PosteriorNoise,
    Shapley,
    UncertaintyQuantification,
)

METHODS = [
    "block_influence",
    "skip_attribution",
    "fisher_information",
    "empirical_fisher",
    "exact_fisher",
    "gradient_based",
    "gradient_flow",
    "neuron_activation",
    "layer_correlation",
    "bridgeability",
    "spectral_analysis",
    "snip",
    "layer_ablation",
    "shapley",
    "synflow",
    "causal_analysis",
    "attribution_patching",
    "uncertainty_quantification",
    "conductance",
    "meta_learning",
    "hessian_trace",
    "learned_gates",
]
"""In sweeps, with batches shared, and one process's."""


SHARED = ["layer_ablation", "shapley", "causal_analysis", "conductance"]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), *[Block(8) for _ in range(4)], nn.Linear(8, 3)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(47, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (47,), generator=generator)
    return list(zip(x.split(10), y.split(10), strict=True))


def options() -> list[Method]:
    """Methods with options that draw or need all data first, under names of their own."""
    found: list[Method] = [
        LayerAblation(mode="mean"),
        LayerAblation(mode="resample"),
        UncertaintyQuantification(noise=PosteriorNoise(), draws=3),
        Shapley(depth=2, permutations=2),
    ]
    for place, method in enumerate(found):
        method.name = f"option_{place}"  # type: ignore[misc]
    return found


def alone() -> Report:
    return analyze(net(), batches(), methods=[*METHODS, *options()])


def chosen_alone() -> Report:
    return analyze(net(), batches(), methods="auto", bottom=2)


def runs(analysis: Callable[..., Report], method: str) -> int:
    """How often a batch of ten goes through the last layer: probing takes fewer samples."""
    model, seen = net(), []

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(len(output) > 3)

    model[-1].register_forward_hook(count)
    analysis(model, batches(), methods=[method])
    return sum(seen)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    said = {}
    together = analyze_together(net(), batches(), methods=[*METHODS, *options()])
    together.save(folder / f"report.{rank}")
    chosen = analyze_together(net(), batches(), methods="auto", bottom=2)
    chosen.save(folder / f"auto.{rank}")
    one = analyze_together(net(), batches()[:1], methods=["block_influence"])
    said["one batch"] = f"{one.samples} samples in {one.batches} batches"
    for method in SHARED:
        said[method] = str(runs(analyze_together, method))
    broken = batches()
    if rank == 1:
        broken[3][0][0, 0] = torch.nan
    for what, arguments in {
        "a failure": (net(), broken, ["block_influence"]),
        "another model": (net(rank), batches(), ["block_influence"]),
        "no such method": (net(), batches(), ["magic"]),
        "no such choice": (net(), batches(), "magic"),
        "all is well again": (net(), batches(), ["block_influence"]),
    }.items():
        model, data, methods = arguments
        try:
            said[what] = str(analyze_together(model, data, methods=methods).samples)
        except (ValueError, RuntimeError) as error:
            said[what] = f"{type(error).__name__}: {error}".splitlines()[0]
    lines = [f"{what}: {words}" for what, words in said.items()]
    (folder / f"words.{rank}").write_text("\n".join(lines))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # threads of gloo can abort a process whose interpreter is being torn down
