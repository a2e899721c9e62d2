"""Weights and bridges as files hold them: every tensor once, no code."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._bridge import Bridge


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers that are not in the state, as those that are not persistent."""
    state = model.state_dict()
    found = model.named_buffers(remove_duplicate=False)
    return {name: buffer for name, buffer in found if name not in state}


def saved_buffers(model: nn.Module) -> list[str]:
    """Returns the names of the buffers that are in the state: some are made by the first call."""
    state = model.state_dict()
    return sorted(name for name, _ in model.named_buffers(remove_duplicate=False) if name in state)


def weights_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the state and all other buffers, and the other names of what has several.

    Every tensor is there once.
    """
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    known: dict[tuple[Any, ...], str] = {}
    for name, value in {**model.state_dict(), **unsaved_buffers(model)}.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the model's state must be tensors, got {type(value).__name__} {name}"
            )
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in known:
            aliases[name] = known[key]
        else:
            known[key] = name
            # a copy: two tensors may overlap in memory without being the same
            kept[name] = value.detach().cpu().clone().contiguous()
    return kept, aliases


def fill(
    model: nn.Module,
    weights: dict[str, Tensor],
    aliases: Mapping[str, str],
    buffers: Collection[str],
    path: Path,
    *,
    own: Collection[str] = (),
) -> None:
    """Puts weights into a model, in the precision they have; ``buffers`` are not in its state.

    Those of ``own`` are buffers of the state: one that the model has not got, as it makes it when
    it is first called, is made.

    Raises:
        ValueError: naming the file, if they do not fit.
    """
    state = weights | {name: weights[other] for name, other in aliases.items()}
    beside = {name: state.pop(name) for name in buffers}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name in state and value.dtype != state[name].dtype:
            value.data = value.data.to(state[name].dtype)
    try:
        for name in set(own) - model.state_dict().keys():
            _set_buffer(model, name, state[name], persistent=True)
        model.load_state_dict(state)
        for name, value in beside.items():
            _set_buffer(model, name, value)
    except (RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path}: does not fit the model: {error}") from error


def _set_buffer(model: nn.Module, name: str, value: Tensor, *, persistent: bool = False) -> None:
    path, _, leaf = name.rpartition(".")
    holder = model.get_submodule(path)
    if (old := holder._buffers.get(leaf)) is not None:
        holder._buffers[leaf] = value.to(old.device)
    else:
        holder.register_buffer(leaf, value, persistent=persistent)


def described(bridge: nn.Module) -> dict[str, Any]:
    """Returns what a bridge is, in plain JSON."""
    if type(bridge) is nn.Linear:
        sizes = {"in": bridge.in_features, "out": bridge.out_features}
        return {"kind": "linear", **sizes, "bias": bridge.bias is not None}
    if type(bridge) is Bridge:
        return {"kind": "bridge", "width": len(bridge.bias), "channels": bridge.channels}
    return {"kind": type(bridge).__name__}


def bridge_from(name: str, described: Mapping[str, Any]) -> nn.Module:
    """Returns an empty bridge as described; weights come later."""
    if described["kind"] == "linear":
        return nn.Linear(described["in"], described["out"], bias=described["bias"])
    if described["kind"] == "bridge":
        empty = torch.zeros(described["width"])
        square = torch.zeros(len(empty), len(empty))
        return Bridge(square, empty, empty.clone(), channels=described["channels"])
    raise ValueError(f"bridges must have {name!r}, a {described['kind']}")
