"""How large activations become."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx

from spike_ops.convert._errors import ConversionError, taken
from spike_ops.convert._qcfs import QCFS
from spike_ops.convert._trace import activations

Method = Literal["percentile", "max"]


class _Watching(fx.Interpreter):
    """Runs a network and keeps what its activations give."""

    def __init__(self, net: fx.GraphModule, watched: list[str]) -> None:
        super().__init__(net)
        self.watched, self.seen = set(watched), dict[str, Tensor]()

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return what a module gives."""
        out = super().call_module(target, args, kwargs)
        if target in self.watched:
            self.seen[target] = out
        return out


@torch.no_grad()
def watch(net: fx.GraphModule, inputs: Tensor) -> dict[str, Tensor]:
    """Return what every activation gives for inputs [B, ...]."""
    watching = _Watching(net, activations(net))
    with taken("batches", inputs):
        watching.run(inputs)
    return watching.seen


def thresholds(
    net: fx.GraphModule,
    batches: Iterable[Tensor],
    *,
    method: Method,
    percentile: float,
    channelwise: bool,
) -> dict[str, Tensor]:
    """Return the largest activation of each layer, or the one that so many per cent are below.

    A QCFS activation has its own. Where a layer or a channel never answers it is the layer's, or 1.

    Raises:
        ConversionError: A layer gives what is not finite.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in activations(net)}
    for inputs in batches:
        for name, values in watch(net, inputs).items():
            if not values.isfinite().all():
                raise ConversionError(name, "activations must be finite on the batches")
            split = channelwise and values.ndim > 1
            kept[name].append(values.transpose(0, 1).flatten(1) if split else values.reshape(1, -1))
    found = {}
    for name, parts in kept.items():
        module = net.get_submodule(name)
        if isinstance(module, QCFS):
            found[name] = module.threshold.detach().clone()
            continue
        own = _largest(torch.cat(parts, 1), method, percentile)
        whole = own.max() if own.max() > 0 else torch.ones_like(own[0])
        own = torch.where(own > 0, own, whole)
        found[name] = own if channelwise else own[0]
    return found


def _largest(values: Tensor, method: Method, percentile: float) -> Tensor:
    """Return the maximum or the percentile of each row."""
    if method == "max":
        return values.amax(1)
    place = round(percentile / 100 * (values.shape[1] - 1))
    return values.kthvalue(place + 1, 1).values
