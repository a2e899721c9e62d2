"""How unsure the answer is if one unit is, to second order, for all units at once."""

import torch
from torch import Tensor

from layer_importance._branch import single
from layer_importance._edits import branch
from layer_importance._events import UnitEvent
from layer_importance._method import MeanMethod


class UncertaintyDelta(MeanMethod):
    """Second-order estimate of the information a unit's dropout has about the answer.

    ``p / (2 (1 - p)) sum_d (sum_t f_td g_td)²`` over features ``d`` and real tokens ``t``, where
    ``f`` is the unit's branch and ``g`` the gradient of the loss for a label drawn from the model.
    Dropout at rate ``p`` gives feature ``d`` the variance ``p / (1 - p)``; the delta method turns
    it into half the answer's variance in the metric of its Fisher information, which is
    ``I(y; w | x)`` up to higher orders of ``p``. In nats; 0 where the branch is 0 or does not
    matter. One backward pass gives all units what :class:`UncertaintyQuantification` draws for.

    Args:
        rate: ``p``.

    Source: the delta method on Houlsby et al., arXiv 1112.5745, eq. 2, with the noise of Gal and
    Ghahramani, arXiv 1512.05287.
    """

    name = "uncertainty_delta"
    measure = "nats"
    needs = frozenset({"data", "sampled"})

    def __init__(self, *, rate: float = 0.1) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be in 0..1, 1 excluded, got {rate}")
        super().__init__()
        self.rate = rate

    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        """Half the variance of each sample's answer."""
        assert event.y_grad is not None
        x, y = single(event.x), single(event.y)
        products = self._over_tokens(event, branch(event.unit, x, y) * event.y_grad)
        squares = products.square().sum(1)
        return (squares * self.rate / (2 * (1 - self.rate)),)

    def _over_tokens(self, event: UnitEvent, products: Tensor) -> Tensor:
        """Sums over the real tokens or places of each sample, ``[N, D]``, in float64."""
        if event.mask is None and event.channels == 1 and products.ndim > 2:
            return products.flatten(2).sum(2, dtype=torch.float64)
        products = event.tokens(products)
        if event.mask is not None and event.mask.shape == products.shape[:2]:
            products = products.masked_fill(~event.mask.bool()[..., None], 0.0)
        return products.sum(1, dtype=torch.float64)
