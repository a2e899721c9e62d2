"""A connection from one layer of a network to another that it did not have."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._blocks import CONVS
from neuro_morph._grafts import holder_of, join_after, join_before, register
from neuro_morph._rehearsal import NothingToPassOnError
from neuro_morph._undo import UndoLog
from neuro_morph._visits import main_tensor, with_main

ADAPTERS = ("auto", "identity", "low_rank")


@dataclass(frozen=True)
class EdgeShape:
    """What a connection is made for.

    Attributes:
        source: the path of the module whose output is taken.
        target: the path of the module to whose output it is added.
        adapter: ``"auto"`` (a matrix), ``"identity"`` or ``"low_rank"``.
        gated: whether a number in front, zero at first, opens it.
        features: features of source and target.
        axes: the axes of their outputs that hold them.
        dims: how many axes the outputs of source and target have.
        rank: of a low-rank adapter.
        clone: whether what the source gives is overwritten later and has to be copied.
    """

    source: str
    target: str
    adapter: str
    gated: bool
    features: tuple[int, int]
    axes: tuple[int, int]
    dims: tuple[int, int]
    rank: int | None = None
    clone: bool = False

    @property
    def maps(self) -> int:
        """Dimensions of the maps if both ends hold features on their second axis, else 0."""
        both = self.dims[0] == self.dims[1] and self.axes == (1, 1)
        return self.dims[0] - 2 if both and 3 <= self.dims[0] <= 5 else 0


class _Held(threading.local):
    """What the source gave in this thread's run; nothing of it is copied or saved."""

    value: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> "_Held":
        return _Held()

    def __reduce__(self) -> Any:
        return _Held, ()


class GrownEdge(nn.Module):
    """A connection: ``b`` gives ``f(...) + gate * A(x_a)``, ``x_a`` what ``a`` gave in this run.

    ``A`` is a matrix on the features (a 1x1 convolution between maps), a product of two of a low
    rank, or the identity. Positions are averaged over where the target has fewer and repeated where
    it has more. Without a gate the last matrix is zero at first; with one it is random and the gate
    is zero (ReZero, arXiv:2003.04887).

    Args:
        shape: what it is made for.
        generator: the source of new numbers.
    """

    def __init__(self, shape: EdgeShape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.adapter = _adapter(shape, generator)
        self.gate = nn.Parameter(torch.zeros(())) if shape.gated else None
        self._held = _Held()

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Returns what is added to ``like``, the output of the target, for ``x`` of the source."""
        if self.shape.maps:
            new = resized(x, like.shape[2:], self.adapter)
        else:
            new = self.adapter(x.movedim(self.shape.axes[0], -1))
            new = fitted(new, like.movedim(self.shape.axes[1], -1)).movedim(-1, self.shape.axes[1])
        return new if self.gate is None else self.gate * new

    def store(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keeps what the source gives until the target has run."""
        main = main_tensor(output)
        self._held.value = main.clone() if self.shape.clone and main is not None else main

    def join(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Returns the output of the target with the connection's part added."""
        x, main = self._held.value, main_tensor(output)
        self._held.value = None
        if x is None or main is None:
            raise NothingToPassOnError(
                f"the connection from {self.shape.source!r} to {self.shape.target!r} has nothing "
                "to pass on: its source did not run before its target"
            )
        return with_main(output, main + self(x, main).to(main.dtype))

    def clear(self, module: nn.Module, args: Any) -> None:
        """Forgets what another run may have left."""
        self._held.value = None

    def extra_repr(self) -> str:
        """Returns what it connects."""
        return f"{self.shape.source!r} -> {self.shape.target!r}"


def install(model: nn.Module, name: str, edge: GrownEdge, log: UndoLog) -> str:
    """Joins a connection into the forward pass of a model and returns its path."""
    path = register(model, holder_of(model, edge.shape.target), name, edge, log)
    join_before(model, f"{name}:clear", edge.clear, log)
    join_after(model.get_submodule(edge.shape.source), f"{name}:store", edge.store, log)
    join_after(model.get_submodule(edge.shape.target), f"{name}:join", edge.join, log)
    return path


def resized(x: Tensor, size: Sequence[int], adapter: nn.Module) -> Tensor:
    """Returns ``adapter(x)`` with maps of a size: averaged or repeated."""
    dims = len(size)
    if tuple(x.shape[2:]) == tuple(size):
        out: Tensor = adapter(x)
        return out
    pools: Any = (
        nn.functional.adaptive_avg_pool1d,
        nn.functional.adaptive_avg_pool2d,
        nn.functional.adaptive_avg_pool3d,
    )
    smaller = [min(have, want) for have, want in zip(x.shape[2:], size, strict=True)]
    new: Tensor = adapter(pools[dims - 1](x, smaller))
    if tuple(new.shape[2:]) != tuple(size):
        new = nn.functional.interpolate(new, size=list(size), mode="nearest")
    return new


def fitted(x: Tensor, like: Tensor) -> Tensor:
    """Returns ``x`` at the positions of ``like``; the features of both are on the last axis."""
    have, want = x.shape[1:-1], like.shape[1:-1]
    if have == want:
        return x
    if len(have) == len(want) and len(have) <= 3:
        return resized(x.movedim(-1, 1), want, nn.Identity()).movedim(1, -1)
    if have and want and prod(have) == prod(want):
        return x.reshape(*like.shape[:-1], x.shape[-1])
    pooled = x.flatten(1, -2).mean(1) if have else x
    return pooled.reshape(len(x), *[1] * len(want), x.shape[-1])


def _adapter(shape: EdgeShape, generator: torch.Generator | None) -> nn.Module:
    into, out = shape.features
    if shape.adapter == "identity":
        return nn.Identity()
    if shape.adapter == "low_rank":
        assert shape.rank is not None
        down, up = _matrix(shape, into, shape.rank), _matrix(shape, shape.rank, out)
        _randomize(down, generator)
        _randomize(up, generator) if shape.gated else nn.init.zeros_(up.weight)
        return nn.Sequential(down, up)
    whole = _matrix(shape, into, out)
    _randomize(whole, generator) if shape.gated else nn.init.zeros_(whole.weight)
    return whole


def _matrix(shape: EdgeShape, into: int, out: int) -> Any:
    """Returns a matrix on the features; its target has the bias."""
    if shape.maps:
        return CONVS[shape.maps](into, out, 1, bias=False)
    return nn.Linear(into, out, bias=False)


def _randomize(layer: Any, generator: torch.Generator | None) -> None:
    fan_in = layer.weight[0].numel()
    noise = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(noise / fan_in**0.5)
