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
# ranks whose products are kept at a time, for calls that take turns at several points
RANKS = 4
# fused optimizers write to parameters without telling their version counters
_optimizer_steps = count(1)
_last_optimizer_step = 0


def _after_an_optimizer_step(*_: Any) -> None:
    global _last_optimizer_step  # noqa: PLW0603
    _last_optimizer_step = next(_optimizer_steps)


register_optimizer_step_post_hook(_after_an_optimizer_step)


class Kept:
    """A prepared product, what it was prepared for, and how often it has run."""

    __slots__ = ("call", "calls", "dense", "key", "packed", "storages")

    def __init__(
        self,
        key: tuple[int, ...],
        call: Callable[[Tensor], Tensor],
        storages: tuple[Tensor, ...],
        *,
        dense: bool,
    ):
        self.key, self.call, self.calls = key, call, 0
        # while these are held nothing else can come to lie at their addresses
        self.storages = storages
        self.dense, self.packed = dense, False


def kept_product(layer: "AdaptiveLayer", rank: int) -> Callable[[Tensor], Tensor]:
    """Returns the layer's product at ``rank``."""
    if layer._parameters["down"].is_inference():  # type: ignore[union-attr]
        return _prepared(layer, rank)  # such tensors have no version
    key, kept = _key(layer), layer._kept.get(rank)
    if kept is None or kept.key != key:
        kept = _keep(layer, rank, key)
    kept.calls += 1
    if kept.calls == PACK_AFTER and _may_pack(layer, rank):
        kept.packed, kept.call = True, layer._prepare(rank, packed=True)
    return kept.call


def steady_product(layer: "AdaptiveLayer", rank: int) -> Kept:
    """Returns the product that a layer comes to run where it stays at ``rank``."""
    dense = layer._serving and rank > layer.break_even
    versioned = not layer.down.is_inference()  # others keep nothing
    key = _key(layer) if versioned else ()
    kept = Kept(key, _prepared(layer, rank), _storages(layer), dense=dense)
    if layer._serving and not dense:
        kept.packed, kept.call = True, layer._prepare(rank, packed=True)
    kept.calls = PACK_AFTER
    return kept


def _key(layer: "AdaptiveLayer") -> tuple[int, ...]:
    factors = layer._parameters  # the dictionary: attributes of modules are slow to look up
    d, u, i, b = factors["down"], factors["up"], factors["inner_bias"], factors["outer_bias"]
    return (
        _last_optimizer_step,
        *(d.data_ptr(), u.data_ptr(), i.data_ptr(), b.data_ptr()),  # type: ignore[union-attr]
        *(d._version, u._version, i._version, b._version),  # type: ignore[union-attr]
    )


def _keep(layer: "AdaptiveLayer", rank: int, key: tuple[int, ...]) -> Kept:
    """Prepares a product; of older ones stay the latest few, one dense weight among all."""
    dense = layer._serving and rank > layer.break_even
    kept = Kept(key, _prepared(layer, rank), _storages(layer), dense=dense)
    others = {
        r: other
        for r, other in layer._kept.items()
        if r != rank and other.key == key and not (dense and other.dense)
    }
    while len(others) >= RANKS:
        del others[next(iter(others))]
    # a new dictionary: other threads are reading the old one
    layer.__dict__["_kept"] = {**others, rank: kept}
    return kept


def _may_pack(layer: "AdaptiveLayer", rank: int) -> bool:
    packed = any(other.packed for other in layer._kept.values())
    return layer._serving and rank <= layer.break_even and not packed


def _prepared(layer: "AdaptiveLayer", rank: int) -> Callable[[Tensor], Tensor]:
    # views of the factors follow any change of them; copies do not follow .data
    if not layer._serving or rank <= layer.break_even:
        return layer._prepare(rank)
    with torch.autocast(layer.down.device.type, enabled=False):
        return layer._prepare_dense(*layer.effective_weight(rank))


def _storages(layer: "AdaptiveLayer") -> tuple[Tensor, ...]:
    return tuple(parameter.detach() for parameter in layer.parameters(recurse=False))
