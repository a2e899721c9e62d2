"""A convolution of several groups whose rank can move."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._checks import check_kind
from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._groups import parts
from adlrns_models._prefix_loss import prefix_loss
from adlrns_models._serving import rank_here
from lowrank_kernels import lowrank_conv2d


class AdaptiveGroupedConv2d(AdaptiveConv2d):
    """A drop-in ``nn.Conv2d`` of several groups, all of one adaptive rank.

    Each group has factors of its own, ``[out / groups, r]`` and ``[r, in / groups * kh * kw]``;
    all run in two grouped convolutions. One sketch watches the inputs of all groups.

    Args:
        conv: the layer to replace.
        config: as for :class:`AdaptiveConv2d`; ``r_min`` and ``r_max`` bound the rank of a group.
        sketch: a sketch of the layer's input patches ``[*, in * kh * kw]``, or None.
        factors: a factorisation that is already at hand, its parts stacked over groups.

    Shapes: ``[N, in, H, W]`` to ``[N, out, H', W']``; ``down [groups, R, in / groups, kh, kw]``,
    ``up [groups, out / groups, R]``, ``inner_bias [groups, R]``, ``outer_bias [out]``.

    Raises:
        TypeError: if ``conv`` is not an ``nn.Conv2d``.
        ValueError: if it has one group, or its weight is empty or not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import AdaptConfig, AdaptiveGroupedConv2d
        >>> conv = torch.nn.Conv2d(8, 16, 3, groups=2)
        >>> layer = AdaptiveGroupedConv2d(conv, AdaptConfig(r_min=1))
        >>> layer.max_rank
        8
        >>> layer.set_rank(2)
        >>> layer(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 3, 3])
    """

    @staticmethod
    def _check(conv: nn.Conv2d) -> None:
        check_kind("conv", conv, nn.Conv2d)
        if conv.groups == 1:
            raise ValueError("conv must have several groups, got groups=1: use AdaptiveConv2d")

    def _product(self, x: Tensor, rank: int | Tensor) -> Tensor:
        return lowrank_conv2d(
            self.window.pad(x),
            self.down,
            self.up,
            self.outer_bias,
            rank,
            inner_bias=self.inner_bias,
            groups=self.groups,
            **self.window.arguments(),
        )

    def _prepare_dense(self, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
        options = {**self.window.arguments(), "groups": self.groups}
        return lambda x: F.conv2d(self.window.pad(x), weight, bias, **options)

    def effective_weight(self, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the dense weight ``[out, in / groups, kh, kw]`` and bias of ``rank``."""
        r = rank_here(self) if rank is None else self._check_rank(rank)
        up, down = self.up[:, :, :r], self.down[:, :r].flatten(2)
        weight = (up @ down).reshape(self.weight_shape)
        inner = (up @ self.inner_bias[:, :r, None]).flatten()
        return weight, self.outer_bias + inner

    def prefix_loss(self) -> Tensor:
        """Returns the estimated loss ``[R + 1]`` at each rank, summed over the groups."""
        with torch.no_grad(), torch.autocast(self.down.device.type, enabled=False):
            rows = self._watch.recent.to(self.down.device)
            losses = [
                prefix_loss(p.down.flatten(1), p.up, p.inner_bias, rows[:, p.columns])
                for p in parts(self)
            ]
            return torch.stack(losses).sum(0)
