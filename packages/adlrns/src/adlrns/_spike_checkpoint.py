"""A run that was cut short: weights, the optimiser's state, and what the run was asked."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adlrns._errors import RunError, UseError
from adlrns._spike_settings import CHECKPOINT as NAME, Settings


def save(
    folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, history: list[Any], facts: Any
) -> None:
    """Writes a checkpoint that appears whole or not at all."""
    tensors = {f"net.{name}": value.contiguous() for name, value in net.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{place}.{name}"] = torch.as_tensor(value).contiguous()
    told = {"history": json.dumps(history), "settings": json.dumps(facts)}
    beside = folder / f".{NAME}.new"
    save_file(tensors, beside, told)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(folder / NAME)


def restore(
    folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings
) -> list[Any]:
    """Loads a checkpoint and returns its history.

    Raises:
        UseError: if there is none, or it is of a run that was asked something else.
        RunError: if it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise UseError(f"--resume needs an earlier run in --out, got {folder} without {NAME}")
    try:
        held, told = _read(path)
        history, before = json.loads(told["history"]), json.loads(told["settings"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path}: not a readable checkpoint: {error}") from None
    for name, value in settings.facts().items():
        if before.get(name) != value:
            was = before.get(name)
            raise UseError(f"--resume must keep --{name}, which was {was} in {folder}, got {value}")
    try:
        _load(net, optimizer, held)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"{path}: does not fit the network: {error}") from None
    return list(history)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        told = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118


def _load(net: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Tensor]) -> None:
    weights = {k.removeprefix("net."): v for k, v in held.items() if k.startswith("net.")}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in held.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".")
            state.setdefault(int(place), {})[key] = value
    net.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
