"""Learning by how much a cost model is wrong, slowly and without winding up."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from rank_sched._finite import quantity
from rank_sched._numbers import number_in

_FURTHEST = 1e3  # a tick that is further off than this says no more than that it is far off


class GainState(NamedTuple):
    """Where a `GainCorrection` stands.

    Attributes:
        gain: What measurements are to predictions, by what is known so far.
        integral: The integral part of its logarithm.
        predicted: Sum of the predictions since the last tick.
        measured: Sum of what was measured for them.
        ticked_at: Time of the last tick.
    """

    gain: float
    integral: float
    predicted: float
    measured: float
    ticked_at: float


@dataclass(frozen=True)
class GainCorrection:
    """A PI controller for the factor between predictions and measurements.

    Once a tick, with e = log(measured/predicted) - log(gain) over all that was settled since the
    last one,

        log gain ← clamp(kp·e + I),    I ← clamp(I + ki·e)

    and I rests while the output is at a limit and e pushes it further (anti-windup): a cost model
    that is right again is believed again as soon as it would have been without the excess. There
    is no derivative part, since measurements are noisy. Counters of energy move every 100 ms or so,
    therefore ticks are a second apart, or more.

    For a constant error the distance x of log gain from its aim follows
    x_{k+1} = (1 - kp - ki)·x_k + kp·x_{k-1}, which goes to 0 for kp < 1 and 0 < ki < 2 - 2·kp.

    Attributes:
        kp, ki: Weights of the proportional and the integral part; both 0 for no correction.
        tick_s: Seconds between two ticks, at least 1.
        low, high: Limits of the gain, `low <= 1 <= high`.

    >>> correction = GainCorrection()
    >>> state = correction.init(0.0)
    >>> for second in range(1, 30):
    ...     state = correction.settled(state, predicted=10.0, measured=13.0)
    ...     state = correction.at(state, float(second))
    >>> round(state.gain, 3)
    1.3
    """

    kp: float = 0.2
    ki: float = 0.5
    tick_s: float = 1.0
    low: float = 0.25
    high: float = 4.0

    def __post_init__(self) -> None:
        number_in("kp", self.kp, 0.0, 1.0)
        number_in("ki", self.ki, 0.0, 2.0)
        if (self.kp or self.ki) and not 0 < self.ki < 2 - 2 * self.kp:
            raise ValueError(
                f"ki must be above 0 and below 2 - 2·kp = {2 - 2 * self.kp:g}, where the loop "
                f"settles, got {self.ki:g}"
            )
        number_in("tick_s", quantity("tick_s", self.tick_s), 1.0, math.inf)
        number_in("low", quantity("low", self.low, zero=False), 0.0, 1.0)
        number_in("high", quantity("high", self.high), 1.0, math.inf)

    def init(self, now: float) -> GainState:
        """Return the state that believes the predictions."""
        return GainState(gain=1.0, integral=0.0, predicted=0.0, measured=0.0, ticked_at=now)

    def settled(self, state: GainState, *, predicted: float, measured: float) -> GainState:
        """Return the state that has taken note of a pair, to be used at the next tick."""
        predicted, measured = state.predicted + predicted, state.measured + measured
        return state._replace(predicted=predicted, measured=measured)

    def at(self, state: GainState, now: float) -> GainState:
        """Return the state at a time: corrected if a tick is due and anything was settled."""
        if now - state.ticked_at < self.tick_s or not state.predicted > 0:
            return state
        ratio = min(max(state.measured / state.predicted, 1 / _FURTHEST), _FURTHEST)
        error = math.log(ratio) - math.log(state.gain)
        wish = self.kp * error + state.integral
        log_gain, integral = self._clamp(wish), state.integral
        if log_gain == wish or error * wish < 0:
            integral = self._clamp(integral + self.ki * error)
            log_gain = self._clamp(self.kp * error + integral)
        return GainState(math.exp(log_gain), integral, 0.0, 0.0, now)

    def _clamp(self, log_gain: float) -> float:
        return min(max(log_gain, math.log(self.low)), math.log(self.high))
