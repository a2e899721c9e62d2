"""A convolution that decides its rank at every call."""

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._checks import check_input, check_int, check_kind
from adlrns_models._dynamic import DynamicLayer, DynamicOptions, check_ranks
from adlrns_models._dynamic_budget import Scheduler
from adlrns_models._dynamic_factors import fresh, taken
from adlrns_models._factorize import Factorization, factorize
from adlrns_models._gate import Gate
from adlrns_models._patches import Window, conv_arguments
from fd_sketch import CovarianceSketch
from lowrank_kernels import lowrank_conv2d, lowrank_linear_per_sample
from rank_sched import Cost, PerfEstimator

Pair = tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class DynamicConv2d(DynamicLayer):
    """A drop-in ``nn.Conv2d`` of one group whose rank follows its input and a budget.

    A ``kh x kw`` convolution to ``r`` channels, then a ``1 x 1`` convolution; ``r`` is decided for
    each call or each image.

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: as in ``nn.Conv2d``, like the next four.
        stride: of the kernel.
        padding: a number, a pair, ``"same"`` or ``"valid"``.
        dilation: of the kernel.
        groups: 1.
        r_max: directions of the factors, R.
        r_min: the least rank.
        bias: whether there are an inner and an outer bias.
        padding_mode: as in ``nn.Conv2d``.
        gate: like all that follows, as in :class:`DynamicLinear`.
        granularity: ``"call"`` or ``"sample"``.
        scorer_hidden: width of the scorer of the gates that learn.
        num_gate_blocks: blocks of a block gate.
        scheduler: bounds the rank over time.
        estimator: predicts costs.
        budget_unit: unit of budgets given without one.
        device: of the parameters.
        dtype: of the parameters.

    Shapes: ``[N, in, H, W]`` to ``[N, out, H', W']``; ``down [R, in, kh, kw]``, ``up [out, R]``,
    ``inner_bias [R]``, ``outer_bias [out]``.

    Raises:
        ValueError, TypeError: for a size, rank, gate, granularity or unit that is none.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicConv2d
        >>> layer = DynamicConv2d(3, 16, 3, padding=1, granularity="sample")
        >>> layer(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
        >>> layer.last_rank.shape
        torch.Size([2])
    """

    dim = -3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        r_max: int = 64,
        r_min: int = 4,
        *,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        gate: str | Gate = "spectral",
        granularity: str = "call",
        scorer_hidden: int = 32,
        num_gate_blocks: int = 8,
        scheduler: Scheduler | None = None,
        estimator: PerfEstimator | None = None,
        budget_unit: str = "energy_mj_per_sample",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        check_int("in_channels", in_channels, 1)
        check_int("out_channels", out_channels, 1)
        check_ranks(r_max, r_min)
        conv = nn.Conv2d(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups),
            padding_mode=padding_mode,
            device="meta",
        )
        self._move_like(conv)
        shape = tuple(conv.weight.shape)
        place = {"device": device, "dtype": dtype}
        options = DynamicOptions(
            gate,
            granularity,
            scorer_hidden,
            num_gate_blocks,
            scheduler,
            estimator,
            budget_unit,
        )
        super().__init__(fresh(shape, r_max, bias=bias, place=place), shape, r_min, options)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        *,
        factors: Factorization | None = None,
        sketch: CovarianceSketch | None = None,
        r_max: int | None = None,
        r_min: int = 4,
        **options: Any,
    ) -> Self:
        """Returns a layer that at full rank computes what the factors of ``conv`` do.

        Args:
            conv: its weight is factorised over patches, it is not kept.
            factors: a factorisation at hand; ``sketch`` is then unused.
            sketch: of the layer's patches; None orders directions by plain SVD.
            r_max: directions to keep; None keeps all, and with them the function.
            r_min: the least rank.
            **options: ``gate`` and the keywords after it.

        Raises:
            ValueError, TypeError: as for the class, and for a weight that is not finite.
        """
        check_kind("conv", conv, nn.Conv2d)
        weight = conv.weight.detach().flatten(1)
        size = min(weight.shape) if r_max is None else r_max
        check_ranks(size, min(r_min, size) if r_max is None else r_min)
        bias = None if conv.bias is None else conv.bias.detach()
        layer = cls.__new__(cls)
        layer._move_like(conv)
        found = factors or factorize(weight, bias, sketch, max_rank=size)
        shape = tuple(conv.weight.shape)
        parts = taken(found, shape, size, bias=bias is not None)
        DynamicLayer.__init__(layer, parts, shape, r_min, DynamicOptions(**options))
        return layer.train(conv.training)

    def _move_like(self, conv: nn.Conv2d) -> None:
        if conv.groups != 1:
            raise ValueError(f"groups must be 1, got {conv.groups}")
        self.window, self.conv_arguments = Window.of(conv), conv_arguments(conv)

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.weight_shape[1]

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.weight_shape[0]

    def inner(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Returns channels ``start..stop`` of the first convolution."""
        bias = None if self.inner_bias is None else self.inner_bias[start:stop]
        options = self.window.arguments()
        return F.conv2d(self.window.pad(x), self.down[start:stop], bias, **options)

    def outer(self, z: Tensor) -> Tensor:
        """Returns the second convolution of the first ``r`` channels."""
        return F.conv2d(z, self.up[:, : z.shape[1], None, None], self.outer_bias)

    def outer_at(self, z: Tensor, rank: Tensor) -> Tensor:
        """Returns the second convolution at one rank or at one per sample."""
        c = z.shape[1]
        same = torch.eye(c, dtype=self.up.dtype, device=z.device)
        z, up = z.to(self.up.dtype), self.up[:, :c]  # autocast lowers it again
        if rank.ndim == 0:
            return lowrank_conv2d(z, same[..., None, None], up, self.outer_bias, rank)
        rows = z.movedim(1, -1)
        return lowrank_linear_per_sample(rows, same, up, self.outer_bias, rank).movedim(-1, 1)

    def at_ranks(self, x: Tensor, ranks: Tensor) -> Tensor:
        """Returns the output of a batch at a 0-dim rank, or at ``[N]``, one per image."""
        if ranks.ndim == 0:
            factors, options = (self.down, self.up, self.outer_bias), self.window.arguments()
            padded = self.window.pad(x)
            return lowrank_conv2d(padded, *factors, ranks, inner_bias=self.inner_bias, **options)
        if torch.compiler.is_compiling() or not len(x):
            return self.outer_at(self.inner(x, 0, self.max_rank), ranks)
        parts = []
        for rank in ranks.unique().tolist():
            images = (ranks == rank).nonzero()[:, 0]
            parts.append((images, self.outer(self.inner(x[images], 0, rank))))
        y = torch.cat([part for _, part in parts])
        return torch.empty_like(y).index_copy(0, torch.cat([images for images, _ in parts]), y)

    def run(self, x: Tensor, chosen: Tensor, bias: Tensor | None) -> Tensor:
        """Returns both convolutions with the channels chosen between them."""
        inner = None if self.inner_bias is None else self.inner_bias[chosen]
        z = F.conv2d(self.window.pad(x), self.down[chosen], inner, **self.window.arguments())
        return F.conv2d(z, self.up[:, chosen, None, None], bias)

    def input_energy(self, x: Tensor) -> Tensor:
        """Returns ``[N]`` float64, the squared norm of each image's patches."""
        pixels = x.detach().double().square().sum(1, keepdim=True)
        ones = torch.ones(1, 1, *self.window.size, dtype=pixels.dtype, device=x.device)
        # padding copies pixels or sets zeros, so it may come after squaring
        patches = F.conv2d(self.window.pad(pixels), ones, **self.window.arguments())
        return patches.flatten(1).sum(1)

    def rows(self, x: Tensor, most: int) -> Tensor:
        """Returns at most so many patches ``[k, in * kh * kw]`` of an input, evenly spaced."""
        self._check(x)
        count = self.window.count(x)
        return self.window.patches(x, torch.arange(0, count, max(1, -(-count // most))))

    def cost(self, rank: int | None = None, *, batch: int = 1) -> Cost:
        """Returns the predicted cost of a call on images of the size last seen; None is dense."""
        return self.estimator.conv2d(
            batch,
            self.in_channels,
            self.out_channels,
            self.window.size,
            (self._sample[0], self._sample[1]),
            rank=rank,
            stride=self.window.stride,
            dilation=self.window.dilation,
            bias=self.outer_bias is not None,
            dtype_bytes=self.up.element_size(),
        )

    @property
    def rows_per_sample(self) -> int:
        """Positions of one image of the size last seen; 1 before the first call."""
        return self._sample[2]

    def row_count(self, x: Tensor) -> int:
        """Returns how many positions a batch has."""
        return self.window.count(x)

    def _check(self, x: Tensor) -> None:
        check_input("input", x, self.up)
        c = self.in_channels
        if x.ndim not in (3, 4) or x.shape[-3] != c or not self.window.fits(x):
            raise ValueError(
                f"input must be [N, {c}, H, W] or [{c}, H, W] and as large as the kernel, "
                f"got {list(x.shape)}"
            )

    def _is_batch(self, x: Tensor) -> bool:
        return x.ndim == 4

    def _sample_of(self, x: Tensor) -> tuple[int, ...]:
        left, right, top, bottom = self.window.padding
        height, width = x.shape[-2] + top + bottom, x.shape[-1] + left + right
        return height, width, math.prod(self.window._grid(x))

    def _smallest_sample(self) -> tuple[int, ...]:
        sizes = zip(self.window.size, self.window.dilation, strict=True)
        height, width = ((k - 1) * step + 1 for k, step in sizes)
        return height, width, 1
