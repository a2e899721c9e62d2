"""What a model costs: counted FLOPs and weights, measured time."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adlrns._inputs import call, count
from adlrns_models import AdaptiveLayer


def flops_per_sample(model: nn.Module, batch: Any) -> float:
    """Returns the FLOPs that torch's own counter sees in one forward pass, per sample.

    Products and convolutions; a multiplication and an addition count as two.
    """
    with torch.no_grad():
        call(model, batch)  # a layer that runs as dense puts its weight together at first
        with FlopCounterMode(display=False) as counter:
            call(model, batch)
    return counter.get_total_flops() / count(batch)


def parameters_in_use(model: nn.Module) -> int:
    """Returns the parameters that a forward pass reads at the ranks in force."""
    total, inside = 0, set()
    for module in model.modules():
        if isinstance(module, AdaptiveLayer):
            total += _used(module)
            inside |= {id(parameter) for parameter in module.parameters()}
    return total + sum(p.numel() for p in model.parameters() if id(p) not in inside)


def _used(layer: AdaptiveLayer) -> int:
    (m, n), rank = layer.sizes, layer.current_rank()
    one = m * n + m if rank > layer.break_even else rank * (m + n + 1) + m
    return layer.groups * one


def weight_bytes(model: nn.Module) -> int:
    """Returns the bytes of all parameters, in use or not."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def latencies(
    models: Mapping[str, nn.Module],
    batch: Any,
    *,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Returns the seconds of one forward pass, by model, one number a round.

    Each round times every model once, one after the other, so that whatever else the machine does
    meets them all; the i-th numbers of two models belong together.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for model in models.values():  # first calls allocate and choose algorithms
            call(model, batch)
        for done in range(rounds):
            for name, model in models.items():
                start = time.perf_counter()
                call(model, batch)
                times[name].append(time.perf_counter() - start)
            progress(done + 1, rounds)
    return times


def paired_ratio(times: Sequence[float], baseline: Sequence[float]) -> float:
    """Returns the median of the ratios within rounds."""
    return median(a / b for a, b in zip(times, baseline, strict=True))
