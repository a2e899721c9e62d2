"""What policies and tournaments ask of what they are given."""

from collections.abc import Sequence
from typing import Any, SupportsFloat

from torch import Tensor

from neuro_morph._budget import Budget
from neuro_morph._counting import sizes_of_model
from neuro_morph._morpher import Morpher, Policy


def check_batches(**given: Any) -> None:
    """Raises if an argument is no sequence of at least one batch.

    Raises:
        TypeError: if it is no sequence: batches are taken more than once, in order.
        ValueError: if it is empty.
    """
    for name, batches in given.items():
        if not isinstance(batches, Sequence):
            raise TypeError(
                f"{name} must be a sequence of batches, as list(loader) gives, "
                f"got {type(batches).__name__}"
            )
        if not batches:
            raise ValueError(f"{name} must hold at least one batch")


def check_loss(loss: Any) -> None:
    """Raises TypeError if a step's loss is no number and no tensor of one."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise TypeError(f"loss must be one number, got a tensor of shape {tuple(loss.shape)}")
    elif isinstance(loss, str) or not isinstance(loss, SupportsFloat):
        raise TypeError(f"loss must be a number, got {loss!r}")


def number_of(loss: Tensor | float) -> float:
    """Returns a step's loss as a number."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def check_trainable(morpher: Morpher, loss_fn: Any, step_fn: Any) -> None:
    """Raises if trials could not train anything.

    Raises:
        TypeError: if ``loss_fn`` or ``step_fn`` is no function.
        ValueError: if the run has no optimizer, and no function makes the steps.
    """
    for name, given in {"loss_fn": loss_fn, "step_fn": step_fn}.items():
        if not callable(given) and not (name == "step_fn" and given is None):
            raise TypeError(f"{name} must be a function, got {type(given).__name__}")
    if step_fn is None and not morpher.optimizers:
        raise ValueError(
            "morpher must have an optimizer where no step_fn is given, got one with none: trials "
            "would train nothing"
        )


def check_budget(budget: Budget, morpher: Morpher) -> None:
    """Raises ValueError for a budget that the network as it is takes more than."""
    if budget.parameters is None and budget.flops is None:
        return
    parameters, flops = sizes_of_model(morpher.model, morpher.inputs)
    for name, now in (("parameters", parameters), ("flops", flops)):
        most = getattr(budget, name)
        if most is not None and most < now:
            raise ValueError(
                f"budget must have at least the {now} {name} that the network begins with, "
                f"got {most!r}"
            )


def take_up(morpher: Morpher, policy: Policy) -> None:
    """Makes a policy the run's, which :meth:`Morpher.step` tells of steps.

    Raises:
        ValueError: if the run has one already.
    """
    if morpher.policy is not None:
        raise ValueError("this run has a policy already: close it first")
    morpher.policy = policy
