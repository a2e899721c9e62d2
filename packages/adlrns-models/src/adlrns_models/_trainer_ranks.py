"""What training asks of layers with ranks: their cost, a rank by force, one decision for all."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from adlrns_models import _adapt
from adlrns_models._checkpoint_tree import pack, unpack
from adlrns_models._dynamic_budget import Scheduler
from adlrns_models._dynamic_scope import iter_dynamic_layers, rank_budget
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._penalty import mean_flops
from adlrns_models._recording import Recording
from adlrns_models._trainer_workers import from_first, worker, worker_count
from adlrns_models._wrap import iter_adaptive_layers


def has_ranks(model: nn.Module) -> bool:
    """Returns whether a model has a layer whose rank can move."""
    return has_dynamic(model) or any(True for _ in iter_adaptive_layers(model))


def has_dynamic(model: nn.Module) -> bool:
    """Returns whether a model has a dynamic layer."""
    return any(True for _ in iter_dynamic_layers(model))


def spent(ran: Recording) -> float | None:
    """Returns the share of the dense FLOPs that a pass took; None if nothing counts them."""
    if not ran.has_layers:
        return None
    return mean_flops(ran) if ran else 1.0


def within_budget(
    model: nn.Module, millijoules: float | None, batch: int
) -> AbstractContextManager[None]:
    """Returns a context in which dynamic layers decide under a budget, if there is one."""
    if millijoules is None or not has_dynamic(model):
        return nullcontext()
    return rank_budget(model, millijoules, "energy_mj_per_sample", batch=batch)


@contextmanager
def at_share(model: nn.Module, share: float) -> Iterator[None]:
    """Runs every layer at ``r_min + share * (r_max - r_min)`` inside, unwatched and ungated."""
    with ExitStack() as stack:
        for dynamic in iter_dynamic_layers(model):
            rank = dynamic.r_min + round(share * (dynamic.max_rank - dynamic.r_min))
            stack.callback(setattr, dynamic, "_forced", dynamic._forced)
            dynamic.force_rank(rank)
        for layer in iter_adaptive_layers(model):
            low = min(layer.config.r_min, layer.max_rank)
            stack.enter_context(layer.adapt_disabled())
            stack.callback(layer._assign, layer.current_rank())
            layer._assign(low + round(share * (layer.max_rank - low)))
        yield


@contextmanager
def deciding_together(model: nn.Module) -> Iterator[None]:
    """Has worker 0's schedulers decide for the layers of all workers, inside."""
    layers = [layer for layer in iter_dynamic_layers(model) if layer.scheduler is not None]
    if worker_count() == 1 or not layers:
        yield
        return
    with ExitStack() as stack:
        for layer in layers:
            assert layer.scheduler is not None
            stack.callback(setattr, layer, "scheduler", layer.scheduler)
            layer.scheduler = _OfFirst(layer.scheduler)
        yield


class _OfFirst:
    """A scheduler that worker 0 runs, and whose ranks the others are sent."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler

    def init(self) -> Any:
        """Returns the first state."""
        return self.scheduler.init()

    def step(self, state: Any, observation: Any) -> tuple[int, Any]:
        """Returns worker 0's rank; the state moves on there alone."""
        rank = 0
        if worker() == 0:
            rank, state = self.scheduler.step(state, observation)
        return from_first(rank), state


def share_decisions(model: nn.Module) -> None:
    """Moves ranks of adaptive layers that are due, alike on all workers.

    Worker 0 decides from what it saw: the layers do not adapt by themselves while several workers
    train, since each sees other inputs.
    """
    if worker_count() == 1:
        return
    due = [layer for layer in iter_adaptive_layers(model) if _is_due(layer)]
    if not due:
        return
    if worker() == 0:
        for layer in due:
            with _adapt.statistics_context(layer.down.device):
                _adapt._move(layer, changed_at=layer._changed_at)
    for layer, rank in zip(due, from_first([one.current_rank() for one in due]), strict=True):
        if layer.current_rank() != rank:
            layer._changed_at = layer._steps
            layer.set_rank(rank)


def _is_due(layer: AdaptiveLayer) -> bool:
    seen = layer.sketch.n_samples_seen > 0
    return seen and layer._adapting and layer._steps % layer.config.adapt_every == 0


def decision_state(model: nn.Module) -> list[dict[str, Any]]:
    """Returns what dynamic layers decide by beside their parameters, as plain values."""
    return [
        {
            "sample": list(layer._sample),
            "steps": layer._steps,
            "rank": layer._scheduled_rank,
            "scheduler": _plain(layer._scheduler_state),
        }
        for layer in iter_dynamic_layers(model)
    ]


def set_decision_state(model: nn.Module, states: list[dict[str, Any]]) -> None:
    """Puts back what :func:`decision_state` returned."""
    for layer, state in zip(iter_dynamic_layers(model), states, strict=True):
        layer._sample, layer._steps = tuple(state["sample"]), state["steps"]
        layer._scheduled_rank = state.get("rank")  # older checkpoints do not say it
        layer._set_ceiling()
        if layer.scheduler is not None:
            layer._scheduler_state = _like(layer.scheduler.init(), state["scheduler"])


def share_decision_state(model: nn.Module) -> None:
    """Has all workers decide from where worker 0 stands, which alone decided until now."""
    if worker_count() == 1 or not has_dynamic(model):
        return
    tree, tensors = pack(decision_state(model), "state")
    plain = {name: (str(t.dtype).split(".")[1], t.tolist()) for name, t in tensors.items()}
    tree, plain = from_first((tree, plain))
    values = {
        name: torch.tensor(v, dtype=getattr(torch, kind)) for name, (kind, v) in plain.items()
    }
    set_decision_state(model, unpack(tree, values))


def _plain(state: Any) -> Any:
    """Returns named tuples as plain ones, which a file can hold."""
    if isinstance(state, tuple):
        return tuple(map(_plain, state))
    return [_plain(part) for part in state] if isinstance(state, list) else state


def _like(fresh: Any, state: Any) -> Any:
    """Returns ``state`` with the named tuples that a fresh one has."""
    if isinstance(fresh, tuple) and hasattr(fresh, "_fields") and isinstance(state, tuple):
        return type(fresh)(*map(_like, fresh, state))
    return state
