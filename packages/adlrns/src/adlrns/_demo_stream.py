"""Ranks over time: layers that adapt while the data they see change."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from adlrns._console import Advance
from adlrns.demo import Digits
from adlrns_models import (
    AdaptiveLayer,
    clear_fd_sketch,
    set_rank_change_callback,
    wrap_model_with_adaptive,
)

BATCH = 64
# how the layers adapt here, written into the report
SETTINGS = {
    "eps": 0.005,
    "r_min": 1,
    "r_max": 128,
    "adapt_every": 4,
    "adapt_cooldown": 0,
    "grow_step": 16,
    "shrink_step": 16,
    "sketch_size": 64,
    "freeze_during_eval": False,
}
FORGET_EVERY = 20  # batches; the ranks follow what came since


@dataclass
class Stream:
    """What happened while the batches passed.

    Attributes:
        ranks: of each layer after each batch.
        phases: name of each phase and the number of its first batch.
        dense: right answers of the dense network, by phase.
        adaptive: right answers of the adaptive one, by phase.
    """

    ranks: dict[str, list[int]] = field(default_factory=dict)
    phases: list[tuple[str, int]] = field(default_factory=list)
    dense: dict[str, float] = field(default_factory=dict)
    adaptive: dict[str, float] = field(default_factory=dict)


def run(net: nn.Module, data: Digits, *, length: int, seed: int, progress: Advance) -> Stream:
    """Returns what the ranks did: plain digits, then easy ones, then noisy ones.

    Args:
        net: the trained network; it is not changed.
        data: the test images are streamed, drawn with replacement.
        length: batches of each phase.
        seed: of the draws.
        progress: called after every batch.
    """
    wrapped = wrap_model_with_adaptive(copy.deepcopy(net), **SETTINGS).eval()
    layers = {n: m for n, m in wrapped.named_modules() if isinstance(m, AdaptiveLayer)}
    stream = Stream({name: [] for name in layers})
    current = {name: layer.current_rank() for name, layer in layers.items()}
    for name, layer in layers.items():
        set_rank_change_callback(layer, partial(_note, current, name))
    right: dict[str, list[tuple[float, float]]] = {}
    for number, (phase, x, y) in enumerate(_batches(data, length, seed)):
        if phase not in right:
            right[phase] = []
            stream.phases.append((phase, number))
        if number % FORGET_EVERY == 0:
            clear_fd_sketch(wrapped)
        with torch.no_grad():
            hits = [(model(x).argmax(1) == y).double().mean().item() for model in (net, wrapped)]
        right[phase].append((hits[0], hits[1]))
        for name, rank in current.items():
            stream.ranks[name].append(rank)
        progress(number + 1, 3 * length)
    for phase, pairs in right.items():
        stream.dense[phase] = sum(pair[0] for pair in pairs) / len(pairs)
        stream.adaptive[phase] = sum(pair[1] for pair in pairs) / len(pairs)
    return stream


def _note(current: dict[str, int], name: str, old: int, new: int) -> None:
    del old
    current[name] = new


def _batches(data: Digits, length: int, seed: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x, y = data.test_x, data.test_y
    easy = (y <= 1).nonzero().flatten()
    for _ in range(length):
        picked = torch.randint(len(x), (BATCH,), generator=generator)
        yield "all digits", x[picked], y[picked]
    for _ in range(length):
        picked = easy[torch.randint(len(easy), (BATCH,), generator=generator)]
        yield "zeros and ones, pale", 0.5 * x[picked], y[picked]
    for _ in range(length):
        picked = torch.randint(len(x), (BATCH,), generator=generator)
        noise = torch.randn(x[picked].shape, generator=generator)
        yield "all digits, noisy", x[picked] + 0.4 * noise, y[picked]
