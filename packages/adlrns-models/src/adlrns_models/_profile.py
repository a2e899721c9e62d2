"""A layer's loss curve, in units of the whole model, beside what it costs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adlrns_models._calibrate import Observed
from adlrns_models._config import AdaptConfig
from adlrns_models._costs import LayerSize
from adlrns_models._factorize import Factorization
from adlrns_models._groups import factorize_layer, stacked
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._plain import Plain, sizes_of
from adlrns_models._wrap import make_adaptive

# ranks at which the certificate's upper end is computed; it holds for all ranks after each
CERTIFIED = 24


@dataclass(frozen=True)
class LayerProfile:
    """What a budget needs to know of one layer.

    Attributes:
        size: what its cost depends on; of one group, for a convolution of several.
        loss: ``[full rank + 1]``, predicted squared change of the model's objective per sample.
        lower: ``[full rank + 1]``, the part of it that the sketch proves.
        upper: ``[full rank + 1]``, what the sketch proves it not to exceed; lower and upper are
            about the layer's own error on the rows sketched, weighed by its mean gradient.
        groups: how many there are; all run at one rank, and their losses add up.
    """

    size: LayerSize
    loss: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    groups: int = 1


def elastic_layer(
    layer: Plain, seen: Observed, samples: int, *, two_sided: bool = True
) -> tuple[AdaptiveLayer, LayerProfile]:
    """Returns the layer at full rank, factorised for the inputs seen, and its profile."""
    sensitivity = seen.sensitivity if two_sided else seen.even_sensitivity
    found = factorize_layer(layer, seen.sketch, sensitivity=sensitivity)
    sizes, factors = sizes_of(layer), stacked(found)
    config = AdaptConfig(r_min=0, r_max=sizes.max_rank)
    elastic = make_adaptive(layer, config, factors=factors)
    elastic.enable_adaptation(False)
    # mean loss per row, times rows per sample; none where nothing depends on the layer
    scale = seen.heard * seen.rows / (seen.sketch.n_samples_seen * samples)
    profile = LayerProfile(
        size=LayerSize(sizes.outputs, sizes.inputs, seen.rows / samples),
        loss=_scaled(factors.loss, scale),
        lower=_scaled(factors.lower, scale),
        upper=_scaled(torch.stack([certified_upper(each) for each in found]).sum(0), scale),
        groups=sizes.groups,
    )
    return elastic, profile


def certified_upper(factors: Factorization) -> Tensor:
    """Returns an upper bound of the loss at every rank, ``[R + 1]``.

    The bound falls with the rank, so its value at a rank holds for every later one: it is computed
    at some ranks, dense where ranks are small, and carried forward.
    """
    if factors.error_bound <= 0.0:
        return factors.lower
    size = factors.max_rank
    marks = torch.linspace(0, 1, CERTIFIED).square().mul(size).round().int().unique().tolist()
    upper = torch.empty_like(factors.lower)
    for start, stop in zip(marks, [*marks[1:], size + 1], strict=True):
        upper[start:stop] = factors.bounds(start).upper
    return upper


def _scaled(curve: Tensor, scale: float) -> tuple[float, ...]:
    return tuple((curve.double() * scale).tolist())
