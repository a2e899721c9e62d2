"""Deciding on a rank: what happens in a forward pass while a layer adapts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models._config import DEAD_ZONE
from adlrns_models._observe import has_other_workers
from adlrns_models._realign import realign

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer

# at these looks the factors are re-fitted: it costs, and an optimizer's moments belong to the
# old coordinates
_REALIGN_AT = frozenset(8**i for i in range(20))


def observe(layer: "AdaptiveLayer", x: Tensor, *, compiled: bool) -> None:
    """Counts a forward pass, samples its input, and looks at the rank when it is time.

    A graph that waits for its backward pass must find the factors it was made with, and if it is
    computed again (activation checkpointing) the rank too: until then a look is put off. A
    compiled graph cannot tell, and never re-fits.
    """
    layer._count_step()
    numbers = layer._watch.offer(layer._row_count(x))
    layer._look_due |= layer._steps % layer.config.adapt_every == 0
    looks = layer._look_due and not layer._graphs
    if numbers is None and not looks:
        return
    with statistics_context(x.device):
        if numbers is not None:
            layer._watch.feed(layer._take_rows(x, numbers))
        if looks:
            layer._look_due = False
            _look(layer, may_realign=not compiled)


def adapt_now(layer: "AdaptiveLayer") -> None:
    """Re-fits and moves the rank at once, whatever cadence and cool-down say."""
    if has_other_workers():
        raise RuntimeError(
            "adapt_now() must not be called while several workers train: each would re-fit to its "
            "own inputs, and their factors would no longer be the same"
        )
    if layer.sketch.n_samples_seen > 0:
        with statistics_context(layer.down.device):
            realign(layer)
            _move(layer, changed_at=None)


def _look(layer: "AdaptiveLayer", *, may_realign: bool) -> None:
    if layer.sketch.n_samples_seen == 0 or has_other_workers():
        return
    if may_realign and layer._steps // layer.config.adapt_every in _REALIGN_AT:
        realign(layer)
    _move(layer, changed_at=layer._changed_at)


def _move(layer: "AdaptiveLayer", *, changed_at: int | None) -> None:
    loss, eps = layer.prefix_loss(), layer.config.eps
    if not bool(loss.isfinite().all()):
        return
    controller = layer.config.controller(layer.max_rank)
    rank = layer._rank
    state = controller.update(
        controller.init(max(rank, controller.r_min))._replace(changed_at=changed_at),
        layer._steps,
        grow_to=smallest_rank(loss, DEAD_ZONE * eps),
        shrink_to=smallest_rank(loss, eps),
    )
    if state.rank != rank:
        layer._changed_at = layer._steps
        layer.set_rank(state.rank)


def smallest_rank(loss: Tensor, share: float) -> int:
    """Returns the first rank that, with all higher ones, loses at most ``share`` of everything."""
    too_much = ~(loss <= share * loss[0])
    return int(too_much.nonzero()[-1]) + 1 if bool(too_much.any()) else 0


@contextmanager
def statistics_context(device: torch.device) -> Iterator[None]:
    """Statistics are float32 whatever autocast says, and outlive inference mode."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield
