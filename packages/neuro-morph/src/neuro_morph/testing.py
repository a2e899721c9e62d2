"""Networks and laws to test growth with: of this package, and of what is built on it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from neuro_morph._zoo import _language, _mobile, _plain, _residual, _vision

__all__ = ["architectures", "randomized"]

Factory = Callable[[], tuple[nn.Module, Any]]

_FAMILIES: tuple[Factory, ...] = (
    _plain.mlp,
    _plain.flatten_net,
    _plain.vgg,
    _plain.dilated,
    _plain.wavenet,
    _plain.volumes,
    _plain.group_norm_net,
    _residual.resnet,
    _residual.resnet_bottleneck,
    _residual.densenet,
    _residual.squeezenet,
    _residual.unet,
    _residual.convnext,
    _mobile.mobilenet,
    _mobile.mobilenet_v3,
    _mobile.efficientnet,
    _mobile.separable_net,
    _mobile.shufflenet,
    _vision.vit,
    _vision.vit_mha,
    _vision.swin,
    _vision.mixer,
    _language.bert,
    _language.gpt2,
    _language.llama,
    _language.t5,
)


def architectures() -> dict[str, Factory]:
    """Returns small networks of the well-known families, by name.

    Each value gives a new model and example inputs for it (a tensor, or a tuple of arguments).

    Example:
        >>> from neuro_morph.testing import architectures
        >>> model, inputs = architectures()["resnet"]()
        >>> model(inputs).shape
        torch.Size([2, 5])
    """
    return {factory.__name__: factory for factory in _FAMILIES}


def randomized(
    model: nn.Module, inputs: Any = None, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Any]:
    """Returns a model in evaluation mode with nothing left at its first value, and its inputs.

    Weights, biases, statistics and scales are drawn at random, so that no zero and no one hides an
    error; floating point inputs are converted to ``dtype``. Buffers that hold tables are kept.

    Example:
        >>> import torch
        >>> from neuro_morph.testing import randomized
        >>> model, x = randomized(torch.nn.BatchNorm1d(2), torch.ones(1, 2))
        >>> bool(model.running_mean.all()), x.dtype
        (True, torch.float64)
    """
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        kind = name.rpartition(".")[2]
        parameter = isinstance(tensor, nn.Parameter)
        if tensor.is_floating_point() and (parameter or kind in ("running_mean", "running_var")):
            tensor.data.copy_(_drawn(kind, tensor, generator))
    return model, tree_map(lambda leaf: _converted(leaf, dtype), inputs)


def _drawn(kind: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    if kind == "running_var":
        return noise.abs() + 0.5
    if tensor.dim() > 1:
        return noise / max(tensor[0].numel(), 1) ** 0.5
    return noise * 0.3 + (0.1 if kind in ("bias", "running_mean") else 0.8)


def _converted(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
