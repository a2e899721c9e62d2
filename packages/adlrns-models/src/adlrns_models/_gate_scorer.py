"""What gates that learn look at, and the small network that looks."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adlrns_models._checks import check_int
from adlrns_models._gate_energy import rows_of

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer

GROUPS = 4
_TINY = 1e-30


def features(layer: "DynamicLayer", x: Tensor, h: Tensor) -> Tensor:
    """Returns ``[N, GROUPS + 2]`` cheap statistics of each sample, without a graph.

    The logarithm of the mean square of ``x``; that of the energy of ``h`` relative to it; the
    shares of that energy in ``GROUPS`` groups of consecutive directions. nan where a sample is.

    Args:
        layer: whose inner values ``h`` are.
        x: a batch.
        h: the values of its first directions.
    """
    energy, rows = layer.input_energy(x), rows_of(layer, h)
    parts = rows.square().sum(1)  # [N, k]
    edges = [round(i * parts.shape[1] / GROUPS) for i in range(GROUPS + 1)]
    groups = torch.stack([parts[:, a:b].sum(1) for a, b in pairwise(edges)], 1)
    known = groups.sum(1)
    numbers = max(1, rows.shape[1]) * layer.sizes[1]
    scale = torch.log(energy / numbers + _TINY) / 10  # about -1..1, all but extreme inputs
    gain = torch.log((known + _TINY) / (energy + _TINY)) / 2
    return torch.cat([scale[:, None], gain[:, None], groups / (known[:, None] + _TINY)], 1)


class Scorer(nn.Module):
    """Two small layers from :func:`features` to one number per choice.

    The last weights begin at zero: until it is trained the scorer says what its bias says.

    Args:
        choices: numbers to give.
        hidden: width between.
        like: a parameter whose device the scorer shares.
    """

    def __init__(self, choices: int, hidden: int, like: Tensor):
        super().__init__()
        check_int("scorer_hidden", hidden, 1)
        dtype = torch.promote_types(like.dtype, torch.float32)
        place: dict[str, Any] = {"device": like.device, "dtype": dtype}
        self.first = nn.Linear(GROUPS + 2, hidden, **place)
        self.last = nn.Linear(hidden, choices, **place)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, seen: Tensor, *, together: bool) -> Tensor:
        """Returns ``[N, choices]``, or the mean ``[1, choices]`` of samples that are numbers."""
        seen = seen.to(self.first.weight.dtype)
        good = seen.isfinite().all(1, keepdim=True)
        with torch.autocast(seen.device.type, enabled=False):
            scores = self.last(torch.relu(self.first(torch.where(good, seen, 0.0))))
        if not together:
            return scores
        return torch.where(good, scores, 0.0).sum(0, keepdim=True) / good.sum().clamp(min=1)

    @property
    def flops(self) -> int:
        """Multiply-adds of one sample."""
        return self.first.weight.numel() + self.last.weight.numel()


def spread(weights: Tensor, layer: "DynamicLayer", z: Tensor) -> Tensor:
    """Returns ``weights [N or 1, R]`` shaped so that they multiply inner values."""
    shape = [len(weights)] + [1] * (z.ndim - 1)
    shape[layer.dim] = weights.shape[1]
    return weights.to(z.dtype).reshape(shape)
