"""How much a unit turns its stream."""

import torch
from torch import Tensor

from layer_importance._branch import dots, squares
from layer_importance._events import UnitEvent
from layer_importance._method import MeanMethod


class BlockInfluence(MeanMethod):
    """One minus the cosine of what goes in and what comes out: ``1 - E cos(x, y)``.

    0 for the identity, 1 for an orthogonal map, 2 for a sign change. The cosine is blind to gain,
    so that ``norm_ratio``, ``E |y| / |x|``, and ``angle``, ``E arccos(cos) / pi``, stand beside it.

    Source: Men et al., ShortGPT, arXiv 2403.03853, eq. 1; the angle: Gromov et al., arXiv
    2403.17887.
    """

    name = "block_influence"
    columns = ("value", "norm_ratio", "angle")

    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        """Cosine distance, norm ratio and angle of every sample."""
        if event.x.shape != event.y.shape:
            return (event.x.new_empty(0),) * 3
        norms = squares(event, "x").sqrt(), squares(event, "y").sqrt()
        products = dots(event, event.x, event.y)
        # a token of zeros has no direction: it counts as unturned if it stays zero, else as turned
        both = norms[0] * norms[1]
        cosine = torch.where(both > 0, products / both, (norms[0] == norms[1]).double())
        cosine = cosine.clamp(-1, 1)
        ratio = torch.where(norms[0] > 0, norms[1] / norms[0], torch.nan)
        angle = cosine.arccos() / torch.pi
        return tuple(event.over_tokens(v) for v in (1 - cosine, ratio, angle))
