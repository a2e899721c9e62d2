"""What the sweep costs: against one forward and backward pass, and against methods one by one.

`python bench_sweep.py --csv rows.csv` measures, prints and writes. Turns of eight batches alternate
in one process; seconds are the processor's, ratios are those of means. Memory is the largest sum of
live tensors that any moment of a step has, beyond the model and its batch, counted by storage.
"""

import argparse
import csv
import platform
import random
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from layer_importance import Subject, SweepMethod, Units, discover
from layer_importance._methods import BUILT_IN
from layer_importance._preserve import preserved
from layer_importance._sweep import Sweep
from layer_importance._tasks.classification import Classification

Row = dict[str, Any]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Tokens in, one label out."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Residual(nn.Module):
    """Two convolutions and a way past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in "12")
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Convolutional(nn.Module):
    """Images in, one label out."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def nets() -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield name, model and batch."""
    torch.manual_seed(0)
    for width, samples, tokens in ((96, 16, 64), (256, 16, 64)):
        ids = torch.randint(0, 100, (samples, tokens))
        model = Transformer(width, 12)
        yield f"transformer d{width} n{samples} t{tokens}", model, (ids, torch.arange(samples) % 10)
    for width, samples, side in ((24, 32, 16), (64, 16, 32)):
        x, labels = torch.randn(samples, 3, side, side), torch.arange(samples) % 10
        yield f"conv c{width} n{samples} s{side}", Convolutional(width, 12), (x, labels)


def sweep_methods() -> list[type[SweepMethod]]:
    """Return the methods that share the sweep, but for the one that costs a pass a class."""
    return [m for m in BUILT_IN if issubclass(m, SweepMethod) and m.name != "exact_fisher"]


GRADIENTS = (
    "empirical_fisher",
    "gradient_based",
    "skip_attribution",
    "gradient_flow",
    "attention_analysis",
    "block_influence",
)
"""What one backward pass gives: exact per-sample norms, and all that is read off streams."""
SAMPLED = (*GRADIENTS, "fisher_information", "snip")
"""With a second backward pass for drawn labels, and gradients of parameters."""


def one_backward() -> tuple[str, ...]:
    """Return all that one forward and one backward pass feed: no drawn labels."""
    return tuple(m.name for m in sweep_methods() if "sampled" not in m.needs)


def plain(model: nn.Module, batch: Any) -> None:
    """One forward and backward pass."""
    model.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()


@contextmanager
def sweeping(
    model: nn.Module, batch: Any, units: Units, kinds: Sequence[type[SweepMethod]]
) -> Iterator[tuple[Callable[[], None], int]]:
    """Yield what sends the batch through a sweep that has begun, and how many methods listen."""
    subject = Subject(model, units, Classification(), [batch])
    methods = [kind() for kind in kinds]
    methods = [method for method in methods if not method.unmet(subject)]
    with preserved(model, gradients=True):
        for method in methods:
            method.begin(subject)
        with Sweep(subject, methods) as sweep:
            yield lambda: sweep.run(batch), len(methods)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, by storage."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self._seen(tensor.untyped_storage())
        return output

    def _seen(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak(step: Callable[[], None]) -> int:
    """Return the most bytes that a step has alive beyond what was there."""
    with Live() as live:
        step()
    return live.peak


def turns(
    steps: dict[str, Callable[[], None]], seconds: float, least: int, repeats: int
) -> dict[str, list[float]]:
    """Return seconds a step, round by round, in an order drawn anew each round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names, order, end = list(steps), random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[names[0]]) < least:
        order.shuffle(names)
        for name in names:
            steps[name]()
            start = time.process_time()
            for _ in range(repeats):
                steps[name]()
            times[name].append((time.process_time() - start) / repeats)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    """Return how much longer one takes than the other.

    By means: rows that wait in some batches are summed up in others.
    """
    return statistics.mean(times[name]) / statistics.mean(times[base])


def measure(seconds: float, which: str, *, alone_too: bool) -> Iterator[Row]:
    """Yield a row for each net and set of methods, then one for each method alone."""
    for name, model, batch in nets():
        if which not in name:
            continue
        model.eval()
        units = discover(model, batch)
        base = peak(lambda m=model, b=batch: plain(m, b))
        model.zero_grad()
        kinds = {kind.name: kind for kind in sweep_methods()}
        sets = {"gradients": GRADIENTS, "gradients, sampled": SAMPLED}
        sets |= {"one backward pass": one_backward(), "all": tuple(kinds)}
        sets |= {name: (name,) for name in kinds} if alone_too else {}
        alone: dict[str, float] = {}
        for title, names in reversed(sets.items()):
            chosen = [kinds[n] for n in names if n in kinds]
            single = title in kinds
            with sweeping(model, batch, units, chosen) as (step, count):
                steps = {"plain": lambda m=model, b=batch: _required(plain, m, b), "sweep": step}
                least, repeats = (3, 2) if single else (3, 8)
                times = turns(steps, seconds / 4 if single else seconds, least, repeats)
                row: Row = {"net": name, "methods": title, "count": count}
                row["plain s"] = statistics.median(times["plain"])
                row["to plain"] = ratio(times, "sweep", "plain")
                row["memory"] = peak(step) / base - 1
            if single and count:
                alone[title] = row["to plain"]
            elif alone_too:
                row["to one by one"] = row["to plain"] / sum(alone[n] for n in names if n in alone)
            yield row


def _required(step: Callable[..., None], model: nn.Module, *args: Any) -> None:
    """Run a step with the gradients of parameters that the sweep switches off."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    hooks = [(m, m._forward_hooks.copy(), m._forward_pre_hooks.copy()) for m in model.modules()]
    for parameter, _ in flags:
        parameter.requires_grad_(True)
    for module, _, _ in hooks:
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    step(model, *args)
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        parameter.grad = None
    for module, after, before in hooks:
        module._forward_hooks.update(after)
        module._forward_pre_hooks.update(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", help="where to write the rows")
    parser.add_argument("--seconds", type=float, default=4.0, help="a set of methods")
    parser.add_argument("--net", default="", help="only nets with this in their name")
    parser.add_argument("--sets-only", action="store_true", help="no method alone")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    rows = []
    for row in measure(arguments.seconds, arguments.net, alone_too=not arguments.sets_only):
        rows.append(row)
        shown = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        print(" | ".join(shown), flush=True)
    if arguments.csv:
        keys = list(dict.fromkeys(key for row in rows for key in row))
        with Path(arguments.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
