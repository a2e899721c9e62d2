"""Where samples and features are in the tensors that go through a module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from layer_importance._batch import Call, size
from layer_importance._preserve import preserved
from layer_importance._probe import Probe, Seen, few, probe, sample_axis


@dataclass(frozen=True, slots=True)
class Layout:
    """The dimensions of one module's streams.

    Attributes:
        x_axis: dimension of what goes in that grows with the samples; -1 if none does.
        y_axis: the same of what comes out.
        channels: dimension that holds the features of one token or place.
        calls: how often the module runs in one forward pass.
        writes: whether it writes into its input, or others later into its output.
    """

    x_axis: int
    y_axis: int
    channels: int
    calls: int
    writes: bool


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layouts(
    model: nn.Module, call: Callable[[Any], Call], batch: Any, *, divisible: bool = True
) -> dict[str, Layout]:
    """Returns the layout of every module that runs, by path.

    Two small runs, with copies of the batch's first sample, show which dimension grows. Where the
    samples of a batch cannot be taken apart (the nodes of one graph: not ``divisible``), the first
    dimension holds them if it is as long as the batch.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    with preserved(model, gradients=False):
        if not divisible:
            return _whole(probe(model, call(batch), modules), modules, size(batch))
        try:
            small, large = (probe(model, call(few(batch, n)), modules) for n in (2, 3))
        except (RuntimeError, IndexError, ValueError):
            return _whole(probe(model, call(batch), modules), modules, size(batch))
    found = {}
    for path, calls in small.calls.items():
        if len(large.of(path)) == len(calls):
            found[path] = _layout(modules[path], calls, large.of(path))
    return found


def _layout(module: nn.Module, small: list[Seen], large: list[Seen]) -> Layout:
    first, other = small[0], large[0]
    return Layout(
        sample_axis(first.x or (), other.x or (), (2, 3)),
        sample_axis(first.y or (), other.y or (), (2, 3)),
        channel_axis(module, first.x or ()),
        len(small),
        any(call.writes_input or call.written_later for call in small),
    )


def _whole(seen: Probe, modules: dict[str, nn.Module], samples: int) -> dict[str, Layout]:
    def axis(shape: tuple[int, ...] | None) -> int:
        return 0 if shape and shape[0] == samples else -1

    return {
        path: Layout(
            axis(calls[0].x),
            axis(calls[0].y),
            channel_axis(modules[path], calls[0].x or ()),
            len(calls),
            any(call.writes_input or call.written_later for call in calls),
        )
        for path, calls in seen.calls.items()
    }


def channel_axis(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Returns 1 for channels before places, as convolutions have them, else -1 for the last."""
    if len(shape) < 3:
        return -1
    convolutions = [m for m in module.modules() if isinstance(m, _CONVOLUTIONS)]
    takes = {m.in_channels for m in convolutions if m.weight.ndim == len(shape)}
    normed = {m.normalized_shape[-1] for m in module.modules() if isinstance(m, nn.LayerNorm)}
    return 1 if shape[1] in takes and not (shape[-1] == shape[1] and shape[-1] in normed) else -1
