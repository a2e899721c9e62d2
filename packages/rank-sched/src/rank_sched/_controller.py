"""Following a wanted rank over time without flapping."""

from dataclasses import dataclass
from typing import NamedTuple

from rank_sched._numbers import whole


class ControllerState(NamedTuple):
    """Where a `RankController` stands.

    Attributes:
        rank: The rank in force.
        changed_at: Step of the last change, None before the first.
    """

    rank: int
    changed_at: int | None = None


@dataclass(frozen=True)
class RankController:
    """Rules for changing a rank: a dead zone, a largest step, a pause between two changes.

    Two error thresholds, a strict and a loose one, give two ranks: `grow_to`, the smallest that
    meets the strict threshold, and `shrink_to`, the smallest that meets the loose one, so
    `shrink_to <= grow_to`. Between them is the dead zone. A rank below `shrink_to` fails even the
    loose threshold and grows into the zone; a rank above `grow_to` has more than even the strict
    one needs and shrinks into it. Either move stops at the edge it reaches first, so that growing
    never goes beyond `grow_to`, shrinking never below `shrink_to`, and a zone that wanders by no
    more than its own width moves the rank in one direction only: nothing swings.

    A controller holds no state: `init` makes one and `update` returns the next.

    Attributes:
        r_min, r_max: The rank stays in `r_min..r_max`; targets beyond are clipped.
        grow_step, shrink_step: Largest change at a time.
        cooldown: Steps that must lie between two changes; 0 and 1 allow one at every step.
        multiple_of: Ranks that a change leads to, other than `r_min` and `r_max`, are multiples of
            this (tensor cores like 8 or 16).

    >>> controller = RankController(4, 64, grow_step=16, cooldown=10)
    >>> state = controller.init(8)
    >>> state = controller.update(state, 0, grow_to=40, shrink_to=30)
    >>> state
    ControllerState(rank=24, changed_at=0)
    >>> controller.update(state, 9, grow_to=40, shrink_to=30).rank  # cooling down
    24
    >>> controller.update(state, 10, grow_to=40, shrink_to=30).rank
    30
    """

    r_min: int
    r_max: int
    grow_step: int = 16
    shrink_step: int = 32
    cooldown: int = 10
    multiple_of: int = 1

    def __post_init__(self) -> None:
        for name in ("r_min", "r_max", "grow_step", "shrink_step", "cooldown", "multiple_of"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        _at_least("r_max", self.r_max, self.r_min, "r_min")
        whole("multiple_of", self.multiple_of, at_least=1)
        _at_least("grow_step", self.grow_step, self.multiple_of, "multiple_of")
        _at_least("shrink_step", self.shrink_step, self.multiple_of, "multiple_of")

    def init(self, rank: int) -> ControllerState:
        """Return the state that starts at `rank`, free to change at once.

        Any rank in range will do. One that is no multiple of `multiple_of` is kept while it lies
        in the dead zone, as every rank is: rounding alone is no reason to move.

        Raises:
            ValueError: `rank` is outside `r_min..r_max`.

        >>> controller = RankController(4, 64, cooldown=0, multiple_of=8)
        >>> state = controller.init(15)
        >>> controller.update(state, 0, grow_to=18, shrink_to=12).rank
        15
        >>> controller.update(state, 0, grow_to=30, shrink_to=20).rank
        24
        """
        rank = whole("rank", rank)
        if not self.r_min <= rank <= self.r_max:
            raise ValueError(f"rank must be in {self.r_min}..{self.r_max}, got {rank}")
        return ControllerState(rank)

    def update(
        self, state: ControllerState, step: int, *, grow_to: int, shrink_to: int
    ) -> ControllerState:
        """Return the state after looking at the targets of one step.

        Args:
            state: The state so far.
            step: Number of this step; counts the cool-down and never runs backwards.
            grow_to: The smallest rank that meets the strict threshold.
            shrink_to: The smallest rank that meets the loose threshold, at most `grow_to`.

        Raises:
            ValueError: `shrink_to` is above `grow_to`, or `step` lies before the last change.
        """
        step = whole("step", step)
        if self._is_cooling(state, step):
            return state
        shrink_to, grow_to = self._targets(shrink_to=shrink_to, grow_to=grow_to)
        rank = state.rank
        if rank < shrink_to:
            rank = min(self._round_up(shrink_to), self._round_down(rank + self.grow_step))
        elif rank > self._round_up(grow_to):
            rank = self._round_up(max(grow_to, rank - self.shrink_step))
        return state if rank == state.rank else ControllerState(rank, step)

    def _is_cooling(self, state: ControllerState, step: int) -> bool:
        if state.changed_at is None:
            return False
        if step < state.changed_at:
            raise ValueError(
                f"step must not lie before the last change at {state.changed_at}, got {step}"
            )
        return step - state.changed_at < self.cooldown

    def _targets(self, *, shrink_to: int, grow_to: int) -> tuple[int, int]:
        shrink_to, grow_to = whole("shrink_to", shrink_to), whole("grow_to", grow_to)
        if shrink_to > grow_to:
            raise ValueError(
                f"shrink_to must be at most grow_to (the loose threshold needs no more rank than "
                f"the strict one), got shrink_to={shrink_to}, grow_to={grow_to}"
            )
        return self._clip(shrink_to), self._clip(grow_to)

    def _clip(self, rank: int) -> int:
        return min(max(rank, self.r_min), self.r_max)

    def _round_up(self, rank: int) -> int:
        """Return the smallest allowed rank of at least `rank`, itself in range."""
        if rank == self.r_min:
            return rank
        return self._clip(-(-rank // self.multiple_of) * self.multiple_of)

    def _round_down(self, rank: int) -> int:
        return self._clip(rank // self.multiple_of * self.multiple_of)


def _at_least(name: str, value: int, limit: int, limit_name: str) -> None:
    if value < limit:
        raise ValueError(f"{name} must be at least {limit_name}={limit}, got {value}")
