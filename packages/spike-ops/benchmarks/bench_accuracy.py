"""Train the same spiking nets with this package and with SpikingJelly on real data.

Three sets: N-MNIST events, Fashion-MNIST images (a current that stays), spoken digits (log energies
of frequency bands). Both sides have the same layers, the same first weights (copied), the same
batches in the same order, the same optimiser, and neurons of the same equations: LIF, hard reset
with a detached gradient, arctangent surrogate. What differs is the order of sums, and then spikes
at the threshold; so runs drift apart, and what must agree is where they end. A row is a seed:
accuracies on the part that is not trained on, spikes a neuron a step there, and seconds (on a
machine that others use: no timing of record). The last lines are means over seeds, with the
standard error of the mean difference, in points.

    python bench_accuracy.py --data FOLDER [--only nmnist ...] [--seeds 3] [--csv PATH]

FOLDER holds nmnist-small/Train/CLASS/*.bin, fashion-mnist/*.gz (idx) and
fsdd-4spk/recordings/*.wav. It needs spikingjelly (2.0) beside this package.
"""

import argparse
import csv
import gzip
import math
import platform
import statistics
import time
import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spike_ops.events import EventFolder, to_frames
from spike_ops.neuron import LIF, build
from spike_ops.nn import Linear


class Task(NamedTuple):
    """Items with time as their first axis (or a current that stays), labels, and a net for them."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    steps: int
    widths: tuple[int, ...]
    epochs: int
    batch: int
    lr: float


def nmnist(data: Path) -> Task:
    """600 recordings of 34 x 34 pixels, halved, in 8 steps; every fifth is for testing."""
    folder = EventFolder(data / "nmnist-small" / "Train")
    frames = [
        F.max_pool2d((to_frames(events, 8) > 0).float(), 2).flatten(1) for events, _ in folder
    ]
    x, y = torch.stack(frames), torch.tensor(folder.labels)
    test = torch.arange(len(x)) % 5 == 0
    return Task((x[~test], y[~test]), (x[test], y[test]), 8, (578, 256, 10), 20, 32, 1e-3)


def fashion(data: Path) -> Task:
    """60,000 and 10,000 images as currents that stay for 4 steps."""
    parts = []
    for part in ("train", "t10k"):
        folder = data / "fashion-mnist"
        pixels = _idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 784)
        labels = _idx(folder / f"{part}-labels-idx1-ubyte.gz", 8)
        parts.append((torch.from_numpy(pixels.astype(np.float32) / 255),
                      torch.from_numpy(labels.astype(np.int64))))  # fmt: skip
    return Task(parts[0], parts[1], 4, (784, 256, 10), 3, 128, 1e-3)


def spoken(data: Path) -> Task:
    """2,000 recordings of 4 speakers, 40 bands in 25 steps; takes 0 to 4 are for testing."""
    files = sorted((data / "fsdd-4spk" / "recordings").glob("*.wav"))
    x = torch.stack([_energies(path) for path in files])
    y = torch.tensor([int(path.name[0]) for path in files])
    test = torch.tensor([int(path.stem.rsplit("_")[-1]) < 5 for path in files])
    return Task((x[~test], y[~test]), (x[test], y[test]), 25, (40, 128, 128, 10), 15, 64, 2e-3)


TASKS: dict[str, Callable[[Path], Task]] = {"nmnist": nmnist, "fashion": fashion, "spoken": spoken}


def _idx(path: Path, start: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=start)


def _energies(path: Path) -> Tensor:
    with wave.open(str(path), "rb") as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
    sound = F.pad(torch.from_numpy(raw / 32768), (0, max(0, 256 - len(raw))))
    power = torch.stft(sound, 256, 64, window=torch.hann_window(256), return_complex=True).abs()
    top = 2595 * math.log10(1 + 4000 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, 42) / 2595) - 1)
    places = torch.linspace(0, 4000, 129)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    up, down = (places - left) / (middle - left), (right - places) / (right - middle)
    bands = (torch.minimum(up, down).clamp(min=0) @ power.square() + 1e-6).log()
    timed = F.interpolate(bands[None], 25, mode="linear", align_corners=False)[0].T
    return (timed - timed.mean()) / timed.std()


def ours(widths: tuple[int, ...]) -> nn.Sequential:
    """Return the net of this package: spikes as bits, products by additions where they pay."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for size, following in pairwise(widths[1:]):
        neurons = LIF(2.0, detach_reset=True, spike_out=True)
        layers += [neurons, Linear(size, following, spike_in=True)]
    net = nn.Sequential(*layers)
    build(net, torch.zeros(1, 1))
    return net


