"""Where the reference nets get their layers: dynamic ones, or plain ones for a baseline."""

from typing import Any

from torch import nn

from adlrns_models._checks import check_bool, check_int
from adlrns_models._dynamic_conv import DynamicConv2d
from adlrns_models._dynamic_linear import DynamicLinear


class Layers:
    """Makes the inner layers of a net, all by the same rules.

    Args:
        dense: plain ``nn.Linear`` and ``nn.Conv2d``, the baseline.
        r_max: largest rank; at most the break-even rank ``m n / (m + n)`` of a layer, beyond which
            two factors cost more than its dense weight.
        r_min: smallest rank, at most the largest.
        options: further keywords of :class:`DynamicLinear` and :class:`DynamicConv2d`.

    A gate that is an object would serve, and be trained by, all layers at once; give its name.
    """

    def __init__(self, *, dense: bool = False, r_max: int = 64, r_min: int = 4, **options: Any):
        self.dense = check_bool("dense", dense)
        self.r_max = check_int("r_max", r_max, 1)
        self.r_min = check_int("r_min", r_min, 1, r_max)
        if isinstance(options.get("gate"), nn.Module):
            raise TypeError("gate must be the name of a gate, so that each layer gets its own")
        self.options = options

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """Returns a linear layer."""
        if self.dense:
            return nn.Linear(in_features, out_features)
        ranks = self._ranks(out_features, in_features)
        return DynamicLinear(in_features, out_features, **ranks, **self.options)

    def conv(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """Returns a convolution of 3 x 3 that keeps the size, but for the stride."""
        size: dict[str, Any] = {"kernel_size": 3, "stride": stride, "padding": 1}
        if self.dense:
            return nn.Conv2d(in_channels, out_channels, **size)
        ranks = self._ranks(out_channels, 9 * in_channels)
        return DynamicConv2d(in_channels, out_channels, **size, **ranks, **self.options)

    def _ranks(self, m: int, n: int) -> dict[str, Any]:
        r_max = min(self.r_max, max(1, m * n // (m + n)))
        return {"r_max": r_max, "r_min": min(self.r_min, r_max)}
