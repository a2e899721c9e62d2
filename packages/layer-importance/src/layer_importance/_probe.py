"""One look at a model while it runs: who is called, in which order, with what shapes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._additions import Additions
from layer_importance._batch import Call, take
from layer_importance._structure import outline, stream


@dataclass(slots=True)
class Seen:
    """One call of one module.

    Attributes:
        order: place among all calls of watched modules, by when they began.
        x: shape of the stream that goes in; ``None`` if there is none.
        y: shape of the stream that comes out.
        dtypes: dtypes of both.
        x_id: identity of the tensor that goes in; ``y_id`` of the one that comes out.
        writes_input: whether the call wrote into its input.
        written_later: whether somebody wrote into its input or output afterwards.
        output: the structure that came out, in words.
    """

    order: int
    x: tuple[int, ...] | None = None
    y: tuple[int, ...] | None = None
    dtypes: tuple[torch.dtype | None, torch.dtype | None] = (None, None)
    x_id: int = 0
    y_id: int = 0
    writes_input: bool = False
    written_later: bool = False
    output: str = ""

    @property
    def keeps_shape(self) -> bool:
        """Whether what comes out has shape and dtype of what goes in."""
        return self.x is not None and self.x == self.y and self.dtypes[0] == self.dtypes[1]


@dataclass(slots=True)
class Probe:
    """What one run of a model showed: calls by path, in order."""

    calls: dict[str, list[Seen]] = field(default_factory=dict)
    skips: dict[str, list[frozenset[str]]] = field(default_factory=dict)
    """Each time a module's own input was added to something: who inside it was running."""
    open: list[tuple[str, int]] = field(default_factory=list)
    branches: dict[str, list[str]] = field(default_factory=dict)
    """By module: those inside whose output was added to the module's own stream, in order."""
    added: set[str] = field(default_factory=set)
    """Modules whose output was added to their own input by whoever called them."""
    attends: set[str] = field(default_factory=set)
    """Modules that weighed tokens by a softmax while they ran."""
    made_by: dict[int, str] = field(default_factory=dict)
    """Who answered with a tensor, by its identity: the outermost module."""
    streams: dict[int, set[str]] = field(default_factory=dict)
    """Whose input, or sum with its input, a tensor is, by its identity."""
    alive: list[Tensor] = field(default_factory=list)
    # alive too, so that identities stay unique, with their versions
    kept: list[tuple[Tensor, int, Seen]] = field(default_factory=list)

    def of(self, path: str) -> list[Seen]:
        """Returns the calls of a module."""
        return self.calls.get(path, [])

    def adds_input(self, path: str, inner: frozenset[str]) -> bool:
        """Whether the module adds its input to something while nothing in ``inner`` runs.

        That is what a residual block does around its layers, and a stage of blocks does not.
        """
        return any(not running & inner for running in self.skips.get(path, ()))


def probe(model: nn.Module, call: Call, modules: Mapping[str, nn.Module]) -> Probe:
    """Returns what a run of ``model`` shows of ``modules``."""
    seen = Probe()
    with watching(seen, modules), torch.no_grad(), Additions(seen):
        call.of(model)
    for tensor, version, one in seen.kept:
        one.written_later |= _version(tensor) != version
    for held in (seen.kept, seen.alive, seen.made_by, seen.streams):
        held.clear()
    return seen


@contextmanager
def watching(seen: Probe, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Fills ``seen`` with every call of ``modules`` made inside."""
    handles: list[Any] = []
    order = 0

    def watch(path: str, module: nn.Module) -> None:
        open_calls: list[tuple[Seen, Tensor | None, int]] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal order
            x = stream((args, kwargs))
            call = Seen(order)
            order += 1
            if x is not None:
                call.x, call.x_id = tuple(x.shape), id(x)
                seen.kept.append((x, _version(x), call))
            seen.calls.setdefault(path, []).append(call)
            open_calls.append((call, x, _version(x)))
            seen.open.append((path, call.x_id))
            if x is not None:
                seen.streams.setdefault(id(x), set()).add(path)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            call, x, version = open_calls.pop()
            seen.open.pop()
            y = stream(output, like=x)
            call.output = outline(output)
            call.dtypes = (x.dtype if x is not None else None, y.dtype if y is not None else None)
            call.writes_input = _version(x) != version
            if y is not None:
                call.y, call.y_id = tuple(y.shape), id(y)
                if x is not None and _is_norm(module):  # a stream normed after the sum goes on
                    seen.streams.setdefault(id(y), set()).update(seen.streams.get(id(x), ()))
                if next(module.parameters(), None) is not None:
                    seen.made_by[id(y)] = path
                elif x is not None and id(x) in seen.made_by:  # dropout and the like hand it on
                    seen.made_by.setdefault(id(y), seen.made_by[id(x)])
                seen.kept.append((y, _version(y), call))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))

    try:
        for path, module in modules.items():
            watch(path, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_norm(module: nn.Module) -> bool:
    own = list(module.parameters())
    return bool(own) and all(parameter.ndim == 1 for parameter in own)


def _version(tensor: Tensor | None) -> int:
    return tensor._version if tensor is not None and not tensor.is_inference() else 0


def sample_axis(small: tuple[int, ...], large: tuple[int, ...], samples: tuple[int, int]) -> int:
    """Returns the dimension that grew with the number of samples; -1 if none did or several.

    ``small`` and ``large`` are a tensor's shapes in runs with ``samples`` samples.
    """
    if len(small) != len(large):
        return -1
    changed = [i for i, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
    if len(changed) != 1:
        return -1
    (axis,) = changed
    return axis if small[axis] * samples[1] == large[axis] * samples[0] else -1


def few(batch: Any, count: int) -> Any:
    """Returns ``count`` copies of the first sample of a batch."""
    return take(batch, [0] * count)
