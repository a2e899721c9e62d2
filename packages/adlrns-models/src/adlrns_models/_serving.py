"""Which ranks a call runs at, whatever other calls run at meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models import _observe

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer

Ranks = Mapping["AdaptiveLayer", int]

# of the thread or task that runs; None where no call has said anything
_here: ContextVar[Ranks | None] = ContextVar("adlrns_models.ranks", default=None)


def rank_here(layer: "AdaptiveLayer") -> int:
    """Returns the rank that ``layer`` runs at in this call: the call's, else the one in force."""
    ranks = _here.get()
    return layer._rank if ranks is None else ranks.get(layer, layer._rank)


def decided(layer: "AdaptiveLayer") -> bool:
    """Returns whether this call has said a rank for ``layer``."""
    ranks = _here.get()
    return ranks is not None and layer in ranks


def rank_in_graph(layer: "AdaptiveLayer") -> Tensor:
    """Returns :func:`rank_here` as a tensor that a compiled graph asks for anew at every call."""
    if not layer._serving or torch.compiler.is_exporting():
        return layer.rank  # a program that leaves this process has no calls of its own here
    rank: Tensor = torch.ops.adlrns_models.rank_here(layer.rank, layer._key)
    return rank


@contextmanager
def ranks_here(ranks: Ranks) -> Iterator[None]:
    """Runs layers at ``ranks`` inside, in this thread or task alone; a call inside may say more."""
    token = _here.set({**(_here.get() or {}), **ranks})
    try:
        yield
    finally:
        _here.reset(token)


def _rank_here(rank: Tensor, key: Tensor) -> Tensor:
    ranks, layer = _here.get(), _observe.layer_of(key)
    # the buffer may have been written by others, such as a broadcast, but never by a call
    return torch.tensor(ranks[layer]) if ranks and layer in ranks else rank.clone()


# not a custom_op, whose calls take longer: a graph has one of these for every layer
_library = torch.library.Library("adlrns_models", "FRAGMENT")
_library.define("rank_here(Tensor rank, Tensor key) -> Tensor")
_library.impl("rank_here", _rank_here, "CPU")


@torch.library.register_fake("adlrns_models::rank_here")
def _(rank: Tensor, key: Tensor) -> Tensor:
    del key
    return torch.empty_like(rank)
