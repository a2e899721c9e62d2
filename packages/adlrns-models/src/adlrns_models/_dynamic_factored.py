"""A layer of nested factors, and the dense layer it stands for."""

import math

import torch
from torch import Tensor, nn

from adlrns_models._dynamic_factors import Factors, effective, nested_svd
from adlrns_models._factorize import Factorization, factorize
from fd_sketch import CovarianceSketch


class FactoredLayer(nn.Module):
    """Holds ``down [R, ...]``, ``up [m, R]`` and, unless the layer has no bias, one for each."""

    down: nn.Parameter
    up: nn.Parameter
    inner_bias: nn.Parameter | None
    outer_bias: nn.Parameter | None

    def __init__(self, factors: Factors, weight_shape: tuple[int, ...]):
        super().__init__()
        self.weight_shape, self.max_rank = weight_shape, factors.up.shape[1]
        self.down = nn.Parameter(factors.down)
        self.up = nn.Parameter(factors.up)
        for name in ("inner_bias", "outer_bias"):
            value = getattr(factors, name)
            self.register_parameter(name, None if value is None else nn.Parameter(value))

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and columns ``(m, n)`` of the weight as a matrix."""
        return self.weight_shape[0], math.prod(self.weight_shape[1:])

    @property
    def weight(self) -> Tensor:
        """The dense weight ``up @ down`` in the layer's own shape, at full rank."""
        return effective(self.factors)[0].reshape(self.weight_shape)

    @property
    def bias(self) -> Tensor | None:
        """The bias that belongs to :attr:`weight`."""
        return effective(self.factors)[1]

    @property
    def factors(self) -> Factors:
        """The parameters, rows of ``down`` flattened."""
        return Factors(self.down.flatten(1), self.up, self.inner_bias, self.outer_bias)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ``(U, sigma, V)`` with ``up @ down = U @ diag(sigma) @ V.T``, sigma falling."""
        return nested_svd(self.down.flatten(1), self.up)

    @torch.no_grad()
    def refit_(self, sketch: CovarianceSketch | None = None) -> Factorization:
        """Rewrites the factors so that every prefix is the best of its rank; returns them.

        The function at full rank stays, columns of ``up`` are orthonormal again. Moments that an
        optimizer keeps for the old factors mean nothing for the new ones.

        Args:
            sketch: of the input rows (patches); None means white inputs.
        """
        with torch.autocast(self.up.device.type, enabled=False):
            weight, bias = effective(self.factors)
            found = factorize(weight, bias, sketch, max_rank=self.max_rank)
        if self.outer_bias is None and bool(found.bias.any()):
            raise ValueError("sketch must not be centred for a layer without a bias, got one")
        self.down.copy_(found.down.reshape(self.down.shape))
        self.up.copy_(found.up)
        if self.inner_bias is not None and self.outer_bias is not None:
            self.inner_bias.copy_(found.inner_bias)
            self.outer_bias.copy_(found.bias)
        return found
