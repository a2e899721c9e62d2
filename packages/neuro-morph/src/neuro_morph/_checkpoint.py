"""A grown network and its optimizers in one file, loaded into the network it was grown from."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._atomic import write_atomically
from neuro_morph._spec import ArchitectureSpec


def save_checkpoint(
    path: str | Path, model: nn.Module, spec: ArchitectureSpec, *optimizers: Optimizer
) -> None:
    """Writes a grown model, its spec and its optimizers to a file, whole or not at all.

    Args:
        path: the file (safetensors).
        model: the model.
        spec: its edits (``Morpher.spec``).
        optimizers: what trains it.

    Raises:
        TypeError: if an optimizer holds something that is neither a tensor nor a plain value.
    """
    tensors = {
        f"model.{name}": t for name, t in model.state_dict().items() if isinstance(t, Tensor)
    }
    held = {"spec": spec.to_json(), "optimizers": json.dumps([_settings(o) for o in optimizers])}
    for k, optimizer in enumerate(optimizers):
        tensors |= {f"optimizer.{k}.{name}": t for name, t in _state_tensors(optimizer).items()}
    apart = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(Path(path), save(apart, metadata=held))


def load_checkpoint(path: str | Path, model: nn.Module, *optimizers: Optimizer) -> ArchitectureSpec:
    """Fills a model, as its class makes it, with a grown checkpoint; returns the edits.

    Args:
        path: a file of :func:`save_checkpoint`.
        model: the model the network was grown from: its edits are done again.
        optimizers: optimizers of the model, as many as were saved; none to leave theirs.

    Raises:
        ValueError: if the file is no checkpoint, or one of another model or other optimizers.
    """
    tensors, held = _read(Path(path))
    spec = ArchitectureSpec.from_json(held.get("spec", ""))
    settings = json.loads(held["optimizers"])
    if optimizers and len(optimizers) != len(settings):
        raise ValueError(f"optimizers must be {len(settings)}, got {len(optimizers)}")
    spec.replay(model, *optimizers)
    state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(state)
    for k, optimizer in enumerate(optimizers):
        lead = f"optimizer.{k}."
        mine = {n.removeprefix(lead): t for n, t in tensors.items() if n.startswith(lead)}
        optimizer.load_state_dict(_with_tensors(settings[k], mine))
    return spec


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            held = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no checkpoint: {error}") from None
    if "optimizers" not in held:
        raise ValueError(f"{path} is no checkpoint of a grown network")
    return tensors, held


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    held = optimizer.state_dict()
    state = {
        str(index): {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        for index, values in held["state"].items()
    }
    groups = [{k: _plain(k, v) for k, v in group.items()} for group in held["param_groups"]]
    return {"state": state, "param_groups": groups}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"{name!r} of an optimizer must be a number, got a tensor")
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def _with_tensors(settings: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in settings["state"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": settings["param_groups"]}
