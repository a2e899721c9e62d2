"""Models inside wrappers: what is edited is the model, what is trained is the wrapper."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from neuro_morph._errors import GrowthRefusedError

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
    inner = _inner(model)
    if inner is not None and hasattr(model, "_orig_mod"):
        torch._dynamo.reset()
        rewrapped = rewrap(inner)
        return model if rewrapped is inner else torch.compile(rewrapped)  # type: ignore[return-value]
    return model


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
