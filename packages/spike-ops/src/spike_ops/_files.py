"""Spikes in files: the bits as safetensors, shapes and types in the header."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spike_ops._ops import packed_bits
from spike_ops._spike_tensor import FLOATS, SpikeTensor, dense_of
from spike_ops._whole import whole

FORMAT = "spike-ops spikes 1"
NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


def save_spikes(spikes: SpikeTensor | Mapping[str, SpikeTensor], path: str | Path) -> None:
    """Write spikes, one or several under names, to a safetensors file: one bit each.

    The file is there whole or not at all, and what was there before stays until then.

    Args:
        spikes: Spikes, or a mapping from names to spikes.
        path: The file to write.

    Raises:
        TypeError: Something is not a `SpikeTensor`, or a name no text.
        FileNotFoundError: There is no folder for the file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "spikes.safetensors"
        >>> save_spikes({"layer 1": SpikeTensor.from_dense(torch.eye(3))}, file)
        >>> load_spikes(file)["layer 1"]
        SpikeTensor(shape=(3, 3), spikes=3 of 9)
    """
    if not isinstance(spikes, SpikeTensor | Mapping):
        got = type(spikes).__name__
        raise TypeError(f"spikes must be SpikeTensor, or a mapping from names to them, got {got}")
    named = {"spikes": spikes} if isinstance(spikes, SpikeTensor) else dict(spikes)
    told = {"format": FORMAT, "one": str(isinstance(spikes, SpikeTensor))}
    bits: dict[str, Tensor] = {}
    for name, each in named.items():
        if not isinstance(each, SpikeTensor):
            raise TypeError(f"spikes must be SpikeTensor, got {type(each).__name__} for {name!r}")
        if not isinstance(name, str):
            raise TypeError(f"spikes must have names of text, got {name!r}")
        kind = str(each.dtype).removeprefix("torch.")
        told[f"spikes.{name}"] = json.dumps({"shape": list(each.shape), "dtype": kind})
        bits[name] = _stored(each)
    with whole(Path(path)) as part:
        save_file(bits, part, metadata=told)


def load_spikes(path: str | Path) -> SpikeTensor | dict[str, SpikeTensor]:
    """Return what `save_spikes` wrote: spikes, or spikes by name.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, or is not one of spikes.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "spikes.safetensors"
        >>> save_spikes(SpikeTensor.from_dense(torch.ones(2, 3)), file)
        >>> load_spikes(file)
        SpikeTensor(shape=(2, 3), spikes=6 of 6)
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("format") != FORMAT:
                raise ValueError(f"its format is {told.get('format')!r}, not {FORMAT!r}")
            named = {
                name: _read(file.get_tensor(name), told.get(f"spikes.{name}"))
                for name in list(file.keys())
            }
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a file of spikes: {error}") from error
    return named["spikes"] if told.get("one") == "True" and "spikes" in named else named


def _stored(spikes: SpikeTensor) -> Tensor:
    spikes = spikes.detach()  # type: ignore[assignment]
    packed = packed_bits(dense_of(spikes, torch.bool)) if spikes._transposed else spikes._packed
    return packed.clone()  # views share their bits, files do not


def _read(packed: Tensor, told: str | None) -> SpikeTensor:
    header = json.loads(told or "{}")
    shape, kind = header["shape"], NAMES[header["dtype"]]
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) >> 60:
        raise ValueError(f"{shape} is no shape")
    return SpikeTensor(packed, shape, kind)
