"""Running an elastic model at several operating points in turn, and its full rank beside it."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from adlrns_models._checks import check_fraction, check_int
from adlrns_models._materialize import materialize_model

if TYPE_CHECKING:
    from adlrns_models._elastic import ElasticModel

Ranks = dict[str, int]


def operating_ranks(
    elastic: "ElasticModel",
    shares: Sequence[float],
    *,
    cost: str,
    form: str,
    ranks: Sequence[Mapping[str, int]] | None = None,
) -> tuple[Ranks, ...]:
    """Returns the ranks of all layers at each share of the dense cost, or as ``ranks`` says.

    Layers that an entry of ``ranks`` leaves out run at full rank.

    Raises:
        TypeError, ValueError: for a share out of range or below the smallest possible, an unknown
            cost, form or layer, a rank out of range, or nothing at all.
    """
    full = {name: layer.max_rank for name, layer in elastic.layers().items()}
    if ranks is None:
        points = [_at_share(elastic, share, cost, form) for share in shares]
    else:
        points = [dict(entry) for entry in ranks]
    for point in points:
        for name, rank in point.items():
            if name not in full:
                raise ValueError(f"ranks must name elastic layers, got {name!r}")
            check_int(f"ranks[{name!r}]", rank, 0, full[name])
    if not points:
        raise ValueError(f"{'shares' if ranks is None else 'ranks'} must not be empty")
    return tuple(full | point for point in points)


def _at_share(elastic: "ElasticModel", share: float, cost: str, form: str) -> Ranks:
    frontier, full = elastic.frontier(cost, form), elastic.full_cost(cost)
    if check_fraction("shares", share) * full < frontier.min_cost:
        raise ValueError(
            f"shares must be at least {frontier.min_cost / full:.4f}, the smallest share of the "
            f"dense {cost} that this model can run at, got {share}"
        )
    return dict(frontier.at(share * full).ranks)


def run_at(elastic: "ElasticModel", ranks: Mapping[str, int]) -> None:
    """Runs the layers at ``ranks`` without telling anyone: it is for a moment only."""
    layers = elastic.layers()
    for name, rank in ranks.items():
        layers[name]._assign(rank)


@contextmanager
def ranks_kept(elastic: "ElasticModel") -> Iterator[None]:
    """Has the ranks afterwards what they were before."""
    before = elastic.ranks()
    try:
        yield
    finally:
        run_at(elastic, before)


def full_rank_copy(elastic: "ElasticModel") -> nn.Module:
    """Returns a plain copy of the network, dense at full rank."""
    twin = copy.deepcopy(elastic)
    run_at(twin, {name: layer.max_rank for name, layer in twin.layers().items()})
    return materialize_model(twin, "dense")


def stored_batches(batches: Iterable[Any]) -> list[Any]:
    """Returns the batches as a list that can be gone through again.

    Raises:
        TypeError: for a bare tensor, whose rows would pass for batches.
        ValueError: if there is none.
    """
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches, got a Tensor: put it into a list")
    stored = list(batches)
    if not stored:
        raise ValueError("batches must hold at least one batch, got none")
    return stored
