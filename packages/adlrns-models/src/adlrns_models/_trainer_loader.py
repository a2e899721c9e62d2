"""The batches of an epoch: what is left of them, and who makes them."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from adlrns_models._trainer_random import seed_epoch, set_random_state
from adlrns_models._trainer_workers import worker

if TYPE_CHECKING:
    from adlrns_models._trainer import ADLRNSTrainer


def check_length(trainer: "ADLRNSTrainer", count: int) -> None:
    """Raises if an epoch that is under way had another number of batches.

    It would go on at other rows, and end after another number of steps.
    """
    if trainer.batch and trainer.batches not in (None, count):
        raise ValueError(
            f"train_loader must have {trainer.batches} batches, as in the epoch that is under way "
            f"after {trainer.batch} of them, got {count}"
        )


def rest_of_epoch(trainer: "ADLRNSTrainer", loader: Iterable[Any]) -> Iterator[Any]:
    """Yields what is left of the epoch, with everything random as it was or would have been."""
    seed_epoch(loader, trainer.config.seed, trainer.epoch, worker())
    batches = iter(with_new_workers(loader))
    done = sum(1 for _ in itertools.islice(batches, trainer.batch))
    if done < trainer.batch:
        raise ValueError(
            f"train_loader must yield {trainer.batch} batches and more, as when the checkpoint was "
            f"written, got {done}"
        )
    if trainer.random is not None:
        set_random_state(trainer.random)
    trainer.random = None
    return batches


def groups(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yields ``size`` batches at a time, none of them fetched before its turn."""
    while group := list(itertools.islice(batches, size)):
        yield group


def with_new_workers(loader: Any) -> Any:
    """Returns a loader of the same batches whose worker processes start with each pass.

    Workers are seeded when they start, and at no other time: what those that persist draw would
    depend on all epochs since then.
    """
    if not (isinstance(loader, DataLoader) and loader.persistent_workers):
        return loader
    other = copy.copy(loader)
    vars(other)["persistent_workers"] = False  # not to be set after it is made, but for a copy
    return other
