"""Deciding as before where activation checkpointing runs a layer's call a second time."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from adlrns_models import _observe

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer
    from adlrns_models._gate import Decision, Gate

# calls of a layer that may lie between one and its second run
LIMIT = 256
Buffers = list[tuple[nn.Module, dict[str, Tensor]]]


class Basis(NamedTuple):
    """What a call decided by, beside its input and the parameters.

    Attributes:
        forced: the rank it was forced to.
        limit: the largest rank that the budget afforded.
        scheduled: the rank that the scheduler allowed, if it was asked.
        attributes: of the gate, those that are plain values.
        buffers: copies of the gate's, and of its parts'.
    """

    forced: int | None
    limit: int | Tensor
    scheduled: int | None
    attributes: dict[str, Any]
    buffers: Buffers


class Memory:
    """What the last calls of a layer in training decided by.

    A call that checkpointing runs again has nothing in common with the first run but its input and
    the state of torch's generator, which is put back for it. So each call draws a number from the
    generator: the second run draws the same, and finds by it what the first decided by.
    """

    def __init__(self) -> None:
        self.bases: OrderedDict[int, Basis] = OrderedDict()
        self.in_force: tuple[int | None, int | Tensor] | None = None  # at the last call
        self._copies: dict[tuple[nn.Module, str], tuple[Tensor, int, Tensor]] = {}

    def add(self, key: int, basis: Basis) -> None:
        """Keeps a basis, and forgets the oldest of too many."""
        self.bases[key] = basis
        while len(self.bases) > LIMIT:
            self.bases.popitem(last=False)

    def copies(self, gate: "Gate") -> Buffers:
        """Returns copies of a gate's buffers; those that have not moved are copied once."""
        found: Buffers = []
        for module in gate.modules():
            own = {name: b for name, b in module._buffers.items() if b is not None}
            if own:
                found.append((module, {name: self._copy(module, name, own[name]) for name in own}))
        return found

    def _copy(self, module: nn.Module, name: str, buffer: Tensor) -> Tensor:
        if buffer.is_inference():  # counts no versions
            return buffer.clone()
        same, version, copy = self._copies.get((module, name), (None, 0, buffer))
        if same is not buffer or version != buffer._version:
            copy = buffer.detach().clone()
            self._copies[module, name] = buffer, buffer._version, copy
        return copy


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
    memory = layer._memory
    forced, limit = memory.in_force = layer._forced, layer._limit(x)
    if key is None:
        return layer._at(x, forced, limit)
    gate = _plain(vars(layer.gate)), memory.copies(layer.gate)
    found = layer._at(x, forced, limit)
    memory.add(key, Basis(forced, limit, layer._scheduled_rank, *gate))
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
    if key is None:
        _check_unmoved(layer, x)
        return layer._at(x, layer._forced, layer._limit(x))
    basis = layer._memory.bases.get(key)
    if basis is None:
        raise RuntimeError(
            f"{type(layer).__name__} does not know what it decided in the call that a backward "
            "pass runs again: activation checkpointing must have preserve_rng_state=True, and no "
            f"more than {LIMIT} calls of the layer may lie between"
        )
    with _as_it_was(layer, basis):
        return layer._at(x, basis.forced, basis.limit)


def _check_unmoved(layer: "DynamicLayer", x: Tensor) -> None:
    """Raises if a layer in eval mode may decide otherwise than in the call that is run again."""
    if layer.scheduler is None and layer._memory.in_force == (layer._forced, layer._limit(x)):
        return
    what = "budget" if layer.scheduler is None else "scheduler"
    raise RuntimeError(
        f"{type(layer).__name__} cannot decide again what its {what} decided in eval mode: with "
        "activation checkpointing, run the backward pass under the budget of the forward pass and "
        "without a scheduler, or train the layer in training mode"
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
