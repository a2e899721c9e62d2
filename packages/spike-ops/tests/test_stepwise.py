"""Layers at every step: what may stand in `Stepwise`, and what may not."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from spike_ops.memory import SLTT
from spike_ops.neuron import IF, LIF, PSN, IFNode, LIFNode, SlidingPSN
from spike_ops.nn import (
    BatchNorm2d,
    MembraneBatchNormLIF,
    Stepwise,
    TemporalEffectiveBatchNorm,
    TimeBatchNorm,
)

OVER_TIME: dict[str, Callable[[], nn.Module]] = {
    "IF": IF,
    "LIF": LIF,
    "PSN": lambda: PSN(4),
    "SlidingPSN": lambda: SlidingPSN(2),
    "SLTT": lambda: SLTT(LIF()),
    "IFNode": IFNode,
    "TimeBatchNorm": lambda: TimeBatchNorm(3),
    "TemporalEffectiveBatchNorm": lambda: TemporalEffectiveBatchNorm(3, steps=4),
    "MembraneBatchNormLIF": lambda: MembraneBatchNormLIF(3),
}


@pytest.mark.parametrize("row", OVER_TIME)
def test_what_takes_time_itself_stands_behind(row: str) -> None:
    for layer in (OVER_TIME[row](), nn.Sequential(nn.Linear(4, 3), OVER_TIME[row]())):
        with pytest.raises(ValueError, match=f"every step alike, got {row}, which stands behind"):
            Stepwise(layer)


def test_nodes_of_as_many_steps_and_norms_of_batches_may_stand_in_it() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), 2 * torch.randn(5, 2, 4)
    with torch.no_grad():
        expected = LIFNode(T=5)(layer(x).flatten(0, 1)).unflatten(0, (5, 2))
        assert torch.equal(Stepwise(nn.Sequential(layer, LIFNode(T=5)))(x), expected)
    pictures = torch.randn(5, 2, 3, 4, 4)
    torch.testing.assert_close(
        Stepwise(BatchNorm2d(3))(pictures), Stepwise(nn.BatchNorm2d(3))(pictures)
    )


@pytest.mark.parametrize(
    "layer, told",
    [
        (nn.LSTM(3, 3), "LSTM makes tuple of"),
        (nn.GRU(3, 3), "GRU makes tuple of"),
        (nn.Flatten(0), r"Flatten makes \(24,\) of \(8, 3\)"),
        (nn.Sequential(nn.Linear(3, 2), nn.Flatten(0)), r"Sequential makes \(16,\) of"),
    ],
)
def test_a_layer_that_keeps_no_batch_is_named(layer: nn.Module, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Stepwise(layer)(torch.ones(4, 2, 3))
