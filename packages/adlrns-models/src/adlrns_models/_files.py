"""One safetensors file a model: tensors, and in its header how to put them together."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from adlrns_models._atomic import write_atomically

FORMAT = 1
_PACKAGES = ("adlrns-models", "fd-sketch", "lowrank-kernels", "rank-sched", "torch")


def write(path: Path, kind: str, model: nn.Module, header: Mapping[str, Any]) -> None:
    """Writes the state of ``model`` and a JSON ``header`` to ``path``, whole or not at all."""
    tensors, aliases = _own_tensors(model.state_dict())
    full = {
        "format": FORMAT,
        "kind": kind,
        "versions": {name: version(name) for name in _PACKAGES},
        "aliases": aliases,
        **header,
    }
    full["sha256"] = _fingerprint(tensors, full)
    write_atomically(path, serialize(tensors, metadata={"adlrns": json.dumps(full)}))


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the header and the tensors of a file that :func:`write` made.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming file and field, if it is damaged, foreign, newer or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from error
    header = _header(path, metadata, kind)
    if field(path, header, "sha256", str) != _fingerprint(tensors, header):
        raise ValueError(f"{path}: field sha256 does not match what the file holds: it is damaged")
    for alias, name in field(path, header, "aliases", dict).items():
        if not isinstance(name, str) or name not in tensors:
            raise ValueError(f"{path}: field aliases: {alias} names {name}, which is not there")
        tensors[alias] = tensors[name]
    return header, tensors


def field(path: Path, header: Mapping[str, Any], name: str, kind: type) -> Any:
    """Returns a field of a file's header, or raises an error that names both."""
    value = header.get(name)
    if not isinstance(value, kind):
        got = "nothing" if value is None else repr(value)[:80]
        raise ValueError(f"{path}: field {name} must be a {kind.__name__}, got {got}")
    return value


def fill(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads ``tensors`` into ``model``, checked name by name and shape by shape first."""
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{path}: made from another architecture: tensors missing {missing[:3]}, "
            f"unexpected {extra[:3]}"
        )
    for name, tensor in wanted.items():
        if name.endswith("_extra_state"):  # bytes, of any length
            continue
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{path}: field {name} must have shape {list(tensor.shape)}, "
                f"got {list(tensors[name].shape)}"
            )
    try:
        model.load_state_dict(dict(tensors))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _header(path: Path, metadata: Mapping[str, str], kind: str) -> dict[str, Any]:
    if "adlrns" not in metadata:
        raise ValueError(f"{path}: field adlrns is missing from the header: a foreign file")
    try:
        header = json.loads(metadata["adlrns"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: field adlrns is no JSON: {error}") from error
    if json.dumps(header) != metadata["adlrns"]:  # 1e-05 damaged to 1E-05, for instance
        raise ValueError(f"{path}: field adlrns is not as it was written: it is damaged")
    if not isinstance(header, dict):
        raise ValueError(f"{path}: field adlrns must be a JSON object, got {header!r:.80}")
    number = field(path, header, "format", int)
    if not 1 <= number <= FORMAT:
        raise ValueError(f"{path}: field format must be in 1..{FORMAT}, got {number}")
    if header.get("kind") != kind:
        raise ValueError(f"{path}: field kind must be {kind!r}, got {header.get('kind')!r}")
    return header


def _fingerprint(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of every tensor and of the header but for this field."""
    rest = {name: value for name, value in header.items() if name != "sha256"}
    # what JSON makes of it, so that a tuple written and a list read are the same
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and under which name the shared ones stand."""
    first: dict[tuple[Any, ...], str] = {}
    tensors, aliases = {}, {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"the model's state must be tensors, got {type(tensor).__name__} for {name!r}"
            )
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            # a view into somebody else's storage would be written with all of it
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    return tensors, aliases
