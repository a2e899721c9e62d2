"""What is studied: a model, its units, the batches it is studied on, and its task."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import Call, check_finite, size, take, to_device, without_cache
from layer_importance._layout import Layout, layouts
from layer_importance._modality import Modality
from layer_importance._reach import Reached, reached
from layer_importance._sharing import Share
from layer_importance._task import Task
from layer_importance._units import Unit, Units
from layer_importance._whose import of_batch


class Subject:
    """A model under study. Methods ask it for batches, losses and modules.

    Args:
        model: the model; it stays as it is.
        units: its units.
        task: how its answers are judged.
        batches: any iterable of batches; one that can be read only once is kept in memory.
        max_batches: at most so many are used.
        seed: of everything drawn at random.
        modality: what kind of data it is; without it, only the task knows of padding.

    Attributes:
        share: which batches are this process's.
        index: number of the batch at hand among all.
        left_out: numbers of batches, among those read so far, without a sample that has something
            to answer.

    Raises:
        ValueError: if there is no batch, none has a sample with something to answer, or the first
            holds a number that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Units,
        task: Task,
        batches: Iterable[Any],
        *,
        max_batches: int | None = None,
        seed: int = 0,
        modality: Modality | None = None,
    ) -> None:
        self.model, self.units, self.task, self.modality = model, units, task, modality
        self.max_batches, self.seed = max_batches, seed
        self.share, self.index = Share(), 0
        once = iter(batches) is batches
        self._batches = list(itertools.islice(batches, max_batches)) if once else batches
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.first, self._numbers = None, dict[int, int]()
        self.left_out: set[int] = set()
        self.first = next(self.batches(), None)
        if self.first is None:
            raise ValueError(
                "batches must give at least one batch with a sample that has something to answer, "
                f"got {_nothing(self._batches)}"
            )
        self._modules = {unit.path: model.get_submodule(unit.path) for unit in units}
        self._layouts: dict[str, Layout] | None = None
        self._reached: list[Reached] = []

    def shared(self, share: Share) -> "Subject":
        """Returns the same with a share of the batches."""
        twin = copy.copy(self)
        twin.share = share
        return twin

    def batches(self) -> Iterator[Any]:
        """Yields this process's batches, on the model's device, checked to be finite.

        Without samples that have nothing to answer: they would count as losses of 0. Where samples
        cannot be taken out of a batch, as nodes out of a graph, they stay.
        """
        for index, batch in enumerate(itertools.islice(self._batches, self.max_batches)):
            if not self.share.mine(index):
                continue
            check_finite(batch, index)
            self.index = index
            with of_batch(index, batch, self.first):
                batch = self._answered(batch)
            if batch is None:
                self.left_out.add(index)
            else:
                batch = to_device(batch, self.device)
                self._numbers[id(batch)] = index  # whoever has it now: another one is gone
                yield batch

    def _answered(self, batch: Any) -> Any:
        """The samples of a batch that have something to answer; ``None`` if there are none."""
        if size(batch) == 0:
            return None
        known = self.task.answered(batch)
        if known is None or known.is_meta or bool(known.all()):
            return batch
        if not bool(known.any()):
            return None
        divisible = self.modality is None or self.modality.divisible(batch)
        fits = divisible and len(known) == size(batch)
        return take(batch, known.nonzero()[:, 0].tolist()) if fits else batch

    @property
    def length(self) -> int | None:
        """How many batches there are; ``None`` if nothing says so."""
        if not isinstance(self._batches, Sized):
            return self.max_batches
        known = len(self._batches)
        return known if self.max_batches is None else min(known, self.max_batches)

    def module(self, unit: Unit) -> nn.Module:
        """Returns the module of a unit."""
        return self._modules[unit.path]

    def call(self, batch: Any) -> Call:
        """Returns what the model is called with for a batch."""
        return without_cache(self.model, self.task.inputs(batch))

    def forward(self, batch: Any) -> Any:
        """Returns the model's answer to a batch."""
        with self.telling(batch):
            return self.call(batch).of(self.model)

    def telling(self, batch: Any) -> AbstractContextManager[None]:
        """Errors inside say which batch it was."""
        return of_batch(self._numbers.get(id(batch), self.index), batch, self.first)

    def losses(self, output: Any, batch: Any, labels: Any = None, *, finite: bool = True) -> Tensor:
        """Returns the loss of each sample, ``[N]``, for the batch's labels or the given ones.

        Raises:
            ValueError: if the task's loss is no vector, or not finite where ``finite`` asks for it.
        """
        with self.telling(batch):
            labels = self.task.labels(batch) if labels is None else labels
            losses = self.task.loss(output, labels, batch)
            self._check_losses(losses, self.task.count(labels, batch), finite=finite)
        return losses

    def _check_losses(self, losses: Any, samples: int, *, finite: bool) -> None:
        what = f"the loss of task {self.task.name} must be"
        if not isinstance(losses, Tensor) or losses.ndim != 1:
            got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"{what} one number a sample, got {got}")
        if len(losses) != samples:
            raise ValueError(f"{what} one number for each of {samples} samples, got {len(losses)}")
        bad = int((~losses.detach().isfinite()).sum()) if finite else 0
        if bad:
            raise ValueError(f"{what} finite, got {bad} NaN or infinite of {samples}")

    def mask(self, batch: Any, tokens: int, tower: str = "") -> Tensor | None:
        """Returns which tokens are real, ``[N, tokens]``, in streams with so many of them.

        A task with a mask of its own comes before the modality. ``None`` if all are real, or
        nothing is known of streams of this length.
        """
        if self.modality is not None and type(self.task).mask is Task.mask:
            several = len({unit.tower for unit in self.units}) > 1
            found = self.modality.mask(batch, tokens, tower if several else "")
        else:
            found = self.task.mask(batch)
        return found if found is not None and found.shape[1] == tokens else None

    @property
    def has_labels(self) -> bool:
        """Whether the batches say what the model should answer."""
        return self.task.labels(self.first) is not None

    @property
    def can_sample(self) -> bool:
        """Whether labels can be drawn from the model's own answers."""
        return self.task.can_sample

    @property
    def trainable(self) -> bool:
        """Whether any parameter of a unit requires gradients."""
        return any(p.requires_grad for m in self._modules.values() for p in m.parameters())

    @property
    def reached(self) -> Reached:
        """Where the gradient of the first batch's loss gets to."""
        if not self._reached:  # a list: those who share the batches share it
            self._reached.append(reached(self))
        return self._reached[0]

    @property
    def layouts(self) -> dict[str, Layout]:
        """Where samples and features are in the streams of every module, by path."""
        if self._layouts is None:
            self._layouts = layouts(self.model, self.call, self.first, divisible=self.divisible)
        return self._layouts

    @property
    def divisible(self) -> bool:
        """Whether some samples of a batch are a batch."""
        return self.modality is None or self.modality.divisible(self.first)

    def generator(self) -> torch.Generator:
        """Returns a source of random numbers that starts the same every time."""
        return torch.Generator(device=self.device).manual_seed(self.seed)

    def drawn(self, number: int) -> torch.Generator:
        """Returns a source of random numbers for one draw or batch; seeds do not overlap."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)

    def some(self, batch: Any, count: int) -> Any:
        """Returns at most ``count`` samples of a batch, its first ones; all if it has no parts."""
        if not self.divisible:
            return batch
        return take(batch, list(range(min(count, size(batch)))))


def _nothing(batches: Iterable[Any]) -> str:
    """What there is instead of a batch that tells something."""
    some = isinstance(batches, Sized) and len(batches)
    return f"{len(batches)} without any (every label is ignored)" if some else "none"  # type: ignore[arg-type]
