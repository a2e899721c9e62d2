"""When factors fitted to past inputs should be fitted anew: a trigger with a proof."""

from typing import NamedTuple

import torch
from torch import Tensor

from adlrns_models._checks import check_int, check_kind, check_number
from adlrns_models._dynamic import DynamicLayer
from adlrns_models._dynamic_factors import effective
from adlrns_models._factorize import Factorization, factorize
from fd_sketch import ExactGram, FrequentDirections, covariance_sketch


class Drift(NamedTuple):
    """What the stream says about a layer's factors at one rank.

    Attributes:
        present: a loss the present factors have at least, over the stream.
        fresh: a loss that factors fitted to the stream have at most.
        fires: whether ``present > (1 + tau) fresh``.
    """

    present: float
    fresh: float
    fires: bool


class RefactorTrigger:
    """Tells when a layer's inputs have moved so far that its factors should be fitted anew.

    It sketches the rows a layer sees, forgetting old ones, and compares at rank r

        present = tr(E B'B E'),  E = up[:, r:] @ down[r:]         (a lower bound of the loss)
        fresh   = the certified upper bound of factors fitted to the sketch

    with B the sketch. As ``B'B <= C`` for the second moment C of the rows, two things are certain,
    up to rounding: when it fires, the present factors lose more than ``1 + tau`` times what fresh
    ones would; and it never fires while they lose at most ``1 + tau`` times the least any rank-r
    factors could. Losses are of the weight, of rows as they came (biases play no part), weighed by
    the decay.

    Args:
        layer: whose factors are watched.
        rank: r in ``1..R-1``, a rank the layer typically runs at.
        tau: how much worse is too bad.
        sketch_size: rows of the sketch; if the layer has at most three times as many inputs, their
            second moment is kept instead, exactly.
        decay: factor on all that was seen before, at every look.
        every: calls of :meth:`observe` between two checks; each costs about a factorisation.
        max_rows: rows taken of one input, evenly spaced; the rest is not looked at, and what is
            certain is so for the rows taken.

    Raises:
        ValueError, TypeError: for a value outside its range.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, RefactorTrigger
        >>> layer = DynamicLinear(16, 16, r_max=16, r_min=2)
        >>> trigger = RefactorTrigger(layer, rank=4, every=1)
        >>> odd = layer.down[8:12].detach()  # inputs where rank 4 sees nothing
        >>> trigger.observe(torch.randn(32, 4) @ odd)
        True
        >>> _ = trigger.refit()
        >>> trigger.check().fires
        False
    """

    def __init__(
        self,
        layer: DynamicLayer,
        *,
        rank: int,
        tau: float = 0.5,
        sketch_size: int = 64,
        decay: float = 0.95,
        every: int = 50,
        max_rows: int = 2048,
    ):
        self.layer = check_kind("layer", layer, DynamicLayer)
        self.rank = check_int("rank", rank, 1, layer.max_rank - 1)
        self.tau = check_number("tau", tau)
        if not self.tau >= 0.0:
            raise ValueError(f"tau must not be negative, got {tau}")
        self.every = check_int("every", every, 1)
        self.max_rows = check_int("max_rows", max_rows, 1)
        self.sketch: ExactGram | FrequentDirections = covariance_sketch(
            layer.sizes[1], sketch_size, decay=decay
        )
        self._calls = 0

    def observe(self, x: Tensor) -> bool:
        """Takes in an input of the layer; returns whether the factors should be fitted anew.

        Always False between checks.
        """
        rows = self.layer.rows(x, self.max_rows)
        self.sketch.partial_fit(rows.detach())
        self._calls += 1
        return self._calls % self.every == 0 and self.check().fires

    @torch.no_grad()
    def check(self) -> Drift:
        """Returns both losses at once, whatever the cadence; nothing seen fires nothing."""
        if self.sketch.n_samples_seen == 0:
            return Drift(0.0, 0.0, False)
        r, wide = self.rank, self.layer.factors
        error = wide.up[:, r:].double() @ wide.down[r:].double()
        present = float(torch.as_tensor(self.sketch.quadratic_form(error)).trace())
        weight = effective(wide)[0].double()
        fresh = factorize(weight, None, self.sketch, max_rank=self.layer.max_rank)
        upper = fresh.bounds(r).upper
        # what rounding may have made of two losses of a stream that either factors carry whole
        floor = 16 * torch.finfo(wide.up.dtype).eps * self._energy(weight)
        return Drift(present, upper, present > (1.0 + self.tau) * upper + floor)

    def refit(self) -> Factorization:
        """Fits the layer's factors to the rows seen, in place, and returns them.

        Raises:
            RuntimeError: if nothing was seen.
        """
        if self.sketch.n_samples_seen == 0:
            raise RuntimeError("the trigger has seen no inputs yet: call observe first")
        return self.layer.refit_(self.sketch)

    def _energy(self, weight: Tensor) -> float:
        """Returns the energy of the stream's outputs, nearly."""
        return float(torch.as_tensor(self.sketch.quadratic_form(weight)).trace())
