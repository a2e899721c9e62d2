"""A linear layer whose rank can move."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._checks import check_kind
from adlrns_models._config import AdaptConfig
from adlrns_models._factorize import Factorization
from adlrns_models._groups import factorize_layer, stacked
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._linalg import on_backend
from fd_sketch import CovarianceSketch
from lowrank_kernels import lowrank_linear, prefix


class AdaptiveLinear(AdaptiveLayer):
    """A drop-in ``nn.Linear`` of adaptive rank.

    Args:
        linear: the layer to replace; its weight is factorised, it is not kept.
        config: how the rank adapts; ``config.r_max`` bounds the directions kept.
        sketch: a sketch of the layer's inputs; None orders directions by plain SVD until
            :meth:`adapt_now` re-fits them to the inputs seen.
        factors: a factorisation of the layer that is already at hand; ``sketch`` is then unused.

    Shapes: ``[..., in_features]`` to ``[..., out_features]``; ``down [R, in_features]``,
    ``up [out_features, R]``, ``inner_bias [R]``, ``outer_bias [out_features]``.

    Raises:
        TypeError: if ``linear`` is not an ``nn.Linear``.
        ValueError: if its weight is empty or not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import AdaptConfig, AdaptiveLinear
        >>> linear = torch.nn.Linear(8, 6)
        >>> layer = AdaptiveLinear(linear, AdaptConfig(r_min=1))
        >>> x = torch.randn(3, 8)
        >>> bool(torch.allclose(layer(x), linear(x), atol=1e-5))
        True
        >>> layer.set_rank(2)
        >>> layer(x).shape
        torch.Size([3, 6])
    """

    def __init__(
        self,
        linear: nn.Linear,
        config: AdaptConfig | None = None,
        *,
        sketch: CovarianceSketch | None = None,
        factors: Factorization | None = None,
    ):
        check_kind("linear", linear, nn.Linear)
        config = config or AdaptConfig()
        factors = factors or factorize_weight(linear, config, sketch)
        super().__init__(factors, tuple(linear.weight.shape), config)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._take_flags(linear)

    def _product(self, x: Tensor, rank: int | Tensor) -> Tensor:
        factors, inner = (self.down, self.up, self.outer_bias), self.inner_bias
        return lowrank_linear(x, *factors, rank, inner_bias=inner)

    def _prepare(self, rank: int, *, packed: bool = False) -> Callable[[Tensor], Tensor]:
        factors, inner = (self.down, self.up, self.outer_bias), self.inner_bias
        return prefix(*factors, rank, inner_bias=inner, packed=packed)

    def _prepare_dense(self, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(F.linear, weight=weight, bias=bias)

    def _takes(self, x: Tensor) -> bool:
        return x.ndim > 0 and x.shape[-1] == self.in_features

    def _row_count(self, x: Tensor) -> int:
        return x.shape[:-1].numel()

    def _take_rows(self, x: Tensor, numbers: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])[numbers.to(x.device)]


def factorize_weight(
    layer: nn.Linear | nn.Conv2d, config: AdaptConfig, sketch: CovarianceSketch | None
) -> Factorization:
    """Returns the factors of a layer's weight, rows of ``down`` flattened, on its own device."""
    home = layer.weight.device

    def work(device: torch.device) -> Factorization:
        found = factorize_layer(layer, sketch, max_rank=config.r_max, device=device)
        return stacked(found).to(home)

    return on_backend(config.svd_backend, home, work)
