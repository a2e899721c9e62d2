"""Replacing a model's layers by adaptive ones, all or none."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from adlrns_models._checks import check_kind
from adlrns_models._config import AdaptConfig
from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._layer import AdaptiveLayer, RankChange
from adlrns_models._linear import AdaptiveLinear

logger = logging.getLogger(__name__)

# these read their children's weights instead of calling them
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


class Targets(NamedTuple):
    """The layers of a model that can be made adaptive, and why the others cannot.

    Attributes:
        layers: name to layer; a shared layer stands once, under its first name.
        skipped: name to reason, for linear and convolution layers left alone.
    """

    layers: dict[str, nn.Linear | nn.Conv2d]
    skipped: dict[str, str]


def find_targets(model: nn.Module, *, include_conv: bool = True) -> Targets:
    """Returns the linear and convolution layers of ``model`` that can be made adaptive."""
    owners = _parameter_owners(model)
    found = Targets({}, {})
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        reason = _reason_to_skip(model, name, module, owners, include_conv)
        if reason:
            found.skipped[name] = reason
        else:
            found.layers[name] = module
    return found


def wrap_model_with_adaptive(model: nn.Module, **kwargs: Any) -> nn.Module:
    """Returns ``model`` with its linear and convolution layers made adaptive, in place.

    Every ``nn.Linear`` and, with ``include_conv``, every ``nn.Conv2d`` of one group becomes an
    :class:`AdaptiveLinear` or :class:`AdaptiveConv2d` that computes the same (exactly so where
    ``r_max`` allows full rank). Layers that cannot be replaced are logged with the reason. If
    anything fails the model is as it was. Parameters are new: make the optimizer afterwards.

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
    targets = find_targets(model, include_conv=config.include_conv)
    if not targets.layers:
        raise ValueError(f"model must have a layer to wrap, got none; skipped: {targets.skipped}")
    new = {name: make_adaptive(layer, config) for name, layer in targets.layers.items()}
    for name, reason in targets.skipped.items():
        logger.info("%s stays as it is: %s", name, reason)
    return replace_modules(model, {targets.layers[name]: layer for name, layer in new.items()})


def make_adaptive(
    layer: nn.Linear | nn.Conv2d, config: AdaptConfig, **kwargs: Any
) -> AdaptiveLayer:
    """Returns the adaptive layer that computes what ``layer`` does."""
    kind = AdaptiveLinear if isinstance(layer, nn.Linear) else AdaptiveConv2d
    new: AdaptiveLayer = kind(layer, config, **kwargs)  # type: ignore[arg-type]
    for name, hooks in vars(layer).items():
        if "_hooks" in name:  # the same dictionaries: handles that users hold go on working
            setattr(new, name, hooks)
    return new


def replace_modules(model: nn.Module, new: Mapping[Any, nn.Module]) -> nn.Module:
    """Puts ``new[old]`` wherever ``old`` is in ``model``; returns the model (or its stand-in)."""
    if model in new:
        return new[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                parent._modules[name] = new[child]
    return model


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


def _reason_to_skip(
    model: nn.Module,
    name: str,
    module: nn.Linear | nn.Conv2d,
    owners: dict[int, set[int]],
    include_conv: bool,
) -> str | None:
    if isinstance(module, nn.Conv2d) and not include_conv:
        return "include_conv is False"
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"{type(module).__name__} is a subclass that may compute something else"
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"groups={module.groups}"
    for part in ("weight", "bias"):
        if getattr(module, part) is not None and module._parameters.get(part) is None:
            return f"its {part} is computed (pruned, normalised), not a parameter"
    if not module.weight.is_floating_point():
        return f"its weight is {module.weight.dtype}"
    if module.weight.is_meta:
        return "its weight has no values (meta)"
    if min(module.weight.shape[0], module.weight[0].numel()) == 0:
        return "its weight is empty"
    if len(owners[id(module.weight)]) > 1:
        return "its weight is tied to another module's"
    parent = model.get_submodule(name.rpartition(".")[0]) if name else None
    if isinstance(parent, _READERS):
        return f"{type(parent).__name__} reads its weight instead of calling it"
    return None


def _parameter_owners(model: nn.Module) -> dict[int, set[int]]:
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(id(module))
    return owners
