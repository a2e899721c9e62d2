"""What is studied: a model, its units, the batches it is studied on, and its task."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import Call, check_finite, size, take, to_device, without_cache
from layer_importance._layout import Layout, layouts
from layer_importance._task import Task
from layer_importance._units import Unit, Units


class Subject:
    """A model under study. Methods ask it for batches, losses and modules.

    Args:
        model: the model; it stays as it is.
        units: its units.
        task: how its answers are judged.
        batches: any iterable of batches; one that can be read only once is kept in memory.
        max_batches: at most so many are used.
        seed: of everything drawn at random.

    Raises:
        ValueError: if there is no batch, or the first holds a number that is not finite.
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
    ) -> None:
        self.model, self.units, self.task = model, units, task
        self.max_batches, self.seed = max_batches, seed
        once = iter(batches) is batches
        self._batches = list(itertools.islice(batches, max_batches)) if once else batches
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.first = next(self.batches(), None)
        if self.first is None:
            raise ValueError("batches must give at least one batch, got none")
        self._modules = {unit.path: model.get_submodule(unit.path) for unit in units}
        self._layouts: dict[str, Layout] | None = None

    def batches(self) -> Iterator[Any]:
        """Yields the batches, on the model's device, checked to be finite."""
        for index, batch in enumerate(itertools.islice(self._batches, self.max_batches)):
            check_finite(batch, index)
            yield to_device(batch, self.device)

    def module(self, unit: Unit) -> nn.Module:
        """Returns the module of a unit."""
        return self._modules[unit.path]

    def call(self, batch: Any) -> Call:
        """Returns what the model is called with for a batch."""
        return without_cache(self.model, self.task.inputs(batch))

    def forward(self, batch: Any) -> Any:
        """Returns the model's answer to a batch."""
        return self.call(batch).of(self.model)

    def losses(self, output: Any, batch: Any, labels: Any = None) -> Tensor:
        """Returns the loss of each sample, ``[N]``, for the batch's labels or the given ones.

        Raises:
            ValueError: if the task's loss is no vector, or not finite.
        """
        labels = self.task.labels(batch) if labels is None else labels
        losses = self.task.loss(output, labels, batch)
        if not isinstance(losses, Tensor) or losses.ndim != 1:
            got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(
                f"the loss of task {self.task.name} must be one number a sample, got {got}"
            )
        if not bool(losses.detach().isfinite().all()):
            raise ValueError(
                f"the loss of task {self.task.name} must be finite, got {losses.detach()}"
            )
        return losses

    @property
    def has_labels(self) -> bool:
        """Whether the batches say what the model should answer."""
        return self.task.labels(self.first) is not None

    @property
    def can_sample(self) -> bool:
        """Whether labels can be drawn from the model's own answers."""
        return type(self.task).sample is not Task.sample

    @property
    def trainable(self) -> bool:
        """Whether any parameter of a unit requires gradients."""
        return any(p.requires_grad for m in self._modules.values() for p in m.parameters())

    @property
    def layouts(self) -> dict[str, Layout]:
        """Where samples and features are in the streams of every module, by path."""
        if self._layouts is None:
            self._layouts = layouts(self.model, self.call, self.first)
        return self._layouts

    def generator(self) -> torch.Generator:
        """Returns a source of random numbers that starts the same every time."""
        return torch.Generator(device=self.device).manual_seed(self.seed)

    def some(self, batch: Any, count: int) -> Any:
        """Returns at most ``count`` samples of a batch, its first ones."""
        return take(batch, list(range(min(count, size(batch)))))
