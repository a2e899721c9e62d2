"""What would happen if a network grew, with nothing left of it afterwards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._cooling import cooling
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._morpher import Morpher
from neuro_morph._paired import held_out_losses
from neuro_morph._tapping import LossFn, left_as_it_was

StepFn = Callable[[nn.Module, Any], None]


def check_no_gradients(model: nn.Module) -> None:
    """Raises GrowthRefusedError if a parameter has a gradient: trials would lose it."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            raise GrowthRefusedError(
                f"{name!r} has a gradient: try growth after the optimizer's step and "
                "zero_grad(), when there are none"
            )


@contextmanager
def trial(morpher: Morpher) -> Iterator[None]:
    """Puts a run back as it was, whatever is done inside: training, edits, events, all of it."""
    _ = morpher.graph  # found once, not in every trial
    snapshot, events = morpher.snapshot(), list(morpher.events)
    log, morpher._log = morpher._log, None
    try:
        yield
    finally:
        snapshot.put_back()
        morpher._log, morpher.events[:] = log, events


def train(
    morpher: Morpher,
    batches: Sequence[Any],
    loss_fn: LossFn,
    step_fn: StepFn | None,
    *,
    cool: bool = False,
) -> None:
    """Trains a run's model on batches, one step each; no gradient stays behind.

    Args:
        morpher: the run.
        batches: what it is trained on.
        loss_fn: gives the mean loss of a batch, or the losses of its examples.
        step_fn: makes a whole step instead, its own backward pass and optimizer steps.
        cool: whether the learning rates fall to nothing meanwhile, in a straight line.
    """
    morpher.model.train()
    with cooling(morpher.optimizers) as set_rates:
        for k, batch in enumerate(batches):
            if cool:
                set_rates(1.0 - k / len(batches))
            _step(morpher, batch, loss_fn, step_fn)
    for parameter in morpher.model.parameters():
        parameter.grad = None


def _step(morpher: Morpher, batch: Any, loss_fn: LossFn, step_fn: StepFn | None) -> None:
    if step_fn is not None:
        return step_fn(morpher.model, batch)
    for optimizer in morpher.optimizers:
        optimizer.zero_grad()
    loss_fn(morpher.model, batch).mean().backward()
    for optimizer in morpher.optimizers:
        optimizer.step()
    return None


def held_out(model: nn.Module, batches: Iterable[Any], loss_fn: LossFn) -> Tensor:
    """Returns the losses on batches in evaluation mode; the model is left as it was."""
    with torch.no_grad(), left_as_it_was(model):
        return held_out_losses([loss_fn(model, batch) for batch in batches])
