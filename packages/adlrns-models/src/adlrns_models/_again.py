"""Deciding as before where activation checkpointing runs a layer's call a second time."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adlrns_models import _observe
from adlrns_models._again_memory import LIMIT, Basis

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer
    from adlrns_models._gate import Decision


def decided(layer: "DynamicLayer", x: Tensor) -> "tuple[Tensor, Decision]":
    """Returns what a layer gives for a batch; as before, if a backward pass asks for it again.

    Raises:
        RuntimeError: if what the first run decided by is not known.
    """
    key = _draw() if layer.training else None
    if _observe.transformed():
        return layer._at(x, layer._forced, layer._limit(x))
    if _observe.recomputing():
        return _repeated(layer, x, key)
    memory, forced, limit = layer._memory, layer._forced, layer._limit(x)
    gate = None if key is None else (_plain(vars(layer.gate)), memory.copies(layer.gate))
    found = layer._at(x, forced, limit)
    memory.waiting[layer.training].add(found[0], _in_force(layer))
    if key is not None and gate is not None:
        moment = tuple(p._version for p in layer.parameters() if not p.is_inference())
        memory.add(key, Basis(forced, limit, layer._scheduled_rank, *gate, moment))
    return found


def _draw() -> int | None:
    if torch._C._get_tracing_state() or _observe.vmapped():
        return None
    drawn = torch.randint(2**62, (), device="cpu")
    return int(drawn) if type(drawn) is Tensor else None  # one of a mode that computes nothing


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    kinds = int | float | str | None
    return {name: value for name, value in attributes.items() if isinstance(value, kinds)}


def _repeated(layer: "DynamicLayer", x: Tensor, key: int | None) -> "tuple[Tensor, Decision]":
    basis = None if key is None else layer._memory.bases.get(key)
    if basis is not None and not basis.is_ambiguous:
        with _as_it_was(layer, basis):
            return layer._at(x, basis.forced, basis.limit)
    if not _decides_alike(layer):
        raise RuntimeError(f"{type(layer).__name__} {_reason(layer, basis)}")
    return layer._at(x, layer._forced, layer._limit(x))


def _decides_alike(layer: "DynamicLayer") -> bool:
    """Whether a layer decides now as in any call that may be run again."""
    alone = layer.scheduler is None and (not layer.training or layer.gate.is_steady)
    waiting = layer._memory.waiting[layer.training]
    return (alone or layer._forced is not None) and waiting.all_under(_in_force(layer))


def _in_force(layer: "DynamicLayer") -> Hashable:
    return layer._forced, layer._budget


def _reason(layer: "DynamicLayer", basis: Basis | None) -> str:
    if not layer.training:
        what = "budget" if layer.scheduler is None else "scheduler"
        return (
            f"cannot decide again what its {what} decided in eval mode: with activation "
            "checkpointing, run the backward pass under the budget of the forward pass and of all "
            f"others that wait for theirs (with use_reentrant=True of the last {LIMIT} calls "
            "without gradients, but for inference_mode) and without a scheduler, or train the "
            "layer in training mode"
        )
    if basis is not None:
        return (
            "cannot tell which of two calls a backward pass runs again: they began in the same "
            "state of torch's generator, as after the same seed, but under other budgets, ranks or "
            "states of the gate; with activation checkpointing, seed once for both"
        )
    return (
        "does not know what it decided in the call that a backward pass runs again: activation "
        f"checkpointing must have preserve_rng_state=True, no more than {LIMIT} calls of the layer "
        "may lie between, and no other thread may draw from torch's generator; a new call in a "
        "backward pass, as from a hook, needs force_rank() or eval mode"
    )


@contextmanager
def _as_it_was(layer: "DynamicLayer", basis: Basis) -> Iterator[None]:
    """Puts the state of a layer's decisions back inside; what moves there does not last."""
    gate = layer.gate
    attributes = dict(vars(gate))
    buffers = [(module, dict(module._buffers)) for module, _ in basis.buffers]
    layer._repeats = basis
    try:
        vars(gate).update(basis.attributes)
        for module, copies in basis.buffers:  # others are written to: their graph may need them
            module._buffers.update({name: copy.clone() for name, copy in copies.items()})
        yield
    finally:
        for module, own in buffers:
            module._buffers.update(own)
        vars(gate).clear()
        vars(gate).update(attributes)
        layer._repeats = None


@torch.library.custom_op("adlrns_models::once", mutates_args={"state"})
def once(state: Tensor) -> None:
    """Refuses to run in a backward pass; said to write ``state``, so that graphs keep it."""
    del state
    if _observe.recomputing():
        raise RuntimeError(
            "a BlockGate cannot decide again as before in a compiled graph: compile the model "
            "without activation checkpointing around this layer, or checkpoint without compiling"
        )


@once.register_fake
def _(state: Tensor) -> None:
    del state
