"""What a cascade spends under one budget."""

import math
import threading
from typing import Any


class Ledger:
    """Keeps the accounts of one budget, for calls of any number of threads.

    A call stays with the ledger it began with: one that a new budget overtakes neither pays from
    the new one nor for it.

    Attributes:
        budget: what an input may cost on average, as a share of the dense FLOPs.
    """

    def __init__(self, budget: float):
        self.budget = budget
        self._credit, self._spent, self._inputs = 0.0, 0.0, 0
        self._lock = threading.Lock()

    def pay(self, inputs: int, share: float) -> None:
        """Enters a run of ``inputs`` that were to cost ``share`` each."""
        with self._lock:
            self._enter(inputs, inputs * share)

    def grant(self, inputs: int, first: float, second: float, wanted: int) -> int:
        """Returns how many of the ``wanted`` second runs can be paid, and enters all runs.

        Args:
            inputs: that ran once, for ``first`` each.
            first: the share that a first run costs.
            second: the share that a second run costs.
            wanted: second runs that the rule calls for.
        """
        with self._lock:
            credit = self._credit + inputs * (self.budget - first)
            paid = math.inf if math.isinf(credit) else max(0, math.floor(credit / second))
            granted = int(min(wanted, paid))
            self._credit = credit - granted * second
            self._enter(inputs, inputs * first + granted * second)
        return granted

    def _enter(self, inputs: int, spent: float) -> None:
        self._spent, self._inputs = self._spent + spent, self._inputs + inputs

    @property
    def inputs(self) -> int:
        """Inputs so far."""
        return self._inputs

    @property
    def mean(self) -> float:
        """The share spent an input so far; 0 before any."""
        with self._lock:
            return self._spent / self._inputs if self._inputs else 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
