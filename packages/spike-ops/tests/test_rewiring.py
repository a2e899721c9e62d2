"""Synapses that come and go while a layer learns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops.nn import Linear, SparseSynapse
from spike_ops.structure import dale_

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "decay": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


def mask_of(seed: int) -> Tensor:
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(seed)) < 0.5


def learn(layer: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(4, 6)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("row", OPTIMIZERS)
def test_synapses_that_are_removed_stay_away_and_come_back_at_zero(row: str) -> None:
    layer = SparseSynapse(6, 5, connection=(before := mask_of(1)))
    optimizer = OPTIMIZERS[row](layer.parameters())
    learn(layer, optimizer)
    layer.rewire(after := mask_of(2))
    learn(layer, optimizer)
    gone = before & ~after
    assert gone.any()
    assert layer.connected[~after].count_nonzero() == 0
    assert layer.state_dict()["weight"][~after].count_nonzero() == 0
    rows = torch.eye(6) @ layer.connected.t() + layer.bias
    torch.testing.assert_close(layer(torch.eye(6)), rows)
    kept = layer.connected.detach()
    layer.rewire(before)
    assert torch.equal(layer.weight, kept * (before & after))


@pytest.mark.parametrize("connection", [None, mask_of(3)])
def test_new_synapses_begin_at_zero_whatever_was_stored(connection: Tensor | None) -> None:
    layer = SparseSynapse(6, 5, connection=connection)
    nn.init.ones_(layer.weight)
    layer.rewire(new := mask_of(4))
    expected = new if connection is None else new & connection
    assert torch.equal(layer.connected, expected.float())


def test_what_is_saved_of_a_masked_layer_is_what_it_computes_with() -> None:
    layer, other = (Linear(6, 5, mask=mask_of(seed)) for seed in (1, 2))
    nn.init.ones_(layer.weight)
    saved = layer.state_dict()["weight"]
    assert torch.equal(saved, mask_of(1).float())
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(torch.eye(6)), layer(torch.eye(6)))
    assert layer.state_dict(keep_vars=True)["weight"] is layer.weight


def test_a_weight_that_is_made_of_another_is_saved_as_that() -> None:
    layer = Linear(6, 5, mask=mask_of(1))
    dale_(layer, torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0]))
    other = Linear(6, 5, mask=mask_of(2))
    dale_(other, torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0]))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.connected, layer.connected)
