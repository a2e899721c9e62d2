"""A convolution whose rank can move."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._checks import check_kind
from adlrns_models._config import AdaptConfig
from adlrns_models._factorize import Factorization
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._linear import factorize_weight
from adlrns_models._patches import Window, conv_arguments
from fd_sketch import CovarianceSketch
from lowrank_kernels import lowrank_conv2d


class AdaptiveConv2d(AdaptiveLayer):
    """A drop-in ``nn.Conv2d`` (``groups=1``) of adaptive rank.

    The weight ``[out, in * kh * kw]`` is factorised over patches: a ``kh x kw`` convolution to
    ``r`` channels, then a ``1 x 1`` convolution.

    Args:
        conv: the layer to replace; its weight is factorised, it is not kept.
        config: how the rank adapts; ``config.r_max`` bounds the directions kept.
        sketch: a sketch of the layer's input patches ``[*, in * kh * kw]``, or None.
        factors: a factorisation of the layer that is already at hand; ``sketch`` is then unused.

    Shapes: ``[N, in, H, W]`` to ``[N, out, H', W']``; ``down [R, in, kh, kw]``, ``up [out, R]``,
    ``inner_bias [R]``, ``outer_bias [out]``.

    Raises:
        TypeError: if ``conv`` is not an ``nn.Conv2d``.
        ValueError: if it has ``groups != 1``, or its weight is empty or not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import AdaptConfig, AdaptiveConv2d
        >>> layer = AdaptiveConv2d(torch.nn.Conv2d(3, 8, 3, padding=1), AdaptConfig(r_min=1))
        >>> layer.set_rank(4)
        >>> layer(torch.randn(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        config: AdaptConfig | None = None,
        *,
        sketch: CovarianceSketch | None = None,
        factors: Factorization | None = None,
    ):
        self._check(conv)
        config = config or AdaptConfig()
        factors = factors or factorize_weight(conv, config, sketch)
        super().__init__(factors, tuple(conv.weight.shape), config)
        self.window = Window.of(conv)
        self.conv_arguments = conv_arguments(conv)
        self._take_flags(conv)

    @staticmethod
    def _check(conv: nn.Conv2d) -> None:
        check_kind("conv", conv, nn.Conv2d)
        if conv.groups != 1:
            groups = conv.groups
            raise ValueError(
                f"conv must have groups=1, got groups={groups}: use AdaptiveGroupedConv2d"
            )

    def _product(self, x: Tensor, rank: int | Tensor) -> Tensor:
        return lowrank_conv2d(
            self.window.pad(x),
            self.down,
            self.up,
            self.outer_bias,
            rank,
            inner_bias=self.inner_bias,
            **self.window.arguments(),
        )

    def _prepare(self, rank: int, *, packed: bool = False) -> Callable[[Tensor], Tensor]:
        del packed  # a convolution gains nothing by it
        return partial(self._product, rank=rank)

    def _prepare_dense(self, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
        options = self.window.arguments()
        return lambda x: F.conv2d(self.window.pad(x), weight, bias, **options)

    def _takes(self, x: Tensor) -> bool:
        fits = x.ndim in (3, 4) and x.shape[-3] == self.weight_shape[1] * self.groups
        return fits and self.window.fits(x)

    def _row_count(self, x: Tensor) -> int:
        return self.window.count(x)

    def _take_rows(self, x: Tensor, numbers: Tensor) -> Tensor:
        return self.window.patches(x, numbers)
