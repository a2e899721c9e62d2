"""Dale's law: a neuron excites all its targets or inhibits all of them."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)


def dale_signs(size: int, excitatory: float = 0.8) -> Tensor:
    """Return +1 for the first neurons, -1 for the rest: [size].

    Args:
        size: Neurons before a weight.
        excitatory: Share of those that excite, rounded to a number of neurons.

    Raises:
        ValueError: The share is not in [0, 1], or there are no neurons.

    Example:
        >>> dale_signs(5)
        tensor([ 1.,  1.,  1.,  1., -1.])
    """
    if size < 1 or not 0 <= excitatory <= 1:
        got = f"{size} and {excitatory}"
        raise ValueError(f"size must be at least 1 and excitatory in [0, 1], got {got}")
    signs = torch.ones(size)
    signs[round(size * excitatory) :] = -1
    return signs


class DaleSign(nn.Module):
    """Return a weight that keeps the signs of the neurons before it: W = |V| diag(sign).

    A parametrisation for `torch.nn.utils.parametrize`; `dale_` puts it on. A weight that is
    assigned keeps what has the right sign, the rest becomes 0. (At 0 the gradient of |V| is 0: a
    connection lost so comes back by assignment alone, as by a learning rule.)

    Args:
        signs: ±1 for every neuron before the weight [in].

    Raises:
        ValueError: Signs are not ±1 [in].
    """

    signs: Tensor

    def __init__(self, signs: Tensor) -> None:
        super().__init__()
        _check_signs(signs)
        self.register_buffer("signs", signs.detach().clone())

    def forward(self, magnitude: Tensor) -> Tensor:
        """Return |V| diag(sign); for kernels the signs are those of the channels."""
        return magnitude.abs() * along_inputs(self.signs, magnitude)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the magnitudes of what has the right sign."""
        return (weight * along_inputs(self.signs, weight)).clamp(min=0)


def dale_(layer: Layer, signs: Tensor) -> Layer:
    """Make a layer's weight keep signs in place, from now on, and return the layer.

    Magnitudes stay as they are; weights of the wrong sign are turned.

    Args:
        layer: A layer with a parameter `weight` [out, in, ...].
        signs: ±1 for every neuron before it [in] (`dale_signs`).

    Raises:
        ValueError: The signs do not fit the weight.

    Example:
        >>> layer = dale_(torch.nn.Linear(5, 2), dale_signs(5))
        >>> layer.weight.sign()[0]
        tensor([ 1.,  1.,  1.,  1., -1.], grad_fn=<SelectBackward0>)
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    _check_signs(signs, weight)
    law = DaleSign(signs.to(weight))
    with torch.no_grad():
        weight.copy_(law(weight))
    parametrize.register_parametrization(layer, "weight", law)
    return layer


@torch.no_grad()
def keep_signs_(weight: Tensor, signs: Tensor) -> Tensor:
    """Set to zero in place what has the wrong sign after an update; return the weight.

    Args:
        weight: [out, in, ...].
        signs: ±1 for every neuron before it [in].

    Raises:
        ValueError: The signs do not fit the weight.

    Example:
        >>> keep_signs_(torch.tensor([[1.0, 1.0]]), torch.tensor([1.0, -1.0]))
        tensor([[1., 0.]])
    """
    _check_signs(signs, weight)
    return weight.mul_(weight * along_inputs(signs.to(weight), weight) > 0)


def along_inputs(signs: Tensor, weight: Tensor) -> Tensor:
    """Return signs [in] in the shape that multiplies a weight [out, in, ...]."""
    return signs.reshape(1, -1, *[1] * (weight.ndim - 2))


def _check_signs(signs: Tensor, weight: Tensor | None = None) -> None:
    if signs.ndim != 1 or not bool((signs.abs() == 1).all()):
        raise ValueError(f"signs must be +1 or -1 [in], got {signs}")
    if weight is not None and (weight.ndim < 2 or weight.shape[1] != len(signs)):
        got = f"{len(signs)} for {tuple(weight.shape)}"
        raise ValueError(f"signs must be one for each input of the weight, got {got}")
