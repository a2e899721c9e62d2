"""Replacing a model's layers by adaptive ones, all or none."""

import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from adlrns_models._checks import check_kind
from adlrns_models._config import AdaptConfig
from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._conv1d import as_linear
from adlrns_models._grouped_conv import AdaptiveGroupedConv2d
from adlrns_models._layer import AdaptiveLayer, RankChange
from adlrns_models._linear import AdaptiveLinear
from adlrns_models._open import opening, replace_modules
from adlrns_models._plain import Plain
from adlrns_models._targets import find_targets

logger = logging.getLogger(__name__)


def wrap_model_with_adaptive(model: nn.Module, **kwargs: Any) -> nn.Module:
    """Returns ``model`` with its linear and convolution layers made adaptive, in place.

    Every ``nn.Linear`` and, with ``include_conv``, every ``nn.Conv2d`` becomes an
    :class:`AdaptiveLinear`, :class:`AdaptiveConv2d` or :class:`AdaptiveGroupedConv2d` that computes
    the same (exactly so where ``r_max`` allows full rank). So do the ``Conv1D`` of the transformers
    library and the projections of ``nn.MultiheadAttention``, which becomes an
    :class:`OpenAttention`. Layers that cannot be replaced are logged with the reason. If anything
    fails the model is as it was. Parameters are new: make the optimizer afterwards.

    Args:
        model: any module; if it is itself such a layer, the new layer is returned.
        **kwargs: the fields of :class:`AdaptConfig`: ``eps``, ``r_min``, ``r_max``,
            ``adapt_every``, ``grow_step``, ``shrink_step``, ``sketch_size``, ``include_conv``,
            ``freeze_during_eval``, ``adapt_cooldown``, ``sample_stride``, ``max_rows_fd``,
            ``svd_backend``.

    Raises:
        TypeError: if ``model`` is no module, or for an unknown keyword.
        ValueError: for a value outside its range, or a model without such layers.

    Example:
        >>> import torch
        >>> from adlrns_models import iter_adaptive_layers, wrap_model_with_adaptive
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU())
        >>> model = wrap_model_with_adaptive(model, eps=0.05, r_min=2)
        >>> [layer.current_rank() for layer in iter_adaptive_layers(model)]
        [16]
    """
    check_kind("model", model, nn.Module)
    config = _config(kwargs)
    with opening(model) as inside:
        layers, skipped = find_targets(inside, include_conv=config.include_conv)
        if not layers:
            raise ValueError(f"model must have a layer to wrap, got none; skipped: {skipped}")
        new = {layer: make_adaptive(layer, config) for layer in layers.values()}
    for name, reason in skipped.items():
        logger.info("%s stays as it is: %s", name, reason)
    return replace_modules(inside, new)


def make_adaptive(layer: Plain, config: AdaptConfig, **kwargs: Any) -> AdaptiveLayer:
    """Returns the adaptive layer that computes what ``layer`` does."""
    new: AdaptiveLayer
    if isinstance(layer, nn.Conv2d):
        kind = AdaptiveConv2d if layer.groups == 1 else AdaptiveGroupedConv2d
        new = kind(layer, config, **kwargs)
    else:
        linear = layer if isinstance(layer, nn.Linear) else as_linear(layer)
        new = AdaptiveLinear(linear, config, **kwargs)
    for name, hooks in vars(layer).items():
        if "_hooks" in name:  # the same dictionaries: handles that users hold go on working
            setattr(new, name, hooks)
    return new


def iter_adaptive_layers(model: nn.Module) -> Iterator[AdaptiveLayer]:
    """Yields every adaptive layer of ``model`` once, in the order of its modules."""
    check_kind("model", model, nn.Module)
    return (module for module in model.modules() if isinstance(module, AdaptiveLayer))


def set_rank_change_callback(model: nn.Module, callback: RankChange | None) -> None:
    """Has ``callback(old_rank, new_rank)`` called whenever a layer's rank changes; None removes it.

    Raises:
        TypeError: if ``callback`` cannot be called.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    for layer in iter_adaptive_layers(model):
        layer._on_rank_change = callback


def clear_fd_sketch(model: nn.Module) -> None:
    """Makes every layer forget the inputs it has seen, and its count of steps."""
    for layer in iter_adaptive_layers(model):
        layer.clear_sketch()


def _config(kwargs: dict[str, Any]) -> AdaptConfig:
    unknown = sorted(set(kwargs) - set(AdaptConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(AdaptConfig.__dataclass_fields__)
        raise TypeError(f"unknown keyword {', '.join(unknown)}; known are {known}")
    return AdaptConfig(**kwargs)
