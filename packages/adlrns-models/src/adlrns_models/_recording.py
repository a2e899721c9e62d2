"""What a recording is, and how it gets what was decided in compiled graphs."""

import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, overload

import torch
from torch import nn

from adlrns_models import _observe
from adlrns_models._checks import check_kind

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer
    from adlrns_models._gate import Decision

Call = tuple["DynamicLayer", "Decision"]
# of each thread, where graphs leave what was decided in them; a traced call has its place on it
board = threading.local()


class Recording(Sequence[Call]):
    """The calls of a model's dynamic layers that :func:`record` lists, in the order they ran.

    Attributes:
        model: whose layers are listed.
    """

    def __init__(self, model: nn.Module):
        self.model = check_kind("model", model, nn.Module)
        self.thread, self.key = threading.get_ident(), object()
        self._level, self._calls = _observe.level(), []  # type: tuple[int, list[Call]]
        self._layers = set(_dynamic_layers(model))
        for layer in self._layers:
            layer._recorded = True
        self._awaited: list[tuple[int, int]] = []
        self._learns = torch.is_grad_enabled()
        self._cut_off: DynamicLayer | None = None

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> list[Call]: ...
    def __getitem__(self, index: int | slice) -> Call | list[Call]:
        """Returns one call, ``(layer, decision)``, or some."""
        self.settle(whole=True)
        return self._calls[index]

    def __len__(self) -> int:
        """Returns how many calls there were."""
        self.settle(whole=True)
        return len(self._calls)

    def __repr__(self) -> str:
        return f"Recording({len(self._calls)} calls of {type(self.model).__name__})"

    @property
    def has_layers(self) -> bool:
        """Whether the model has dynamic layers at all."""
        return bool(self._layers)

    def check_gradients(self) -> None:
        """Raises if gates that are to learn ran without gradients in a block that has them."""
        if self._cut_off is not None:
            raise RuntimeError(
                f"the gate of a {type(self._cut_off).__name__} learns, but ran without gradients, "
                "so that no penalty reaches it: checkpoint with use_reentrant=False, or record "
                "inside the block of no_grad"
            )

    def check_layers(self) -> None:
        """Raises if a layer was put in that may have run, but left no decision."""
        for layer in _dynamic_layers(self.model):
            if layer not in self._layers and layer._last is not None:
                raise RuntimeError(
                    f"a {type(layer).__name__} was put into the model inside of the block, where a "
                    "compiled graph leaves no decision of it: begin the block afterwards"
                )

    def add(self, layer: "DynamicLayer", decision: "Decision", grad: bool) -> None:
        """Lists a call that ran outside of graphs, with or without gradients."""
        self.settle(whole=True)
        if _observe.level() == self._level:  # tensors of a transform end with it
            self._take(layer, decision, grad)

    def _take(self, layer: "DynamicLayer", decision: "Decision", grad: bool) -> None:
        if not self._level and any(map(_observe.has_level, decision)):
            return  # of a transform that was compiled
        if layer not in self._layers:  # or put in since
            self._layers |= set(_dynamic_layers(self.model))
        if layer in self._layers:
            self._calls.append((layer, decision))
            if self._learns and not grad and layer.training and layer.gate.learns:
                self._cut_off = layer

    def has_copy(self, layer: "DynamicLayer") -> bool:
        """Whether a replica is one of a layer that is listed: they share what is no tensor."""
        return any(layer._memory is each._memory for each in self._layers)

    def wait_for(self, place: int, number: int) -> None:
        """Lists a call when its graph has left the decision on the board, under this number."""
        self._awaited.append((place, number))

    @torch.compiler.disable  # a trace would read the board before the graph has run
    def settle(self, *, whole: bool) -> None:
        """Takes what a graph that has ended left on the board, in the order of its trace."""
        if not self._awaited:
            return
        left = [getattr(board, name_of(place), (0,)) for place, _ in self._awaited]
        if all(int(entry[0]) == call[1] for entry, call in zip(left, self._awaited, strict=True)):
            order = sorted(range(len(left)), key=lambda i: self._awaited[i][0])
            self._awaited = []
            for i in order:
                self._take(*left[i][1:])
        elif whole:
            raise RuntimeError(
                "a compiled call of the model has left no decisions, as one does that failed: "
                "record anew, without it"
            )


class Open:
    """The recordings under way: all of them, those of a thread, and those of a task."""

    def __init__(self) -> None:
        self.all: tuple[Recording, ...] = ()
        # keys alone: a task that outlives a block would hold its graph
        self._here: ContextVar[tuple[object, ...]] = ContextVar("recordings", default=())
        self._lock = threading.Lock()

    def of_thread(self) -> list[Recording]:
        """Returns the recordings of this thread."""
        here = threading.get_ident()
        return [recording for recording in self.all if recording.thread == here]

    def of_task(self) -> list[Recording]:
        """Returns those that list what this task does: its own, and those it was started in."""
        keys = self._here.get()
        return [recording for recording in self.of_thread() if recording.key in keys]

    def begin(self, recording: Recording) -> None:
        """Adds a recording."""
        self._here.set((*(each.key for each in self.of_task()), recording.key))
        with self._lock:
            self.all = (*self.all, recording)

    @torch.compiler.disable
    def end(self, recording: Recording) -> None:
        """Takes a recording out, and what its graphs left behind."""
        with self._lock:
            self.all = tuple(each for each in self.all if each is not recording)
        if not self.of_thread():
            vars(board).clear()


def name_of(place: int) -> str:
    """Returns the name under which the board has a place."""
    return f"call{place}"


def _dynamic_layers(model: nn.Module) -> "Iterator[DynamicLayer]":
    from adlrns_models._dynamic import DynamicLayer

    return (layer for layer in model.modules() if isinstance(layer, DynamicLayer))
