"""A compressed model taught by the one it was made of: no labels, a few steps, all or nothing."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance._batch import (
    Call,
    check_finite,
    filled,
    to_device,
    without_cache,
)
from layer_importance._example import inputs_of
from layer_importance._preserve import preserved
from layer_importance._task import Task, logits
from layer_importance._tasks._labels import IGNORED

Distance = Literal["kl", "mse"]


@dataclass(frozen=True, slots=True)
class Distilled:
    """What :func:`distill` did.

    Attributes:
        before: mean distance to the teacher at first; nats for ``kl``, squared units for ``mse``.
        after: mean distance afterwards, of the weights that are in the model now.
        kept: whether the new weights were closer; if not, the old ones are back.
        steps: how many steps were taken.
    """

    before: float
    after: float
    kept: bool
    steps: int


def distill(
    model: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    *,
    held_out: Iterable[Any] | None = None,
    steps: int = 100,
    learning_rate: float = 1e-3,
    distance: Distance = "kl",
    temperature: float = 1.0,
    parameters: Sequence[str] | None = None,
    task: str | Task | None = None,
    inputs: Callable[[Any], Call] | None = None,
    seed: int = 0,
) -> Distilled:
    """Brings a model's answers nearer to a teacher's, and returns how near they were and are.

    Minimised is the mean over samples and real tokens of ``t^2 KL(p || q)`` with
    ``p = softmax(teacher / t)`` and ``q = softmax(model / t)``, or for ``mse`` of the squared
    difference of the answers' streams. Adam, with the learning rate falling linearly to 0; batches
    come in an order drawn from ``seed``. Both models are in evaluation mode meanwhile.

    All or nothing: if the mean distance on ``held_out`` is not below what it was, is not finite, or
    an error comes, the model has its old weights.

    Source: Hinton et al., arXiv 1503.02531, section 2.

    Args:
        model: changed in place.
        teacher: the model that it was made of.
        batches: in the form the task reads; kept in memory.
        held_out: judged by; ``batches`` if not given.
        steps: how many.
        learning_rate: at first.
        distance: ``kl`` between logits, or ``mse`` between streams.
        temperature: ``t``.
        parameters: beginnings of the names of what may change; everything that requires gradients
            if not given.
        task: the task or its name, where it calls the model in its own way.
        inputs: what the models are called with for a batch, if not what the task says.
        seed: of the order of batches.

    Raises:
        ValueError: if a number is out of range, there is no batch, nothing may change, or the
            answers differ in shape.
    """
    _check(steps, learning_rate, distance, temperature)
    lessons = [batch for _, batch in filled(batches)]
    if not lessons:
        raise ValueError("batches must give at least one batch with a sample, got none")
    judged = lessons if held_out is None else [batch for _, batch in filled(held_out)]
    pair = _Pair(model, teacher, inputs or inputs_of(task), distance, temperature)
    trained = _trained(model, parameters)
    old = [parameter.detach().clone() for parameter in trained]
    kept = False
    try:
        with preserved(teacher, gradients=False), preserved(model, gradients=True):
            before = pair.mean(judged)
            _teach(pair, trained, lessons, steps, learning_rate, seed)
            after = pair.mean(judged)
        kept = after < before
    finally:
        if not kept:
            with torch.no_grad():
                for parameter, value in zip(trained, old, strict=True):
                    parameter.copy_(value)
    return Distilled(before, after if kept else before, kept, steps)


def _check(steps: int, learning_rate: float, distance: str, temperature: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not learning_rate > 0 or not temperature > 0:
        raise ValueError(
            f"learning_rate and temperature must be positive, got {learning_rate}, {temperature}"
        )
    if distance not in ("kl", "mse"):
        raise ValueError(f"distance must be kl or mse, got {distance!r}")


def _trained(model: nn.Module, beginnings: Sequence[str] | None) -> list[nn.Parameter]:
    names = tuple(beginnings) if beginnings is not None else ("",)
    found = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith(names)]
    if not found:
        raise ValueError(f"parameters must name some that require gradients, got {beginnings!r}")
    return found


def _teach(
    pair: "_Pair",
    trained: list[nn.Parameter],
    lessons: list[Any],
    steps: int,
    learning_rate: float,
    seed: int,
) -> None:
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        order = order or torch.randperm(len(lessons), generator=generator).tolist()
        rows = pair.distances(lessons[order.pop()])
        optimizer.zero_grad()
        rows.mean().backward()
        optimizer.step()


def _real(call: Call) -> Tensor | None:
    """Which tokens of the answer are real; those of an encoder say nothing of a decoder's."""
    labels, mask = call.kwargs.get("labels"), call.kwargs.get("decoder_attention_mask")
    if isinstance(labels, Tensor):
        return labels != IGNORED
    if mask is None and "decoder_input_ids" not in call.kwargs:
        mask = call.kwargs.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) else None


@dataclass(frozen=True, slots=True)
class _Pair:
    model: nn.Module
    teacher: nn.Module
    inputs: Callable[[Any], Call]
    distance: Distance
    temperature: float

    def distances(self, batch: Any) -> Tensor:
        """The distance for every sample and real token."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        call = self.inputs(to_device(batch, device))
        with torch.no_grad():
            wanted = logits(without_cache(self.teacher, call).of(self.teacher)).detach()
        got = logits(without_cache(self.model, call).of(self.model))
        if got.shape != wanted.shape:
            shapes = f"{list(got.shape)} and {list(wanted.shape)}"
            raise ValueError(f"model and teacher must answer in the same shape, got {shapes}")
        rows = self._rows(got, wanted)
        mask = _real(call)
        return rows[mask] if mask is not None and mask.shape == rows.shape else rows

    def _rows(self, got: Tensor, wanted: Tensor) -> Tensor:
        if self.distance == "mse":
            return (got - wanted).square().mean(-1)
        q, p = ((logit / self.temperature).log_softmax(-1) for logit in (got, wanted))
        return F.kl_div(q, p, reduction="none", log_target=True).sum(-1) * self.temperature**2

    @torch.no_grad()
    def mean(self, batches: list[Any]) -> float:
        """The mean over all samples and real tokens."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for index, batch in enumerate(batches):
            check_finite(batch, index)
            rows = self.distances(batch).double()
            total, count = total + rows.sum().cpu(), count + rows.numel()
        return float(total / max(count, 1))
