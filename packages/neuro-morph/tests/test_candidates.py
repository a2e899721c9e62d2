"""What could be grown next: wider groups, new layers, new connections, within a budget."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    Budget,
    Connect,
    Deepen,
    Duplicate,
    Morpher,
    Tournament,
    Widen,
    collect_statistics,
)
from neuro_morph._candidates_layers import candidates, connections, deepenings
from neuro_morph._smaller import fitting
from neuro_morph.testing import architectures


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.ReLU(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square()


def run(model: nn.Module) -> tuple[Morpher, Any, list[Any]]:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    batches = [(part, part[:, :2].prod(1, keepdim=True).expand(-1, 2)) for part in x.split(16)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    morpher = Morpher(model, optimizer, example_inputs=x[:2], capture="dispatch")
    held = collect_statistics(
        model, morpher.graph, batches, lambda m, b: loss_fn(m, b).mean(), parts=["gains"]
    )
    return morpher, held, batches


def test_the_kinds_take_turns_and_each_of_them_can_be_grown() -> None:
    morpher, held, batches = run(net())
    found = candidates(morpher, held, loss_fn, batches, most=7)
    assert [edit.op for edit in found[:3]] == ["widen", "deepen", "connect"]
    result = Tournament(morpher, loss_fn, batches[:3], batches[3:], steps=3).run(found)
    assert [trial.refused for trial in result.trials] == [None] * len(found)
    only = candidates(morpher, held, loss_fn, batches, kinds=["connect", "widen"], most=2)
    assert [edit.op for edit in only] == ["connect", "widen"]
    for kinds in ([], ["shrink"]):
        with pytest.raises(ValueError, match="kinds must be among widen, deepen, connect"):
            candidates(morpher, held, loss_fn, batches, kinds=kinds)


def test_layers_go_behind_the_relu_or_the_block_that_follows() -> None:
    morpher, held, _ = run(net())
    assert {edit.after for edit in deepenings(morpher.model, held)} == {"1", "3", "5"}
    torch.manual_seed(0)
    model, inputs = architectures()["vit"]()
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    seen = collect_statistics(model, morpher.graph, [(inputs, 0)], lambda m, b: m(b[0]).mean())
    places = [edit.after for edit in deepenings(model, seen)]
    assert places
    event = morpher.apply(Deepen(places[0]))
    assert event.parameters_added > 0


def test_connections_are_those_that_gain_the_most_and_leave_the_model_alone() -> None:
    model = net()
    model.insert(1, nn.BatchNorm1d(6))
    morpher, held, batches = run(model.train())
    random = torch.get_rng_state()
    state = {k: v.clone() for k, v in morpher.model.state_dict().items()}
    found = connections(morpher, held, loss_fn, batches[0])
    assert found
    assert all(isinstance(edit, Connect) for edit in found)
    after = morpher.model.state_dict()
    assert all(torch.equal(state[k], after[k]) for k in state)
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in morpher.model.parameters())

    def twice(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - model(batch[0] * 2)).square()

    assert connections(morpher, held, twice, batches[0]) == []


@pytest.mark.parametrize("limit", ["parameters", "flops"])
def test_a_widening_over_a_budget_is_made_as_much_smaller_as_it_has_to_be(limit: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
    morpher = Morpher(model, example_inputs=torch.ones(1, 4), capture="dispatch")
    now = Budget().measure(morpher)
    room = getattr(now, limit) + (50 if limit == "parameters" else 100)
    budget = Budget(**{limit: room})
    best = fitting(morpher, Widen("0", by=40), budget)
    assert isinstance(best, Widen)
    assert Budget().measure(morpher) == now
    assert morpher.events == []
    morpher.apply(best)
    assert budget.overspent(budget.measure(morpher)) is None
    one = 11 if limit == "parameters" else 20
    assert room - getattr(Budget().measure(morpher), limit) < one
    assert fitting(morpher, Widen("0", by=5), budget) is None
    assert fitting(morpher, Widen("0", by=5), Budget(latency_s=1e-9)) == Widen("0", by=5)
    whole = Widen("0", by=len(model[0].weight), init=Duplicate())
    assert fitting(morpher, whole, budget) is None


def test_what_a_budget_has_no_room_for_makes_way_for_what_it_has() -> None:
    morpher, held, batches = run(net())
    room = Budget().measure(morpher).parameters + 20
    found = candidates(morpher, held, loss_fn, batches, growth=2.0, budget=Budget(parameters=room))
    assert found
    for edit in found:
        kept = morpher.snapshot()
        morpher.apply(edit)
        assert Budget().measure(morpher).parameters <= room
        kept.restore()
        morpher._graph = None
