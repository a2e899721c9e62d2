"""Elastic models as files."""

import copy
import itertools
from collections.abc import Iterable
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adlrns_models._checks import check_kind
from adlrns_models._config import AdaptConfig
from adlrns_models._costs import LayerSize
from adlrns_models._factorize import Factorization
from adlrns_models._files import field, fill, read, write
from adlrns_models._measured import Measured
from adlrns_models._open import open_names, opening, replace_modules
from adlrns_models._plain import Plain, sizes_of
from adlrns_models._profile import LayerProfile
from adlrns_models._targets import find_targets
from adlrns_models._wrap import make_adaptive

if TYPE_CHECKING:
    from adlrns_models._elastic import ElasticModel

NAME = "elastic.safetensors"


def save_elastic(elastic: "ElasticModel", directory: str | PathLike[str]) -> None:
    """Writes ``directory/elastic.safetensors``."""
    layers = {name: {**asdict(p), "size": list(p.size)} for name, p in elastic.profiles.items()}
    header = {
        "layers": layers,
        "open": open_names(elastic.network),
        "multiple_of": elastic.multiple_of,
        "info": elastic.info,
    }
    write(Path(directory) / NAME, "elastic", elastic.network, header)


@torch.inference_mode(False)  # what is loaded here may train elsewhere
def load_parts(
    directory: str | PathLike[str], model: nn.Module
) -> tuple[nn.Module, dict[str, LayerProfile], int | None, dict[str, Any]]:
    """Returns network, profiles, ``multiple_of`` and info of the model saved in ``directory``."""
    check_kind("model", model, nn.Module)
    path = Path(directory) / NAME
    header, tensors = read(path, "elastic")
    described, info = field(path, header, "layers", dict), field(path, header, "info", dict)
    step = None if header.get("multiple_of", 0) is None else field(path, header, "multiple_of", int)
    profiles = {name: _profile(path, name, entry) for name, entry in described.items()}
    if "measured" in info:
        _check_measured(path, info["measured"], profiles)
    network = open_like(path, header, copy.deepcopy(model))
    targets = find_targets(network).layers
    new: dict[nn.Module, nn.Module] = {}
    for name, profile in profiles.items():
        layer = targets.get(name)
        if layer is None:
            raise ValueError(f"{path}: field layers: model has no linear or conv layer {name!r}")
        sizes = sizes_of(layer)
        if sizes != (found := (*profile.size[:2], profile.groups)):
            raise ValueError(
                f"{path}: field layers.{name}.size must be of {list(sizes)}, got {list(found)}"
            )
        config = AdaptConfig(r_min=0, r_max=sizes.max_rank)
        new[layer] = make_adaptive(layer, config, factors=_blank(layer)).train(layer.training)
    network = replace_modules(network, new)
    fill(path, network, tensors)
    return network, profiles, step, info


def _check_measured(path: Path, values: Any, names: Iterable[str]) -> None:
    try:
        Measured.from_dict(values, names)
    except ValueError as error:
        raise ValueError(f"{path}: field info.measured: {error}") from error


def _profile(path: Path, name: str, entry: Any) -> LayerProfile:
    try:
        m, n, rows = entry["size"]
        size = LayerSize(int(m), int(n), float(rows))
        groups = int(entry.get("groups", 1))  # older files have none
        curves = {key: tuple(map(float, entry[key])) for key in ("loss", "lower", "upper")}
        numbers = (size.rows, *itertools.chain(*curves.values()))
        if not all(0 <= value < float("inf") for value in numbers):
            raise ValueError("sizes and losses must be finite and not negative")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: field layers.{name} is damaged: {error!r}") from error
    for key, curve in curves.items():
        if len(curve) != size.max_rank + 1:
            raise ValueError(
                f"{path}: field layers.{name}.{key} must have {size.max_rank + 1} entries, "
                f"got {len(curve)}"
            )
    return LayerProfile(size, **curves, groups=groups)


def open_like(path: Path, header: dict[str, Any], model: nn.Module) -> nn.Module:
    """Returns ``model`` with those attentions open that were so in the model saved."""
    names = field(path, header, "open", list) if "open" in header else []  # older files have none
    try:
        with opening(model, names) as result:
            return result
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: field open: {error}") from error


def _blank(layer: Plain) -> Factorization:
    """Factors of the right shape whose values a file is about to give."""
    m, n, groups = sizes = sizes_of(layer)
    rank, lead = sizes.max_rank, () if groups == 1 else (groups,)
    empty = layer.weight.detach().new_zeros
    curve = torch.zeros(rank + 1, dtype=torch.float64)
    return Factorization(
        down=empty(*lead, rank, n),
        up=empty(*lead, m, rank),
        inner_bias=empty(*lead, rank),
        bias=empty(m * groups),
        loss=curve,
        lower=curve,
        error_bound=0.0,
        residual_mass=0.0,
        rounding=0.0,
        gram=torch.zeros(0, 0, dtype=torch.float64),
    )
