"""The freedom that two factors have: what one is multiplied by, the other is divided by."""

import torch

from adlrns_models._groups import parts
from adlrns_models._layer import AdaptiveLayer


@torch.no_grad()
def balance(layer: AdaptiveLayer) -> None:
    """Gives each direction of ``layer`` the same norm in both factors, in place.

    ``up[:, i] s, down[i] / s`` is the same layer at every rank, up to rounding. Weighted factors
    come with columns of any size, and one learning rate cannot suit both sides of such a pair.
    """
    for part in parts(layer):  # one, but for convolutions of several groups
        down, up = part.down.flatten(1).double().norm(dim=1), part.up.double().norm(dim=0)
        scale = torch.where((down > 0) & (up > 0), (down / up).sqrt(), torch.ones_like(up))
        part.up.mul_(scale.to(part.up))
        scale = scale.to(part.down)
        part.inner_bias.div_(scale)
        part.down.div_(scale.reshape(-1, *[1] * (part.down.ndim - 1)))
