"""Batches shared among processes, and statistics put together again."""

from collections.abc import Mapping
from typing import Any

import torch

from layer_importance._moments import Moments


class Share:
    """Which batches are this process's, and what others have to say: here, there are no others."""

    def mine(self, index: int) -> bool:
        """Whether the batch of this number is to be run."""
        del index
        return True

    def exchange(self, plain: Any) -> list[Any]:
        """Returns the plain data of every process, in the order of ranks."""
        return [plain]


def gathered(share: Share, kept: Mapping[str, Moments]) -> dict[str, Moments]:
    """Returns moments of all processes' samples, the same on each.

    Collective: every process calls it, with whatever it has.
    """
    told = share.exchange({name: _plain(moments) for name, moments in kept.items()})
    if len(told) == 1:
        return dict(kept)
    found: dict[str, Moments] = {}
    for one in told:
        for name, fields in one.items():
            moments = _moments(fields)
            found.setdefault(name, Moments(moments.shape)).merge(moments)
    return found


def totals(share: Share, *numbers: float) -> tuple[float, ...]:
    """Returns the sums over all processes."""
    return tuple(sum(column) for column in zip(*share.exchange(list(numbers)), strict=True))


def _plain(moments: Moments) -> dict[str, Any]:
    counts = moments.count, moments.skipped  # nothing waits any longer
    state = {name: tensor.tolist() for name, tensor in moments.state().items()}
    return {**state, "counts": list(counts), "shape": list(moments.shape)}


def _moments(fields: Mapping[str, Any]) -> Moments:
    shape = tuple(fields["shape"])
    state = {n: torch.tensor(fields[n], dtype=torch.float64) for n in ("counts", "mean", "m2")}
    state |= {name: state[name].reshape(shape) for name in ("mean", "m2")}
    return Moments.from_state({**state, "waiting": torch.empty(0, *shape, dtype=torch.float64)})
