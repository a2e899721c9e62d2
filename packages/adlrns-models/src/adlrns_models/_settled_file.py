"""Materialised models as files."""

import copy
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adlrns_models._checks import check_kind
from adlrns_models._elastic_file import open_like
from adlrns_models._files import field, fill, read, write
from adlrns_models._identity import IdentityBlock
from adlrns_models._open import open_names, opened, replace_modules
from adlrns_models._parts import build, parts_of
from adlrns_models._plain import sizes_of
from adlrns_models._targets import find_targets

NAME = "model.safetensors"


def save_materialized(model: nn.Module, directory: str | PathLike[str], *, like: nn.Module) -> None:
    """Writes a materialised model to ``directory/model.safetensors``, whole or not at all.

    Args:
        model: what :func:`materialize_model` returned.
        directory: where to; made if it is missing.
        like: the plain network it came from; where the two differ is written down.

    Raises:
        ValueError: if ``model`` is no materialised form of ``like``.
    """
    check_kind("model", model, nn.Module)
    check_kind("like", like, nn.Module)
    layers, names = {}, open_names(model)
    for name, original in find_targets(opened(like, names)).layers.items():
        module = _find(model, name)
        if type(module) is not type(original) or (module.bias is None) != (original.bias is None):
            layers[name] = _describe(name, module, sizes_of(original).groups)
    header = {"layers": layers, "open": names}
    write(Path(directory) / NAME, "materialized", model, header)


@torch.inference_mode(False)  # what is loaded here may train elsewhere
def load_materialized(directory: str | PathLike[str], model: nn.Module) -> nn.Module:
    """Returns the materialised model saved in ``directory``.

    Args:
        directory: where :func:`save_materialized` wrote.
        model: the plain network it was made from (any weights); it is not changed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and field, if it is damaged, foreign, newer, or of another
            architecture.
    """
    check_kind("model", model, nn.Module)
    path = Path(directory) / NAME
    header, tensors = read(path, "materialized")
    network = open_like(path, header, copy.deepcopy(model))
    targets = find_targets(network).layers
    new: dict[nn.Module, nn.Module] = {}
    for name, entry in field(path, header, "layers", dict).items():
        if name not in targets:
            raise ValueError(f"{path}: field layers: model has no linear or conv layer {name!r}")
        layer = targets[name]
        sizes = sizes_of(layer)
        form, rank = _read_form(path, name, entry, sizes.max_rank)
        module = build(parts_of(layer), form, sizes.outputs, rank)
        new[layer] = module.train(layer.training)
    network = replace_modules(network, new)
    fill(path, network, tensors)
    return network


def _find(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name) if name else model
    except AttributeError:
        message = f"model must be a materialised form of like, got no {name!r}"
        raise ValueError(message) from None


def _describe(name: str, module: nn.Module, groups: int) -> list[Any]:
    if isinstance(module, IdentityBlock):
        return ["identity", _outputs(module.head) // groups]
    if isinstance(module, nn.Sequential) and len(module) == 2:
        return ["factored", _outputs(module[0]) // groups]
    if type(module) in (nn.Linear, nn.Conv2d):
        return ["dense", 0]
    raise ValueError(f"model must be materialised, got a {type(module).__name__} at {name!r}")


def _outputs(module: Any) -> int:
    return int(module.weight.shape[0])


def _read_form(path: Path, name: str, entry: Any, limit: int) -> tuple[str, int]:
    try:
        form, rank = entry[0], int(entry[1])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: field layers.{name} is damaged: {entry!r}") from error
    if form not in ("dense", "factored", "identity") or not 0 <= rank <= limit:
        raise ValueError(f"{path}: field layers.{name} must be a form and a rank, got {entry!r}")
    return form, rank
