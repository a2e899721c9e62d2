"""The shape of one sample, as a caller gives it."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from spike_ops._checked import module, whole_number
from spike_ops.nn._stepwise import Stepwise

Shape = tuple[int, ...]
PASSED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# axes of a sample that a first layer hears, and the name of how many features or channels
HEARD: tuple[tuple[type[nn.Module], tuple[str, ...], str | None], ...] = (
    (nn.Linear, ("features",), "in_features"),
    (nn.Conv1d, ("channels", "length"), "in_channels"),
    (nn.Conv2d, ("channels", "height", "width"), "in_channels"),
    (nn.AvgPool2d, ("channels", "height", "width"), None),
)


def sample_shape(net: nn.Module, given: Any) -> Shape:
    """Return the shape of one sample; time and batch before it are left out where that is clear.

    It is where the first layer of a sequence tells how many axes it hears: (T, B, 16), (B, 16) and
    16 are (16,) before a linear layer of 16 features.

    Raises:
        TypeError: The network is no module, or a size no number.
        ValueError: They are no sizes from 1, or the first layer does not take such samples.
    """
    check_own(net)
    sizes = given if isinstance(given, list | tuple) else (given,)
    shape = tuple(whole_number("input_shape", size) for size in sizes)
    rule = "input_shape must be sizes from 1 of one sample, (T, B) before it or not"
    if not shape or min(shape) < 1:
        raise ValueError(f"{rule}, got {given}")
    layer = next(_sequence(net), None)
    row = next((row for row in HEARD if isinstance(layer, row[0])), None)
    if row is None:
        return shape
    _, axes, field = row
    wanted = getattr(layer, field) if field else None
    sample = shape[-len(axes) :]
    fits = len(sample) == len(axes) and wanted in {None, sample[0]}
    if not fits or len(shape) > len(axes) + 2:
        first = f"{wanted} {axes[0]}" if wanted is not None else axes[0]
        told = ", ".join((first, *axes[1:]))
        kind = type(layer).__name__
        raise ValueError(
            f"{rule}: the first layer, {kind}, must take samples ({told}), got {given}"
        )
    return sample


def check_own(net: Any) -> None:
    """Raise TypeError unless this is a network over time.

    Raises:
        TypeError: It is no module, or a `ConvertedNet`, whose inputs have no axis of time.
    """
    module("net", net)
    if hasattr(net, "to_sequential"):
        kind = type(net).__name__
        raise TypeError(f"net must be a network over time, got {kind}: take its to_sequential()")


def _sequence(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a sequence in the order in which they run."""
    if isinstance(net, nn.Sequential | Stepwise):
        for child in net.children():
            yield from _sequence(child)
    elif not isinstance(net, PASSED):
        yield net
