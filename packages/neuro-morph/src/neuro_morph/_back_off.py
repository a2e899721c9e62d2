"""Patience after growth that did not help."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuro_morph._arguments import check_least


@dataclass
class BackOff:
    """How long to wait, and what not to try again.

    After every failure the pause doubles; after a success it is the first one again. What failed
    is not tried again until ``memory`` pauses have passed.

    Args:
        pause: steps between two attempts.
        most: the longest pause.
        memory: pauses.

    Raises:
        ValueError: if ``pause`` is negative, ``most`` is below it, or ``memory`` negative.
    """

    pause: int
    most: int | None = None
    memory: int = 2
    now: int = field(init=False)
    _until: dict[tuple[str, str], int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_least(0, pause=self.pause, memory=self.memory)
        if self.most is not None and self.most < self.pause:
            raise ValueError(f"most must be at least pause, got {self.most!r} and {self.pause!r}")
        self.now = self.pause

    def failed(self, step: int, *tried: tuple[str, str]) -> None:
        """Notes that the pairs of operation and target that were ``tried`` did not help."""
        self.now = 2 * self.now if self.most is None else min(2 * self.now, self.most)
        self._until.update(dict.fromkeys(tried, step + self.memory * self.now))

    def succeeded(self) -> None:
        """Notes that growth helped."""
        self.now = self.pause

    def allows(self, op: str, target: str, step: int) -> bool:
        """Whether an operation may be tried on a target."""
        return step >= self._until.get((op, target), 0)

    def state_dict(self) -> dict[str, Any]:
        """Returns the pause and what is left alone, as JSON can hold them."""
        return {"now": self.now, "until": [[*pair, step] for pair, step in self._until.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        self.now = state["now"]
        self._until = {(op, target): step for op, target, step in state["until"]}
