"""The part of an adaptive layer's state that is not a tensor, as a tensor of bytes."""

import json
import zlib
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse, save as serialize
from torch import Tensor

from adlrns_models._config import AdaptConfig

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer

VERSION = 1
_WHAT = "extra state of an adaptive layer"


def pack(layer: "AdaptiveLayer") -> Tensor:
    """Returns a checksum, a length-prefixed JSON header, and sketch and rows as safetensors."""
    header = {
        "version": VERSION,
        "config": layer.config.to_dict(),
        "adapting": layer._adapting,
        "steps": layer.steps,
        "look_due": layer._look_due,
        "changed_at": layer._changed_at,
        "credit": layer._watch.credit,
    }
    text = json.dumps(header).encode()
    sketch = torch.frombuffer(bytearray(layer.sketch.to_bytes()), dtype=torch.uint8)
    tensors = serialize({"sketch": sketch, "recent": layer._watch.recent.cpu().contiguous()})
    body = len(text).to_bytes(4, "little") + text + tensors
    return torch.frombuffer(
        bytearray(zlib.crc32(body).to_bytes(4, "little") + body), dtype=torch.uint8
    )


def unpack(layer: "AdaptiveLayer", state: Any) -> None:
    """Restores ``layer`` from :func:`pack`'s tensor; nothing changes if it is damaged.

    Raises:
        ValueError: naming the field that cannot be read.
    """
    header, tensors = _split(state)
    try:
        config = AdaptConfig(**header["config"])
        adapting, steps = bool(header["adapting"]), int(header["steps"])
        credit, look_due = float(header["credit"]), bool(header["look_due"])
        changed_at = None if header["changed_at"] is None else int(header["changed_at"])
        saved, recent = tensors["sketch"], tensors["recent"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{_WHAT}: field {error}") from error
    watch = layer._make_watch(config)  # the sketch's kind and size follow the configuration
    like = layer.down.detach()
    sketch = type(watch.sketch).from_bytes(saved.numpy().tobytes(), like=like)
    for name, found in (("sketch", sketch.n_features), ("recent", recent.shape[-1])):
        if found != watch.sketch.n_features:
            raise ValueError(
                f"{_WHAT}: field {name} must have {watch.sketch.n_features} features, got {found}"
            )
    watch.sketch, watch.recent, watch.credit = sketch, recent.to(like.device), credit
    layer.config, layer._adapting, layer._changed_at = config, adapting, changed_at
    layer._watch, layer._steps, layer._look_due = watch, steps, look_due


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.ndim != 1:
        raise ValueError(f"{_WHAT} must be a one-dimensional uint8 tensor")
    data = state.cpu().numpy().tobytes()
    if int.from_bytes(data[:4], "little") != zlib.crc32(data[4:]):
        raise ValueError(f"{_WHAT}: field checksum does not match: it is damaged")
    end = 8 + int.from_bytes(data[4:8], "little")
    try:
        header, tensors = json.loads(data[8:end]), parse(data[end:])
        version = header["version"]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{_WHAT}: field header is damaged: {error}") from error
    if version != VERSION:
        raise ValueError(f"{_WHAT}: field version must be {VERSION}, got {version}")
    return header, tensors
