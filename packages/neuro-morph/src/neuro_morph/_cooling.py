"""Learning rates that fall to nothing over a trial: what is measured then is not their noise."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch.optim import Optimizer


@contextmanager
def cooling(optimizers: Iterable[Optimizer]) -> Iterator[Callable[[float], None]]:
    """Gives a function that sets every learning rate to a part of what it was; puts them back.

    At the learning rate of the middle of a run the loss after some steps depends on the order of
    the batches more than on the network. Once the rate has fallen the loss is that of the place the
    network has come to.

    Args:
        optimizers: whose groups are meant; groups without a learning rate are left alone.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    first = [(group, group["lr"]) for group in groups if "lr" in group]

    def to(part: float) -> None:
        for group, rate in first:
            group["lr"] = rate * part

    try:
        yield to
    finally:
        for group, rate in first:
            group["lr"] = rate
