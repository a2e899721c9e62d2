"""A run with growth that was cut short: all that it takes to go on as if it had not been."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adlrns._errors import RunError, UseError
from adlrns._grow_settings import CHECKPOINT as NAME, EVENTS, FIRST, HISTORY, Settings
from neuro_morph import Morpher

_KEY, _TENSOR = "adlrns-grow", "tensor in this file"
# what may differ between a run and its continuation
_FREE = ("compare", "device")


def write(morpher: Morpher, state: dict[str, Any], settings: Settings) -> None:
    """Writes a run and what else there is to know of it, whole or not at all.

    Args:
        morpher: the run.
        state: numbers, text and tensors, in lists and dictionaries.
        settings: what the run was asked.
    """
    folder, growth = settings.out, settings.out / f".{NAME}.growth"
    morpher.save(growth)
    tensors, told = _read(growth)
    growth.unlink()
    packed = _packed({"settings": settings.facts(), **state}, tensors)
    beside = folder / f".{NAME}.new"
    save_file(tensors, beside, {**told, _KEY: json.dumps(packed)})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(folder / NAME)


def read(settings: Settings) -> dict[str, Any]:
    """Returns the state of the run that is to go on.

    Raises:
        UseError: if there is none, or it was asked something else.
        RunError: if it is damaged.
    """
    folder = settings.out
    path = folder / NAME
    if not path.is_file():
        more = ", which only began: leave --resume away" if only_begun(folder) else ""
        raise UseError(f"--resume needs an earlier run in --out, got {folder} without {NAME}{more}")
    try:
        tensors, told = _read(path)
        state: dict[str, Any] = _unpacked(json.loads(told[_KEY]), tensors)
        before = state["settings"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: not a readable checkpoint: {error}") from None
    now = settings.facts()
    for name in sorted({*before, *now} - {*_FREE}):
        if before.get(name) != now.get(name):
            was, got = before.get(name, "not given"), now.get(name, "not given")
            raise UseError(
                f"--resume must keep {_said(name)}, which was {was} in {folder}, got {got}"
            )
    return state


def only_begun(folder: Path) -> bool:
    """Says whether a folder holds a run that was killed before its first checkpoint, and no more.

    Such a folder may be used again: all files are what a network is before it is trained.
    """
    if not (folder / EVENTS).is_file() or (folder / NAME).exists():
        return False
    whose = (*FIRST, NAME)  # unfinished ones are hidden, with more behind their names
    names = [path.name.removeprefix(".") for path in folder.iterdir()]
    empty = [folder / name for name in (EVENTS, HISTORY) if (folder / name).exists()]
    return all(name.startswith(whose) for name in names) and not any(
        path.stat().st_size for path in empty
    )


def _said(name: str) -> str:
    return "MODEL" if name == "model" else f"--{name}"


def random_state() -> dict[str, Any]:
    """Returns the state of all that a network may draw from."""
    version, words, place, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
        "numpy": [version, np.asarray(words).tolist(), place, *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, *rest = state["numpy"]
    np.random.set_state((version, np.array(words, dtype=np.uint32), *rest))  # noqa: NPY002
    version, words, rest = state["python"]
    random.setstate((version, tuple(words), rest))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        told = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns a value as JSON can hold it; its tensors are put among those of the file."""
    if isinstance(value, Tensor):
        name = f"run.{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {str(key): _packed(each, tensors) for key, each in value.items()}
    return [_packed(each, tensors) for each in value] if isinstance(value, list | tuple) else value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _unpacked(each, tensors) for key, each in value.items()}
    return [_unpacked(each, tensors) for each in value] if isinstance(value, list) else value
