"""Which ranks a call runs at, whatever other calls run at meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

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


@contextmanager
def ranks_here(ranks: Ranks) -> Iterator[None]:
    """Runs layers at ``ranks`` inside, in this thread or task alone; a call inside may say more."""
    token = _here.set({**(_here.get() or {}), **ranks})
    try:
        yield
    finally:
        _here.reset(token)
