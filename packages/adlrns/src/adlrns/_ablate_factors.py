"""Elastic networks with a part of the method left out, made of public pieces."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models import (
    ElasticModel,
    Factorization,
    LayerProfile,
    factorize,
    iter_adaptive_layers,
    wrap_model_with_adaptive,
)
from fd_sketch import CovarianceSketch, ExactGram, FrequentDirections

# rows (patches) of a layer that one batch gives at most
_ROWS = 4096


def refactored(
    net: nn.Module,
    profiles: Mapping[str, LayerProfile],
    sketches: Mapping[str, CovarianceSketch | None],
) -> ElasticModel:
    """Returns a network elastic with factors for these sketches; None is plain SVD.

    No output counts more than another: that is what `adlrns_models.make_elastic` adds.

    Args:
        net: the trained network; it is not changed.
        profiles: of its elastic layers, for their sizes.
        sketches: of the inputs of each of them.
    """
    largest = max(profile.size.max_rank for profile in profiles.values())
    network = wrap_model_with_adaptive(copy.deepcopy(net), r_min=0, r_max=largest).eval()
    for layer in iter_adaptive_layers(network):
        layer.enable_adaptation(False)
    found = {}
    for name, profile in profiles.items():
        plain: Any = net.get_submodule(name)
        sketch = sketches[name]
        factors = factorize(plain.weight.detach().flatten(1), plain.bias, sketch)
        _fill(network.get_submodule(name), factors)
        rows = 1.0 if sketch is None else profile.size.rows / sketch.n_samples_seen
        found[name] = with_loss(profile, factors.loss.mul(rows).tolist())
    return ElasticModel(network, found)


def with_loss(profile: LayerProfile, loss: Iterable[float]) -> LayerProfile:
    """Returns a profile of the same size with another loss curve, and nothing certain."""
    curve = tuple(loss)
    return LayerProfile(profile.size, curve, tuple(0.0 for _ in curve), curve)


def evenly(elastic: ElasticModel) -> ElasticModel:
    """Returns a copy that spreads a budget evenly: every layer gets the same share of its cost.

    The curve `C (1 - share)^2` of each layer of cost `C` makes equal shares the best ones.
    """
    profiles = {}
    for name, profile in elastic.profiles.items():
        m, n, rows = profile.size
        costs = [min(r * (m + n), m * n) for r in range(profile.size.max_rank)] + [m * n]
        curve = [m * n * rows * (1 - cost / (m * n)) ** 2 for cost in costs]
        profiles[name] = with_loss(profile, curve)
    return ElasticModel(copy.deepcopy(elastic.network), profiles)


def sketches_of(
    net: nn.Module, names: Iterable[str], batches: Iterable[Tensor], *, size: int, center: bool
) -> dict[str, CovarianceSketch]:
    """Returns a sketch of the inputs of each named layer, in one pass over the batches.

    As in `adlrns_models.make_elastic`, the exact moments are kept where they take little.
    """
    layers: dict[str, Any] = {name: net.get_submodule(name) for name in names}
    found = {name: _sketch(layer.weight[0].numel(), size, center) for name, layer in layers.items()}
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args, sketch=found[name]: _feed(layer, args[0], sketch)
        )
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for x in batches:
                net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _sketch(features: int, size: int, center: bool) -> CovarianceSketch:
    if features <= 2 * size:
        return ExactGram(features, center=center)
    return FrequentDirections(features, size, buffer_size=4 * size, center=center)


def _feed(layer: nn.Module, x: Tensor, sketch: CovarianceSketch) -> None:
    if isinstance(layer, nn.Conv2d):
        padding: Any = layer.padding
        patches = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
        rows = patches.transpose(1, 2).flatten(0, 1)
    else:
        rows = x.flatten(0, -2)
    step = -(-len(rows) // _ROWS)
    sketch.partial_fit(rows[::step].float())


def _fill(layer: Any, factors: Factorization) -> None:
    with torch.no_grad():
        layer.down.copy_(factors.down.reshape(layer.down.shape))
        layer.up.copy_(factors.up)
        layer.inner_bias.copy_(factors.inner_bias)
        layer.outer_bias.copy_(factors.bias)
