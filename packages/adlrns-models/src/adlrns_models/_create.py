"""Reference nets by name."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from adlrns_models._dynamic_linear import DynamicLinear
from adlrns_models._nets_mlp import adlrns_mlp
from adlrns_models._nets_resnet import adlrns_resnet
from adlrns_models._nets_transformer import adlrns_transformer
from adlrns_models._nets_vit import adlrns_vit

MODELS: dict[str, Callable[..., nn.Module]] = {
    "adlrns_mlp": adlrns_mlp,
    "adlrns_resnet": adlrns_resnet,
    "adlrns_transformer": adlrns_transformer,
    "adlrns_vit": adlrns_vit,
}
_OF_LAYERS = inspect.signature(DynamicLinear).parameters.keys() - {
    "in_features",
    "out_features",
    "bias",
    "device",
    "dtype",
}


def create_model(type: str, **options: Any) -> nn.Module:
    """Returns a reference net by its name, as configuration files have it.

    Args:
        type: ``"adlrns_mlp"``, ``"adlrns_resnet"``, ``"adlrns_transformer"`` or ``"adlrns_vit"``.
        options: keywords of that function, those of its layers included.

    Raises:
        ValueError: for an unknown name or option, which the message names.

    Example:
        >>> from adlrns_models import create_model
        >>> section = {"type": "adlrns_resnet", "r_min": 4, "r_max": 64, "num_gate_blocks": 8}
        >>> type(create_model(**section)).__name__
        'ResNet'
    """
    if type not in MODELS:
        raise ValueError(f"type must be one of {', '.join(MODELS)}, got {type!r}")
    factory = MODELS[type]
    own = inspect.signature(factory).parameters.keys() - {"layer_options"}
    for name in options:
        if name not in own | _OF_LAYERS:
            allowed = ", ".join(sorted(own | _OF_LAYERS))
            raise ValueError(f"unknown option {name} of {type}: must be one of {allowed}")
    return factory(**options)
