"""`timm:NAME`: an architecture of timm, or a local folder with one and its weights."""

import shutil
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from adlrns._console import remark
from adlrns._errors import RunError, UseError, need, one_line

TIMM = "timm"
"""The prefix, and the folder of a result with the configuration of what was read from one."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def open_timm(place: str) -> nn.Module:
    """Returns the model of a local folder, or of a name with weights that mean nothing, in eval.

    Nothing is fetched and nothing unpickled: a folder has its weights in ``model.safetensors``.

    Raises:
        UseError: if there is no such folder or name; naming what is wrong.
        RunError: if timm cannot be imported.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        return _trained(place, folder)
    timm = _timm()
    _check_name(timm, place)
    remark(f"timm:{place} by its name has weights as training begins with them: none are fetched")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same network every time
        model: nn.Module = timm.create_model(place, pretrained=False)
    return model.eval()


def open_timm_source(kept: Path, name: str) -> nn.Module:
    """Returns the architecture of a result, with weights of no meaning.

    Args:
        kept: where :func:`keep_timm` wrote; not there for what was made by name.
        name: of the architecture.
    """
    model = _architecture(kept) if kept.is_dir() else _timm().create_model(name, pretrained=False)
    return model.eval()


def keep_timm(origin: Path, kept: Path) -> None:
    """Copies the configuration of a model that was read from a folder; of a name there is none."""
    if (origin / _CONFIG).is_file():
        kept.mkdir()
        shutil.copyfile(origin / _CONFIG, kept / _CONFIG)


def _trained(place: str, folder: Path) -> nn.Module:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise UseError(f"MODEL timm:{place} must be a local folder with a {name}, got none")
    model = _architecture(folder)
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except RuntimeError as error:
        text = f"{_WEIGHTS} must hold the weights that {_CONFIG} describes: {one_line(error):.200}"
        raise UseError(f"MODEL timm:{place}: {text}") from error
    return model.eval()


def _architecture(folder: Path) -> nn.Module:
    """What a configuration describes; without ``pretrained`` timm reads no weights."""
    return _timm().create_model(f"local-dir:{folder}", pretrained=False)


def _check_name(timm: Any, name: str) -> None:
    plain, tagged, _ = name.partition(".")
    if timm.is_model(plain) and tagged:
        raise UseError(
            f"MODEL timm:{name} names trained weights, and none are fetched: give a local folder "
            f"with {_CONFIG} and {_WEIGHTS}, or timm:{plain} for the architecture alone"
        )
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise UseError(f"MODEL timm:{name} is neither a local folder nor a model of timm{hint}")


def _timm() -> ModuleType:
    try:
        return need("timm")
    except (RuntimeError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        raise RunError(
            f"timm needs a torchvision built for torch {torch.__version__}: {one_line(error)}"
        ) from error
