"""What layers save that compute anew only where their input has moved, on a stream of images."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adlrns._experiment_train import Base
from adlrns._score import batches
from adlrns._settle import settle
from adlrns_models import ElasticModel, EventLinear

# streams side by side, frames of each, and how far an image moves in all, in its own widths
STREAMS, FRAMES, DRIFT = 64, 24, 0.1
# how far an input may move, as a share of its mean norm, before it counts as another one
_THETA = 0.1
_IMAGE_AXES = 4


def stream_scores(
    base: Base, elastic: ElasticModel
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Returns accuracy and FLOPs with and without events; None where inputs are no images.

    Every image drifts sideways, less than a pixel a frame. FLOPs are those that torch counts, as a
    share of the dense network's on every frame.
    """
    x, y = next(batches(base.parts.task.valid, size=STREAMS))
    if x.ndim != _IMAGE_AXES or base.parts.task.kind != "classification":
        return None
    share = base.config.run.ablation_budget
    plain, _ = settle(elastic, cost="flops", share=share, form="factored")
    plain.eval()
    full = counted(base.dense, x, y)[1]
    with_events, without = (counted(net, x, y) for net in (eventful(plain, x), plain))
    return (
        (with_events[0], with_events[1] / full),
        (without[0], without[1] / full),
    )


def frames(x: Tensor) -> Iterator[Tensor]:
    """Yields the images, each time moved a little further."""
    step = DRIFT * x.shape[-1] / FRAMES
    for number in range(FRAMES):
        whole, part = divmod(number * step, 1.0)
        near, far = (torch.roll(x, int(whole) + k, dims=-1) for k in (0, 1))
        yield torch.lerp(near, far, part)


def counted(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Returns accuracy over the whole stream, and the FLOPs of all its frames."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hits = [(net(frame).argmax(-1) == y).double().mean() for frame in frames(x)]
    return float(torch.stack(hits).mean()), float(counter.get_total_flops())


def eventful(net: nn.Module, x: Tensor) -> nn.Module:
    """Returns a copy whose linear layers keep the outputs of inputs that have hardly moved."""
    copied = copy.deepcopy(net)
    norms = _norms(copied, x)
    for name, norm in norms.items():
        parent, _, child = name.rpartition(".")
        owner: Any = copied.get_submodule(parent)
        setattr(owner, child, EventLinear(getattr(owner, child), _THETA * norm))
    return copied.eval()


def _norms(net: nn.Module, x: Tensor) -> dict[str, float]:
    """Returns the mean norm of the rows that reach each linear layer."""
    found: dict[str, float] = {}
    linears = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear)}
    handles = [
        m.register_forward_pre_hook(partial(_note, found, name)) for name, m in linears.items()
    ]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _note(found: dict[str, float], name: str, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    found[name] = float(args[0].norm(dim=-1).mean())
