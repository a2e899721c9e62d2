"""The matrices in a module, and which of their dimensions its input meets."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def matrices(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields every weight matrix in a module by name, once each.

    Convolutions are unfolded to ``[c_out, c_in k k]``; a parameter with more dimensions that is no
    convolution's is a stack of matrices. Vectors, single rows and columns, and weights that are not
    floating numbers are left out.
    """
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen or parameter.is_meta or not parameter.is_floating_point():
                continue
            seen.add(id(parameter))
            full = f"{path}.{name}" if path else name
            for number, W in enumerate(_unfolded(owner, parameter.detach())):
                if min(W.shape) > 1:
                    yield (full if parameter.ndim == 2 else f"{full}[{number}]"), W


def _unfolded(owner: nn.Module, weight: Tensor) -> Iterator[Tensor]:
    if isinstance(owner, _ConvNd) and weight.ndim > 2:
        yield (weight.transpose(0, 1) if isinstance(owner, _ConvTransposeNd) else weight).flatten(1)
    elif weight.ndim >= 2:
        yield from weight.reshape(-1, *weight.shape[-2:])


def input_dimension(module: nn.Module) -> int | None:
    """Returns which dimension of ``module.weight`` its input's features meet; ``None`` if neither.

    A module that is no linear and no convolution layer is asked: does it multiply a vector by its
    weight or by the transpose?
    """
    if isinstance(module, nn.Linear):
        return 1
    if isinstance(module, _ConvNd):
        return 0 if isinstance(module, _ConvTransposeNd) else 1
    W = getattr(module, "weight", None)
    if next(module.children(), None) is not None or not isinstance(W, Tensor) or W.ndim != 2:
        return None
    return next((side for side in (0, 1) if _multiplies(module, W.detach(), side)), None)


def _multiplies(module: nn.Module, W: Tensor, side: int) -> bool:
    x = torch.linspace(-1, 1, W.shape[side], dtype=W.dtype, device=W.device)[None]
    try:
        with torch.no_grad():
            change = module(x) - module(torch.zeros_like(x))
    except Exception:  # whatever a module says that takes no such vector
        return False
    product = x @ (W if side == 0 else W.T)
    # 0-width and integer-indexed modules (embeddings) fail one of these
    return change.shape == product.shape and torch.allclose(change, product, rtol=1e-3, atol=1e-4)
