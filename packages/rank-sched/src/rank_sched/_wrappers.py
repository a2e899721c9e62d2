"""The policies that combinators return."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rank_sched._numbers import whole
from rank_sched._observation import Bounds, Observation
from rank_sched._policy import Policy, ask, own_parts

Rounding: TypeAlias = Literal["down", "up", "nearest"]
ROUND = {"down": math.floor, "up": math.ceil, "nearest": lambda x: math.floor(x + 0.5)}


@dataclass(frozen=True)
class Clip:
    """What `clip` returns."""

    policy: Policy
    low: float
    high: float

    def init(self, bounds: Bounds) -> Any:
        """Return the first state."""
        return self.policy.init(bounds)

    def decide(self, state: Any, observation: Observation) -> tuple[float, Any]:
        """Return the rank and the state."""
        wanted, state = ask(self.policy, state, observation)
        return min(max(wanted, self.low), self.high), state


@dataclass(frozen=True)
class Quantize:
    """What `quantize` returns."""

    policy: Policy
    multiple: int
    rounding: Rounding

    def init(self, bounds: Bounds) -> Any:
        """Return the first state."""
        return self.policy.init(bounds)

    def decide(self, state: Any, observation: Observation) -> tuple[float, Any]:
        """Return the rank and the state."""
        wanted, state = ask(self.policy, state, observation)
        if math.isinf(wanted):
            return wanted, state
        return float(ROUND[self.rounding](wanted / self.multiple) * self.multiple), state


@dataclass(frozen=True)
class Hysteresis:
    """What `hysteresis` returns; its state holds the rank in force."""

    policy: Policy
    up: float
    down: float

    def init(self, bounds: Bounds) -> tuple[Any, float | None]:
        """Return the first state."""
        return self.policy.init(bounds), None

    def decide(
        self, state: tuple[Any, float | None], observation: Observation
    ) -> tuple[float, tuple[Any, float | None]]:
        """Return the rank and the state."""
        inner, held = own_parts(state, 2, by="hysteresis")
        wanted, inner = ask(self.policy, inner, observation)
        if held is None or wanted > held + self.up or wanted < held - self.down:
            held = wanted
        return held, (inner, held)


@dataclass(frozen=True)
class Cooldown:
    """What `cooldown` returns; its state holds the rank in force and the step it came."""

    policy: Policy
    up: int
    down: int

    def init(self, bounds: Bounds) -> tuple[Any, float | None, int | None]:
        """Return the first state."""
        return self.policy.init(bounds), None, None

    def decide(
        self, state: tuple[Any, float | None, int | None], observation: Observation
    ) -> tuple[float, tuple[Any, float | None, int | None]]:
        """Return the rank and the state."""
        inner, held, changed_at = own_parts(state, 3, by="cooldown")
        step = whole("step", observation.need("step", by="cooldown"))
        wanted, inner = ask(self.policy, inner, observation)
        if held is None:
            return wanted, (inner, wanted, None)
        pause = self.up if wanted > held else self.down
        if wanted != held and _pause_over(step, changed_at, pause):
            held, changed_at = wanted, step
        return held, (inner, held, changed_at)


def _pause_over(step: int, changed_at: int | None, pause: int) -> bool:
    if changed_at is None:
        return True
    if step < changed_at:
        raise ValueError(f"step must not lie before the last change at {changed_at}, got {step}")
    return step - changed_at >= pause


@dataclass(frozen=True)
class Lowest:
    """What `lowest` returns."""

    policies: tuple[Policy, ...]

    def init(self, bounds: Bounds) -> tuple[Any, ...]:
        """Return the first state."""
        return tuple(policy.init(bounds) for policy in self.policies)

    def decide(
        self, state: tuple[Any, ...], observation: Observation
    ) -> tuple[float, tuple[Any, ...]]:
        """Return the rank and the state."""
        states = own_parts(state, len(self.policies), by="lowest")
        pairs = zip(self.policies, states, strict=True)
        answers = [ask(policy, own, observation) for policy, own in pairs]
        return min(wanted for wanted, _ in answers), tuple(own for _, own in answers)
