"""What each of two processes does; torchrun starts it, test_distributed.py reads what it writes."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layer_importance import Report, analyze
from layer_importance.distributed import analyze as analyze_together

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
]


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


def alone() -> Report:
    return analyze(net(), batches(), methods=METHODS)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    said = {}
    analyze_together(net(), batches(), methods=METHODS).save(folder / f"report.{rank}")
    one = analyze_together(net(), batches()[:1], methods=["block_influence"])
    said["one batch"] = f"{one.samples} samples in {one.batches} batches"
    broken = batches()
    if rank == 1:
        broken[3][0][0, 0] = torch.nan
    for what, arguments in {
        "a failure": (net(), broken, ["block_influence"]),
        "another model": (net(rank), batches(), ["block_influence"]),
        "no such method": (net(), batches(), ["magic"]),
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
