"""How much accuracy a classifier of twelve blocks keeps with nine, six and three of them.

`python bench_depth.py --data FOLDER --csv rows.csv` trains small transformers on Fashion-MNIST
(`FOLDER` holds the four official `.gz` files), or with `--net convolutional` small residual nets,
and shortens them: by a plan, with bridges in closed
form, with some steps of distillation, and by dropping blocks from the end. The plan sees 2,000
training images that the net was not trained on; accuracy is that of the 10,000 test images. `kept`
is the share of the whole net's accuracy. `--seed 0` runs one net alone; rows are appended.
"""

import argparse
import gzip
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from bench_ranking import append
from planted_zoo import BLOCKS, Attending
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import carry_out, distill, plan, reestimate_norms

Row = dict[str, Any]
Images = tuple[Tensor, Tensor]
HELD_BACK = 2000
KEYS = ("way", "blocks")


class Transformer(nn.Module):
    """Sixteen patches of an image through twelve pre-norm transformer blocks."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width // 2, 3, stride=2, padding=1)
        self.patch = nn.Conv2d(width // 2, width, 4, stride=4, padding=1)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(Attending(0.0, width, causal=False) for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(F.gelu(self.stem(x))).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Residual(nn.Module):
    """A basic block of a residual net: two convolutions with batch norms, and the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(x + self.norm2(self.second(y)))


class Convolutional(nn.Module):
    """Twelve residual blocks on a grid of 14 by 14."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(BLOCKS))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


NETS = {"transformer": Transformer, "convolutional": Convolutional}


def images(folder: Path, part: str) -> Images:
    """Pictures, centred, and labels of one of the two parts."""
    x = _bytes(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    return (x.float() / 255 - 0.286) / 0.353, _bytes(folder / f"{part}-labels-idx1-ubyte.gz", 8)


def _bytes(path: Path, head: int) -> Tensor:
    with gzip.open(path) as file:
        return torch.frombuffer(bytearray(file.read()[head:]), dtype=torch.uint8).long()


def trained(kind: str, seed: int, train: Images, epochs: int, cache: str | None) -> nn.Module:
    """A net trained on all but the images that are held back."""
    torch.manual_seed(seed)
    net: nn.Module = NETS[kind]()
    kept = None if cache is None else Path(cache) / f"{kind}-{seed}-{epochs}.safetensors"
    if kept is not None and kept.exists():
        net.load_state_dict(load_file(kept))
        return net.eval()
    x, y = (part[:-HELD_BACK] for part in train)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    total = epochs * (len(x) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=total)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            if len(rows) < 100:
                continue
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), kept)
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, test: Images) -> float:
    """Share of the test images named rightly."""
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in zip(*_parts(test, 500), strict=True))
    return right / len(test[0])


def _parts(pair: Images, size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return pair[0].split(size), pair[1].split(size)


def rows_of(seed: int, options: argparse.Namespace, train: Images, test: Images) -> list[Row]:
    """Every way to shorten one net."""
    net = trained(options.net, seed, train, options.epochs, options.cache)
    batches = list(zip(*_parts((train[0][-HELD_BACK:], train[1][-HELD_BACK:]), 100), strict=True))
    lessons = list(train[0][:-HELD_BACK].split(100))
    whole = accuracy(net, test)
    of = {"net": options.net, "seed": seed}
    rows = [{**of, **_row(BLOCKS, "whole", whole, whole, net, 0.0)}]
    for units in options.blocks or (9, 6, 3):
        start = time.perf_counter()
        found = plan(net, batches, units=units, seed=seed)
        took = time.perf_counter() - start
        last = [f"blocks.{n}" for n in range(units, BLOCKS)]
        for way, removals, bridges in (
            ("plan, bridges", found.removals, found.bridges),
            ("plan", found.removals, {}),
            ("from the end", last, {}),
        ):
            start = time.perf_counter()
            small = carry_out(net, removals, example=batches[0], bridges=bridges).model
            spent = time.perf_counter() - start + (0.0 if way == "from the end" else took)
            rows.append(
                {
                    "net": options.net,
                    "seed": seed,
                    **_row(units, way, accuracy(small, test), whole, small, spent),
                }
            )
            start = time.perf_counter()
            judged = [x for x, _ in batches]
            reestimate_norms(small, judged)  # none in a transformer
            distill(small, net, lessons, held_out=judged, steps=options.steps, seed=seed)
            spent += time.perf_counter() - start
            right = accuracy(small.eval(), test)
            rows.append(
                {
                    "net": options.net,
                    "seed": seed,
                    **_row(units, f"{way}, healing", right, whole, small, spent),
                }
            )
            print(*rows[-2:], sep="\n", flush=True)
    return rows


def _row(units: int, way: str, right: float, whole: float, net: nn.Module, seconds: float) -> Row:
    return {
        "blocks": units,
        "way": way,
        "accuracy": round(right, 4),
        "kept": round(right / whole, 4),
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": round(seconds, 1),
    }


def table(rows: list[Row]) -> str:
    """Mean and least share of the accuracy kept, over seeds."""
    lines = [f"{'way':24}{'blocks':>7}{'nets':>5}{'kept':>8}{'min':>8}{'accuracy':>10}"]
    for kind in dict.fromkeys(tuple(row[key] for key in KEYS) for row in rows):
        mine = [row for row in rows if tuple(row[key] for key in KEYS) == kind]
        way, units = kind
        kept = [row["kept"] for row in mine]
        lines.append(
            f"{way:24}{units:7d}{len(mine):5d}{statistics.fmean(kept):8.4f}{min(kept):8.4f}"
            f"{statistics.fmean(row['accuracy'] for row in mine):10.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Trains, shortens, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--net", choices=list(NETS), default="transformer")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--blocks", type=int, action="append", help="how many to keep: 9, 6 and 3")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150, help="of distillation, of 100 images")
    parser.add_argument("--cache", help="a folder for trained nets, so that each is trained once")
    parser.add_argument("--csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (images(options.data, part) for part in ("train", "t10k"))
    rows: list[Row] = []
    for seed in options.seed or (0, 1):
        new = rows_of(seed, options, train, test)
        rows += new
        if options.csv:
            append(options.csv, new)
    print(table(rows))


if __name__ == "__main__":
    main()
