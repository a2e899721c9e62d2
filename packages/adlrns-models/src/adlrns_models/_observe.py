"""Watching inputs from inside a compiled graph: one opaque op, no graph break."""

import functools
import itertools
import logging
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer

logger = logging.getLogger(__name__)
_keys = itertools.count()
_layers: "weakref.WeakValueDictionary[int, AdaptiveLayer]" = weakref.WeakValueDictionary()


def register(layer: "AdaptiveLayer") -> Tensor:
    """Returns the number by which the op finds ``layer``, in a tensor.

    A graph holds an int as a constant, and would be compiled once a layer; a tensor is an input.
    """
    key = next(_keys)
    _layers[key] = layer
    return torch.tensor(key)


def layer_of(key: Tensor) -> "AdaptiveLayer":
    """Returns the layer registered under ``key``."""
    return _layers[int(key)]


# the op says that it writes the rank: that keeps it alive and in order before the product
@torch.library.custom_op("adlrns_models::observe", mutates_args={"rank"})
def observe(x: Tensor, rank: Tensor, key: Tensor) -> None:
    """Lets the layer registered under ``key`` see its input and move its ``rank``."""
    layer = layer_of(key)
    layer._observe(x, compiled=True)
    # the compiler may hand in a copy of the buffer and write it back afterwards
    rank.fill_(layer._rank)


@observe.register_fake
def _(x: Tensor, rank: Tensor, key: Tensor) -> None:
    del x, rank, key


def recomputing() -> bool:
    """Whether a backward pass is running: a forward in it is activation checkpointing's second."""
    return torch._C._current_graph_task_id() != -1


def transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work: nothing may be written or kept then."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def aside() -> bool:
    """Whether a call now is not one of a layer's own: it is transformed, or computed once more."""
    return transformed() or recomputing()


def level() -> int:
    """Returns how many transforms of ``torch.func`` are at work, one inside the other."""
    top = torch._C._functorch.peek_interpreter_stack()
    return 0 if top is None else int(top.level())


def has_level(value: object) -> bool:
    """Whether a value is a tensor of a transform, of one that has ended for instance."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return isinstance(value, Tensor) and wrapped(value)


def vmapped() -> bool:
    """Whether one of the transforms at work is ``vmap``: numbers cannot be read then."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)


def has_other_workers() -> bool:
    """Whether other processes train the same layer: each alone would choose another rank."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    several = torch.distributed.get_world_size() > 1
    if several:
        _say_once()
    return several


@functools.cache
def _say_once() -> None:
    logger.warning(
        "ranks stay as they are while several workers train: give every worker the same with "
        "set_rank"
    )
