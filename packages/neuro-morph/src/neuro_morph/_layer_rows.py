"""What goes into layers as rows of numbers, example by example."""

from math import prod

import torch
from torch import Tensor, nn

from neuro_morph._patches import patches
from neuro_morph._unit_layers import UnitLayer

_NUMBERS = 1 << 22  # that are unfolded at a time
_BLOCK = 160  # columns


def precise(x: Tensor) -> Tensor:
    """Returns numbers in the precision that products of them are taken in."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def features_of(layer: UnitLayer, x: Tensor, at: Tensor | None = None) -> Tensor:
    """Returns ``[n, positions, features]``, a 1 behind them where there is a bias."""
    rows = patches(layer.module, precise(x), at).flatten(2)
    if layer.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], -1)


def width_of(layer: UnitLayer) -> int:
    """Returns how many numbers a layer multiplies with a row, its bias counted."""
    weight: Tensor = layer.module.weight  # type: ignore[assignment]
    return weight[0].numel() + (layer.bias is not None)


def kernel_of(layer: UnitLayer) -> int:
    """Returns the positions of a layer's kernel."""
    weight: Tensor = layer.module.weight  # type: ignore[assignment]
    return weight[0, 0].numel()


def channels_of(module: nn.Module, x: Tensor) -> Tensor:
    """Returns an input as ``[examples, positions, channels]``."""
    last = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
    return last.reshape(len(x), prod(last.shape[1:-1]), last.shape[-1])


def units_read(reader: UnitLayer, x: Tensor, examples: int) -> Tensor:
    """Returns the units that a layer reads: ``[examples, positions, C]``."""
    rows, places = precise(channels_of(reader.module, x)), reader.places
    if places.shape[1] == 1 and torch.equal(places[:, 0], torch.arange(rows.shape[-1])):
        return per_example(rows, examples)
    held = rows[..., places]  # [n, positions, C, places]
    return per_example(held.transpose(2, 3).flatten(1, 2), examples)


def per_example(rows: Tensor, examples: int) -> Tensor:
    """Returns rows that came cut up (windows of an image) as rows of their examples."""
    if len(rows) == examples or rows.shape[0] * rows.shape[1] % examples:
        return rows
    return rows.reshape(examples, -1, rows.shape[-1])


def chunks(count: int, numbers: int) -> list[slice]:
    """Returns parts of so many examples of ``numbers`` each that they fit."""
    step = max(_NUMBERS // max(numbers, 1), 1)
    return [slice(start, start + step) for start in range(0, count, step)]


def gram(rows: Tensor) -> Tensor:
    """Returns ``rows' rows``; of a large one half is computed, the other is its mirror image."""
    size = rows.shape[1]
    if size <= 2 * _BLOCK:
        return rows.T @ rows
    found = rows.new_empty(size, size)
    for start in range(0, size, _BLOCK):
        part = rows[:, start : start + _BLOCK].T @ rows[:, start:]
        found[start : start + _BLOCK, start:] = part
        found[start:, start : start + _BLOCK] = part.T
    return found