def theirs(widths: tuple[int, ...]) -> nn.Sequential:
    """Return SpikingJelly's net of the same layers."""
    from spikingjelly.activation_based import neuron, surrogate

    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for size, following in pairwise(widths[1:]):
        node = neuron.LIFNode(
            tau=2.0, detach_reset=True, surrogate_function=surrogate.ATan(), step_mode="m"
        )
        layers += [node, nn.Linear(size, following)]
    return nn.Sequential(*layers)


def forget(net: nn.Module) -> None:
    """Have nodes that keep their state forget it."""
    for module in net.modules():
        if hasattr(module, "reset") and not isinstance(module, LIF):
            module.reset()


def timed(task: Task, x: Tensor) -> Tensor:
    """Return a batch [B, t, N] with the time first: [T, B, N]."""
    return x.transpose(0, 1).expand(task.steps, -1, -1)


def train(net: nn.Module, task: Task, seed: int) -> float:
    """Train, and return the seconds that it took."""
    optimiser = torch.optim.Adam(net.parameters(), task.lr)
    order = torch.Generator().manual_seed(seed)
    begun = time.perf_counter()
    for _ in range(task.epochs):
        for rows in torch.randperm(len(task.train[1]), generator=order).split(task.batch):
            forget(net)
            scores = net(timed(task, task.train[0][rows])).mean(0)
            loss = F.cross_entropy(scores, task.train[1][rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return time.perf_counter() - begun


def tested(net: nn.Module, task: Task) -> tuple[float, float]:
    """Return the accuracy in percent, and the spikes a neuron a step of the last hidden layer."""
    hits, fired, seen = 0, 0.0, 0
    x, y = task.test
    with torch.no_grad():
        for rows in torch.arange(len(y)).split(256):
            forget(net)
            spikes = net[:-1](timed(task, x[rows]))
            hits += int((net[-1](spikes).mean(0).argmax(1) == y[rows]).sum())
            fired += float(spikes.to_dense().sum() if hasattr(spikes, "packed") else spikes.sum())
            seen += spikes.numel()
    return 100 * hits / len(y), fired / seen


def row(name: str, task: Task, seed: int) -> dict[str, Any]:
    """Return what both sides come to from the same weights."""
    torch.manual_seed(seed)
    sides = {"ours": ours(task.widths), "spikingjelly": theirs(task.widths)}
    first = {k: v.clone() for k, v in sides["ours"].state_dict().items()}
    sides["spikingjelly"].load_state_dict(first)
    found: dict[str, Any] = {"task": name, "seed": seed}
    for side, net in sides.items():
        seconds = train(net, task, seed)
        accuracy, rate = tested(net, task)
        found |= {
            side: round(accuracy, 3), f"{side}_rate": round(rate, 4),
            f"{side}_s": round(seconds, 1),
        }  # fmt: skip
    return found | {"difference": round(found["ours"] - found["spikingjelly"], 3)}


def summary(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the means over seeds, and the difference with its standard error."""
    means = {k: statistics.mean(r[k] for r in rows) for k in ("ours", "spikingjelly")}
    apart = [r["difference"] for r in rows]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    told = f"{means['ours']:.2f} %, SpikingJelly {means['spikingjelly']:.2f} %"
    return f"{name}: {told}, difference {statistics.mean(apart):+.2f} ± {error:.2f} points"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    told = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {platform.machine()}")
    found = []
    for name in told.only:
        task = TASKS[name](told.data)
        for seed in range(told.seeds):
            found.append(row(name, task, seed))
            print(found[-1], flush=True)
        print(summary(name, [each for each in found if each["task"] == name]), flush=True)
    if told.csv:
        with told.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
