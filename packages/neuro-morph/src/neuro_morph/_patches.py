"""What a layer multiplies with its weight at each position, as rows of a matrix."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F, grad


class UnalignedError(Exception):
    """The positions of one layer cannot be laid over those of another."""


def input_grid(layer: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Returns the positions of an input: ``(height, width)`` of images, ``()`` of vectors."""
    return tuple(x.shape[1:-1]) if isinstance(layer, nn.Linear) else tuple(x.shape[2:])


def output_rows(layer: nn.Module, out: Tensor) -> Tensor:
    """Returns an output as ``[examples, positions, features]``."""
    last = out if isinstance(layer, nn.Linear) else out.movedim(1, -1)
    return last.reshape(len(last), prod(last.shape[1:-1]), last.shape[-1])


def output_grid(layer: nn.Module, out: Tensor) -> tuple[int, ...]:
    """Returns the positions of an output."""
    return input_grid(layer, out)


def patches(layer: nn.Module, x: Tensor, at: Tensor | None = None) -> Tensor:
    """Returns what meets each row of the weight: ``[examples, positions, channels, offsets]``.

    A linear layer has one offset, a convolution those of its kernel; the last two axes flattened
    are in the order of ``weight[o].flatten()``.

    Args:
        layer: a linear or convolution layer without groups.
        x: its input.
        at: positions of the output, counted in order; None for all.
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(len(x), prod(x.shape[1:-1]), x.shape[-1], 1)
        return rows if at is None else rows[:, at]
    return _windows(layer, x, at)


def kept_positions(count: int, limit: int) -> tuple[Tensor, float]:
    """Returns every k-th position, so that at most ``limit`` stay, and the weight of each.

    The rule depends on nothing but the two numbers, so that batches may be split at will.
    """
    kept = torch.arange(0, count, -(-count // limit))
    return kept, count / len(kept)


def resized(rows: Tensor, grid: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Returns rows ``[n, positions, f]`` averaged over the cells of a smaller grid.

    Raises:
        UnalignedError: if the smaller grid does not divide the grid.
    """
    if grid == wanted:
        return rows
    if prod(wanted) == 1:
        return rows.mean(1, keepdim=True)
    if len(grid) != len(wanted) or any(a % b for a, b in zip(grid, wanted, strict=True)):
        raise UnalignedError(f"positions {grid} are read as {wanted}")
    sides = [n for a, b in zip(grid, wanted, strict=True) for n in (b, a // b)]
    cells = rows.reshape(len(rows), *sides, rows.shape[-1])
    cells = cells.mean(tuple(range(2, 2 + 2 * len(grid), 2)))
    return cells.reshape(len(rows), prod(wanted), rows.shape[-1])


def flattened_grid(grid: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """Returns the grid with so many cells that ``grid`` was pooled to before it was flattened.

    Raises:
        UnalignedError: if no pooling by one number along each axis gives it.
    """
    for pool in range(1, max(grid, default=1) + 1):
        smaller = tuple(side // pool for side in grid)
        if prod(smaller) == cells and all(side % pool == 0 for side in grid):
            return smaller
    raise UnalignedError(f"positions {grid} are read as {cells} numbers of each unit")


def summed_patches(layer: Any, x: Tensor, g: Tensor) -> Tensor:
    """Returns the sum of ``patch g'`` over examples and positions: ``[channels, O, offsets]``.

    It is what the gradient of a convolution's weight is made of, and found as that is, without the
    patches themselves.

    Args:
        layer: a convolution without groups.
        x: what it would be given, with any number of channels.
        g: ``[examples, positions, O]`` at all positions of its output.
    """
    held = _padded(layer, x)
    sizes = zip(held.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    grid = [(side - d * (k - 1) - 1) // s + 1 for side, k, s, d in sizes]
    maps = g.mT.reshape(len(g), -1, *grid)
    find: Any = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)[len(grid) - 1]
    size = maps.shape[1], x.shape[1], *layer.kernel_size
    found: Tensor = find(held, size, maps, stride=layer.stride, dilation=layer.dilation)
    return found.flatten(2).transpose(0, 1)


def _padded(layer: Any, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    pads: list[int] = list(layer._reversed_padding_repeated_twice)
    return F.pad(x, pads, mode=mode)


def _windows(layer: Any, x: Tensor, at: Tensor | None) -> Tensor:
    held = _padded(layer, x)
    kernel: tuple[int, ...] = layer.kernel_size
    sizes = zip(kernel, layer.stride, layer.dilation, strict=True)
    for dim, (size, stride, dilation) in enumerate(sizes, start=2):
        held = held.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    grid = held.shape[2 : 2 + len(kernel)]
    shape = len(x), -1, x.shape[1], prod(kernel)
    dims = range(2 + len(kernel), held.dim())
    if at is None:
        return held.permute(0, *range(2, 2 + len(kernel)), 1, *dims).reshape(shape)
    where: tuple[Any, ...] = torch.unravel_index(at.to(x.device), grid)
    return held[:, :, *where].movedim(1, 2).reshape(shape)  # from [n, channels, positions, *kernel]
