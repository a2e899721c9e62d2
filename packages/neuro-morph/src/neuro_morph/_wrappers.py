"""Models inside wrappers: what is edited is the model, what is trained is the wrapper."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent, standing

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside ``torch.compile`` and DistributedDataParallel.

    Raises:
        TypeError: if it is no module.
        GrowthRefusedError: if parameters are sharded: no process holds a whole one.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    while True:
        if any(kind.__name__ in _SHARDED for kind in type(model).__mro__):
            raise GrowthRefusedError(
                f"model is wrapped in {type(model).__name__}, whose parameters are sharded: grow "
                "it before it is wrapped"
            )
        inner = _inner(model)
        if inner is None:
            return model
        model = inner


def rewrap(model: nn.Module) -> nn.Module:
    """Returns a wrapped model ready to go on after its inside has grown.

    DistributedDataParallel is made anew, with its settings: its buckets have the old sizes. What
    ``torch.compile`` has compiled is dropped: it counts its compilations, and after eight goes
    back to running without them.
    """
    if isinstance(model, DistributedDataParallel):
        settings, module = _settings(model), rewrap(model.module)
        _dismantle(model)
        return DistributedDataParallel(module, **settings)
    if isinstance(model, DataParallel):
        model.module = rewrap(model.module)
        return model
    inner = _inner(model)
    if inner is not None and hasattr(model, "_orig_mod"):
        torch._dynamo.reset()
        rewrapped = rewrap(inner)
        return model if rewrapped is inner else torch.compile(rewrapped)  # type: ignore[return-value]
    return model


class RewrapReminder:
    """Warns once where a wrapped model grows again that was trained on without a new wrapper.

    Args:
        wrapped: the model as it was given; of one in no wrapper nothing is ever said.
        optimizers: what trains it.
        events: those of its run, as they are at any time.
    """

    def __init__(
        self,
        wrapped: nn.Module,
        optimizers: Sequence[Optimizer],
        events: Sequence[MorphogenesisEvent],
    ) -> None:
        self._events, self._rewrapped, self._trained, self._said = events, 0, 0, False
        self._name = type(wrapped).__name__
        if _has_to_be_made_anew(wrapped):
            for optimizer in optimizers:
                optimizer.register_step_post_hook(self._after_step)

    def rewrapped(self) -> None:
        """Takes note that the wrapper knows of all that has grown."""
        self._rewrapped = len(self._events)

    def remind(self) -> None:
        """Warns if steps were made after growth that the wrapper does not know of."""
        missed = self._events[self._rewrapped : self._trained]
        if self._said or not standing(missed):
            return
        self._said = True
        warnings.warn(
            f"the {self._name} was trained on after it had grown without morpher.rewrap(): go on "
            "with model = morpher.rewrap() whenever something has grown, or torch.compile gives up "
            "after eight times and DistributedDataParallel goes by the old sizes",
            RuntimeWarning,
            stacklevel=3,
        )

    def _after_step(self, *_: Any) -> None:
        self._trained = len(self._events)


def _has_to_be_made_anew(model: nn.Module) -> bool:
    inner = _inner(model)
    if inner is None:
        return False
    return not isinstance(model, DataParallel) or _has_to_be_made_anew(inner)


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DistributedDataParallel | DataParallel):
        return model.module
    found = model.__dict__.get("_orig_mod") or model._modules.get("_orig_mod")
    return found if isinstance(found, nn.Module) else None


def _dismantle(model: DistributedDataParallel) -> None:
    """Lets go of what remembers the shapes of gradients; the wrapper does not run again."""
    for name in ("reducer", "logger", "_accum_grad_hooks"):
        model.__dict__.pop(name, None)


def _settings(model: DistributedDataParallel) -> dict[str, Any]:
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    wanted = (
        "device_ids",
        "output_device",
        "dim",
        # the name until torch 2.12 or so is the second
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers",
        "process_group",
        "find_unused_parameters",
        "gradient_as_bucket_view",
        "static_graph",
    )
    return {name: getattr(model, name) for name in wanted if name in known and hasattr(model, name)}
