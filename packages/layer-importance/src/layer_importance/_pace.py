"""Which batches of a sweep are this run's, and what happens between them."""

from collections.abc import Sequence

from layer_importance._halves import Halved
from layer_importance._method import SweepMethod
from layer_importance._sweep import Sweep


class Pace:
    """Every batch, one after the other; a subclass leaves some out or keeps what was seen."""

    def begin(self, sweep: Sweep, methods: Sequence[SweepMethod]) -> None:
        """Called once, when all methods have begun."""
        self.sweep, self.methods = sweep, methods

    def mine(self, index: int) -> bool:
        """Whether the batch of this number is to be run."""
        del index
        return True

    def before(self, index: int) -> None:
        """Called before a batch: whatever is drawn for it depends on its number among all."""
        self.sweep.batches = index
        for method in self.methods:
            if isinstance(method, Halved):
                method.batches = index

    def after(self, index: int) -> None:
        """Called after a batch."""

    def end(self) -> None:
        """Called once, after the last batch and before scores are asked for."""
