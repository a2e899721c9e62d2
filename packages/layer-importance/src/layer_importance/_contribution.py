"""What each input of a model contributes, and what two of them do only together."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layer_importance._batch import entry, input_keys, size, with_entries
from layer_importance._moments import Moments
from layer_importance._preserve import preserved
from layer_importance._scores import Score
from layer_importance._streams import derangement
from layer_importance._structure import stream, with_stream
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._units import Units

Input = str | int
"""An entry of the batch, by key or place, or the path of a module: a tower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityContribution:
    """Contributions of inputs and interactions of pairs, in the loss's own unit.

    Attributes:
        contribution: ``D(A) = E[l(without A) - l]`` of each input.
        interaction: ``D(A, B) - D(A) - D(B)`` of each pair, in the order of ``inputs``.
        measure: unit of measure.
    """

    contribution: Mapping[Input, Score]
    interaction: Mapping[tuple[Input, Input], Score]
    measure: str


def modality_contribution(
    model: nn.Module,
    batches: Iterable[Any],
    task: Task,
    *,
    inputs: Sequence[Input],
    ablation: Literal["mean", "resample"] = "mean",
    max_batches: int | None = None,
    seed: int = 0,
) -> ModalityContribution:
    """Returns what each input contributes, and what each pair does only together.

    Without an input means with its mean over all samples in its place, or with another sample's.
    ``D(A) = E[l(without A) - l]``; the interaction ``D(A, B) - D(A) - D(B)`` is 0 where the loss is
    a sum of what each input gives, above 0 where one can stand in for the other, and below 0 where
    neither says anything alone: the pairwise Shapley interaction of two players, with the sign of
    a loss (Grabisch and Roubens 1999). Errors are those of paired differences, sample by sample.

    An input is a key of the batch, a place in a tuple, or the path of a module, whose output is
    replaced: the tower of a model. Streams must have the samples in their first dimension.

    Args:
        model: any module; it stays as it is.
        batches: as for :func:`analyze`; read twice for the mean.
        task: how answers are judged.
        inputs: what is taken away.
        ablation: ``mean`` or ``resample``. Tokens have no mean.
        max_batches: use at most so many.
        seed: who stands in for whom.

    Raises:
        ValueError: if an input is not there, has no mean, or none is given.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from layer_importance._tasks.classification import Classification
        >>> class Sum(nn.Module):
        ...     def forward(self, a, b):
        ...         return a + 0 * b
        >>> batch = (torch.eye(3), torch.eye(3), torch.arange(3))
        >>> found = modality_contribution(Sum(), [batch], Classification(), inputs=[0, 1])
        >>> found.contribution[0].value > 0, found.contribution[1].value
        (True, 0.0)
    """
    kept = list(itertools.islice(batches, max_batches)) if iter(batches) is batches else batches
    subject = Subject(model, Units(()), task, kept, max_batches=max_batches, seed=seed)
    _check(subject, inputs, ablation)
    chosen = [(one,) for one in inputs] + list(itertools.combinations(inputs, 2))
    moments = {subset: Moments() for subset in chosen}
    with preserved(model, gradients=False):
        means = _means(subject, inputs) if ablation == "mean" else {}
        for index, batch in enumerate(subject.batches()):
            donors = _donors(batch, seed + index) if ablation == "resample" else None
            before = _losses(subject, batch, (), means, donors).double()
            damage = {s: _losses(subject, batch, s, means, donors) - before for s in chosen}
            for subset, values in damage.items():
                alone = sum(damage[(one,)] for one in subset) if len(subset) > 1 else 0
                moments[subset].add(values - alone)
    found = {subset: Score.of(one) for subset, one in moments.items()}
    return ModalityContribution(
        contribution={s[0]: score for s, score in found.items() if len(s) == 1},
        interaction={(s[0], s[1]): score for s, score in found.items() if len(s) == 2},
        measure=task.measure,
    )


def _check(subject: Subject, inputs: Sequence[Input], ablation: str) -> None:
    if ablation not in ("mean", "resample"):
        raise ValueError(f"ablation must be mean or resample, got {ablation!r}")
    if not inputs or len(set(inputs)) != len(inputs):
        raise ValueError(f"inputs must name one or more inputs, each once, got {list(inputs)}")
    modules = {path for path, _ in subject.model.named_modules() if path}
    keys = input_keys(subject.first)
    for one in inputs:
        if one not in keys and one not in modules:
            raise ValueError(f"inputs must be among {keys} or modules of the model, got {one!r}")


def _means(subject: Subject, inputs: Sequence[Input]) -> dict[Input, Tensor]:
    """The mean of every input over all samples."""
    found: dict[Input, Moments] = {}

    def add(one: Input, values: Tensor, samples: int) -> None:
        if not values.is_floating_point():
            raise ValueError(f"input {one!r} has no mean, it is {values.dtype}: use resample")
        if not values.ndim or len(values) != samples:
            raise ValueError(f"input {one!r} must have its samples first, got {list(values.shape)}")
        moments = found.setdefault(one, Moments(tuple(values.shape[1:])))
        if tuple(values.shape[1:]) != tuple(moments.mean.shape):
            raise ValueError(f"input {one!r} has no mean, its shape varies: use resample")
        moments.add(values)

    for batch in subject.batches():
        samples = size(batch)
        for one in inputs:
            if one in input_keys(batch):
                add(one, _tensor(entry(batch, one), one), samples)
        modules = [one for one in inputs if one not in input_keys(batch)]
        if modules:
            with _replaced(subject, modules, lambda one, y, n=samples: add(one, y, n)):
                subject.forward(batch)
    return {one: moments.mean for one, moments in found.items()}


def _losses(
    subject: Subject,
    batch: Any,
    without: tuple[Input, ...],
    means: Mapping[Input, Tensor],
    donors: Tensor | None,
) -> Tensor:
    def stand_in(one: Input, values: Tensor) -> Tensor:
        if donors is not None:
            return values[donors.to(values.device)]
        return means[one].to(values).expand_as(values)

    keys = input_keys(batch)
    modules = [one for one in without if one not in keys]

    def entry_without(key: Any, value: Any) -> Any:
        return stand_in(key, _tensor(value, key)) if key in without and key in keys else value

    with _replaced(subject, modules, stand_in):
        output = subject.forward(with_entries(batch, entry_without))
    return subject.losses(output, batch)


@contextmanager
def _replaced(subject: Subject, paths: Sequence[Any], change: Any) -> Iterator[None]:
    """Modules hand on ``change(path, y)`` inside; their own output where that is ``None``."""

    def hook(path: str) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            y = stream(output)
            new = None if y is None else change(path, y)
            return None if y is None or new is None else with_stream(output, y, new)

        return after

    handles = [
        subject.model.get_submodule(path).register_forward_hook(hook(path)) for path in paths
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _donors(batch: Any, seed: int) -> Tensor:
    return derangement(size(batch), torch.Generator().manual_seed(seed))


def _tensor(value: Any, one: Input) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"input {one!r} must be a tensor, got {type(value).__name__}")
    return value
