"""The product outside training: prepared once, kept while rank and factors stay."""

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer


# calls at one rank after which copying its part of the factors together is worth its time
PACK_AFTER = 16
# ranks whose products are kept at a time: calls at two operating points take turns
RANKS = 2
# fused optimizers write to parameters without telling their version counters
_optimizer_steps = count(1)
_last_optimizer_step = 0


def _after_an_optimizer_step(*_: Any) -> None:
    global _last_optimizer_step  # noqa: PLW0603
    _last_optimizer_step = next(_optimizer_steps)


register_optimizer_step_post_hook(_after_an_optimizer_step)


class Kept:
    """A prepared product, what it was prepared for, and how often it has run."""

    __slots__ = ("call", "calls", "key", "storages")

    def __init__(
        self, key: tuple[int, ...], call: Callable[[Tensor], Tensor], storages: tuple[Tensor, ...]
    ):
        self.key, self.call, self.calls = key, call, 0
        # while these are held nothing else can come to lie at their addresses
        self.storages = storages


def kept_product(layer: "AdaptiveLayer", rank: int) -> Callable[[Tensor], Tensor]:
    """Returns the layer's product at ``rank``."""
    factors = layer._parameters  # the dictionary: attributes of modules are slow to look up
    d, u, i, b = factors["down"], factors["up"], factors["inner_bias"], factors["outer_bias"]
    if d.is_inference():  # type: ignore[union-attr]  # such tensors have no version
        return _prepared(layer, rank)
    key = (
        _last_optimizer_step,
        *(d.data_ptr(), u.data_ptr(), i.data_ptr(), b.data_ptr()),  # type: ignore[union-attr]
        *(d._version, u._version, i._version, b._version),  # type: ignore[union-attr]
    )
    all_kept = layer._kept  # taken once: another thread may change the rank
    kept = all_kept.get(rank)
    if kept is None or kept.key != key:
        if len(all_kept) >= RANKS:
            all_kept.clear()
        kept = all_kept[rank] = Kept(key, _prepared(layer, rank), _storages(layer))
    kept.calls += 1
    if kept.calls == PACK_AFTER and layer._serving and rank <= layer.break_even:
        kept.call = layer._prepare(rank, packed=True)
    return kept.call


def _prepared(layer: "AdaptiveLayer", rank: int) -> Callable[[Tensor], Tensor]:
    # views of the factors follow any change of them; copies do not follow .data
    if not layer._serving or rank <= layer.break_even:
        return layer._prepare(rank)
    with torch.autocast(layer.down.device.type, enabled=False):
        return layer._prepare_dense(*layer.effective_weight(rank))


def _storages(layer: "AdaptiveLayer") -> tuple[Tensor, ...]:
    return tuple(parameter.detach() for parameter in layer.parameters(recurse=False))
