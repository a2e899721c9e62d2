"""The product outside training: prepared once, kept while rank and factors stay."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer


class Kept(NamedTuple):
    """A prepared product, and what it was prepared for."""

    key: tuple[int, ...]
    call: Callable[[Tensor], Tensor]
    storages: tuple[Tensor, ...]


def kept_product(layer: "AdaptiveLayer") -> Callable[[Tensor], Tensor]:
    """Returns the layer's product at the rank in force."""
    factors = layer._parameters  # the dictionary: attributes of modules are slow to look up
    d, u, i, b = factors["down"], factors["up"], factors["inner_bias"], factors["bias"]
    if d.is_inference():  # type: ignore[union-attr]  # such tensors have no version
        return _prepared(layer)
    key = (
        layer._rank,
        *(d.data_ptr(), u.data_ptr(), i.data_ptr(), b.data_ptr()),  # type: ignore[union-attr]
        *(d._version, u._version, i._version, b._version),  # type: ignore[union-attr]
    )
    kept = layer._kept
    if kept is None or kept.key != key:
        kept = layer._kept = Kept(key, _prepared(layer), _storages(layer))
    return kept.call


def _prepared(layer: "AdaptiveLayer") -> Callable[[Tensor], Tensor]:
    # views of the factors follow any change of them; a dense weight does not follow .data
    if not layer._serving or layer._rank <= layer.break_even:
        return layer._prepare(layer._rank)
    with torch.autocast(layer.down.device.type, enabled=False):
        return layer._prepare_dense(*layer.effective_weight())


def _storages(layer: "AdaptiveLayer") -> tuple[Tensor, ...]:
    # while these are held nothing else can come to lie at their addresses
    return tuple(parameter.detach() for parameter in layer.parameters(recurse=False))
