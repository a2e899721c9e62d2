from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuro_morph import Connect, GrowthRefusedError, Morpher


class Parts(nn.Module):
    """Three layers; the last two are computed again in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.reentrant, self.calls = reentrant, 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.reentrant is None or not self.training:
            return self.tail(x)
        out: Tensor = checkpoint(self.tail, x, use_reentrant=self.reentrant)
        return out

    def tail(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.third(torch.tanh(self.second(x))))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def parts(reentrant: bool | None) -> tuple[Parts, Morpher]:
    torch.manual_seed(0)
    model = Parts(reentrant)
    return model, Morpher(model, example_inputs=X, capture="dispatch")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.train()
    model(X).square().mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_connection_into_what_is_computed_again_is_refused_by_name(reentrant: bool) -> None:
    model, morpher = parts(reentrant)
    before, state = gradients(model), torch.get_rng_state()
    calls = model.calls
    message = "from 'first' to 'third' has nothing to pass on: its source .* in the backward pass"
    with pytest.raises(GrowthRefusedError, match=message):
        morpher.apply(Connect("first", "third"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    after = gradients(model)
    assert sorted(after) == sorted(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.calls > calls  # it is still computed again, as it was


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_connection_within_what_is_computed_again_learns_as_without(reentrant: bool) -> None:
    found = []
    for way in (None, reentrant):
        model, morpher = parts(way)
        morpher.apply(Connect("second", "third"))
        found.append(gradients(model))
    assert float(found[1]["grown.edge_0.adapter.weight"].norm()) > 0
    assert sorted(found[0]) == sorted(found[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


class Alone(nn.Module):
    """Fails in training with fewer than two examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(x)))
        return out


def test_the_rehearsal_leaves_no_trace_and_forbids_nothing_else() -> None:
    model = Alone()
    heard: list[Any] = []
    model.last.weight.register_post_accumulate_grad_hook(heard.append)
    for rows in (1, 5):  # with one, BatchNorm cannot be trained
        morpher = Morpher(model, example_inputs=X[:rows], capture="dispatch")
        before = {name: b.clone() for name, b in model.named_buffers()}
        morpher.apply(Connect("first", "last"))
        assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert heard == []
