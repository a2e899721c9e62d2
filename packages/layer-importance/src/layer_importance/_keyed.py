"""Sweep methods that keep one statistic a unit and stream, whatever its kind."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from layer_importance._events import UnitEvent
from layer_importance._method import SweepMethod
from layer_importance._samples import Known, sample_keys
from layer_importance._subject import Subject

_T = TypeVar("_T")
Kinds = Mapping[str, type[Any]]


class Statistic(Protocol):
    """What can be saved, restored and merged."""

    def merge(self, other: Any) -> None:
        """Adds what ``other`` has seen."""

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Any:
        """Returns what :meth:`state` was taken of."""


class KeyedMethod(SweepMethod):
    """A sweep method whose statistics are named ``unit/column``; saving and merging are done here.

    Attributes:
        kinds: class of the statistics of each column.
        forward: whether a batch is on its way through the model.
    """

    kinds: ClassVar[Kinds] = {}

    def __init__(self) -> None:
        self._kept: dict[str, Statistic] = {}
        self._names: list[str] = []
        self._subject: Subject | None = None
        self._batch: Any = None
        self._hooked = False
        self._sample_keys = torch.empty(0)
        self.forward = False

    def begin(self, subject: Subject) -> None:
        """Learns which units there are."""
        self._names = subject.units.names
        self._subject = subject

    def before(self, batch: Any) -> None:
        """Draws the key of every sample, and learns which tokens are real."""
        assert self._subject is not None
        self.forward = True
        self._batch = batch
        self._sample_keys = sample_keys(batch, seed=self._subject.seed, real=self._real)
        if not self._hooked:
            self._batch = None

    def mask(self, tokens: int, tower: str = "") -> Tensor | None:
        """Returns which of so many tokens are real in the batch on its way, ``[N, tokens]``."""
        assert self._subject is not None
        found = self._subject.mask(self._batch, tokens, tower)
        return None if found is None else found.bool()

    def _real(self, entry: Tensor) -> Known | None:
        """An entry of a batch does not say whose input it is: what every tower takes for real."""
        assert self._subject is not None
        towers = dict.fromkeys(["", *(unit.tower for unit in self._subject.units)])
        modality = self._subject.modality
        for axis in (1, -1) if modality is None else modality.axes:
            if entry.ndim < 2:
                break
            masks = [self.mask(entry.shape[axis], tower) for tower in towers]
            if known := [mask for mask in masks if mask is not None]:
                return torch.stack(known).all(0), axis
        return None

    def until_the_end(self, subject: Subject) -> RemovableHandle:
        """Returns a hook that switches ``forward`` off once a batch is through the model.

        Whatever runs again after that, for checkpoints or for single samples, is no data.
        """

        def ends(module: Any, args: Any, output: Any) -> None:
            del module, args, output
            self.forward, self._batch = False, None

        self._hooked = True
        return subject.model.register_forward_hook(ends)

    def unit(self, event: UnitEvent) -> None:
        """Hands the event on where its samples are those of the batch."""
        if len(event.x) == len(event.y) == len(self._sample_keys):
            self.read(event)

    def read(self, event: UnitEvent) -> None:
        """Called for every unit and batch whose samples have their keys."""

    def kept(self, unit: str, column: str, new: Callable[[], _T]) -> _T:
        """Returns the statistic of a unit, what ``new`` makes if there is none yet."""
        key = f"{unit}/{column}"
        if key not in self._kept:  # made when it is needed: it may be large
            self._kept[key] = new()  # type: ignore[assignment]
        return self._kept[key]  # type: ignore[return-value]

    def found(self, column: str) -> dict[str, Any]:
        """Returns the statistics of a column by unit, in order of execution."""
        place = {name: number for number, name in enumerate(self._names)}
        split = [(*key.rpartition("/")[::2], kept) for key, kept in self._kept.items()]
        mine = [(unit, kept) for unit, of, kept in split if of == column]
        return dict(sorted(mine, key=lambda pair: place.get(pair[0], len(place))))

    def state(self) -> dict[str, Tensor]:
        """All statistics of all units."""
        return {
            f"{key}/{part}": tensor
            for key, statistic in self._kept.items()
            for part, tensor in statistic.state().items()
        }

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Merges every statistic with its namesake."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            unit, column, part = name.split("/", 2)
            groups.setdefault(f"{unit}/{column}", {})[part] = tensor
        for key, fields in groups.items():
            statistic = self.kinds[key.rpartition("/")[2]].from_state(fields)
            if key in self._kept:
                self._kept[key].merge(statistic)
            else:
                self._kept[key] = statistic
