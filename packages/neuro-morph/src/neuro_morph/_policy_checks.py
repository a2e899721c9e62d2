"""What policies and tournaments ask of what they are given."""

from collections.abc import Sequence
from typing import Any

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


def take_up(morpher: Morpher, policy: Policy) -> None:
    """Makes a policy the run's, which :meth:`Morpher.step` tells of steps.

    Raises:
        ValueError: if the run has one already.
    """
    if morpher.policy is not None:
        raise ValueError("this run has a policy already: close it first")
    morpher.policy = policy
