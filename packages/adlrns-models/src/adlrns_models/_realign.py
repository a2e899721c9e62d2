"""Re-fitting a layer's factors to the inputs it has seen, in place and without changing it."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models._factorize import factorize
from adlrns_models._groups import NAMES, Part, among_columns, parts
from adlrns_models._linalg import on_backend
from fd_sketch import CovarianceSketch

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer


def realign(layer: "AdaptiveLayer") -> None:
    """Rewrites the factors of ``layer`` so that every prefix is optimal for its sketched inputs.

    At full rank the layer computes what it did. With ``up = Q T`` (QR) the small weight
    ``T @ down`` ``[R, n]`` is factorised instead of the large one: ``O(R^2 (m + n) + R n l)``.
    A gradient that waits in ``.grad`` is carried into the new coordinates.
    """
    sketch, place = layer.sketch, layer.down.device
    for part in parts(layer):
        new = on_backend(layer.config.svd_backend, place, partial(_refit, part, sketch))
        with torch.no_grad():
            for name, value in new.items():
                mine = getattr(part, name)
                mine.copy_(value.reshape(mine.shape))


def _refit(part: Part, sketch: CovarianceSketch, device: torch.device) -> dict[str, Tensor]:
    down, up, inner, bias = (
        t.to(device).double() for t in (part.down, part.up, part.inner_bias, part.outer_bias)
    )
    outer, small = torch.linalg.qr(up)
    # Q y is an isometry: the best factors of T @ down, moved by Q, are the best of up @ down
    weight = among_columns(small @ down.flatten(1), part.columns, sketch)
    factors = factorize(weight, small @ inner, sketch)
    if part.columns is not None:
        factors = factors.of_columns(part.columns)
    turn = factors.up.T @ small  # new inner coordinates = turn @ old ones
    new_inner, new_bias = factors.inner_bias, bias + outer @ factors.bias
    if part.gradients["up"] is not None and part.gradients["outer_bias"] is None:
        # a gradient waits, and what it would be about another centre is not known
        new_inner, new_bias = turn @ inner, bias
    _carry_gradients(part, turn.to(part.down), (new_inner - turn @ inner).to(part.down))
    return {
        "down": factors.down,
        "up": outer @ factors.up,
        "inner_bias": new_inner,
        "outer_bias": new_bias,
    }


def _carry_gradients(part: Part, turn: Tensor, shift: Tensor) -> None:
    """Rewrites waiting gradients for ``h' = turn @ h + shift``, ``up' = up @ turn^-1``."""
    down, up, inner, bias = (part.gradients[name] for name in NAMES)
    if up is not None:
        up.copy_(up @ turn.T if bias is None else up @ turn.T + torch.outer(bias, shift))
    for gradient in (down, inner):
        if gradient is not None:
            flat = gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None]
            turned = torch.linalg.lstsq(turn.T, flat).solution
            gradient.copy_(turned.reshape(gradient.shape))
