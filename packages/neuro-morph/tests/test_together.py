from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import GrowthRefusedError, Morpher, Together, Widen
from neuro_morph._cooling import cooling
from neuro_morph._trial import train


def run(**settings: Any) -> Morpher:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    ).double()
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(8, 4, dtype=torch.float64)
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return Morpher(model, optimizer, example_inputs=x, capture="dispatch", **settings)


def state(morpher: Morpher) -> list[Any]:
    held = morpher.optimizers[0].state
    moments = [held[p]["exp_avg"] for p in morpher.model.parameters()]
    tensors = [t.clone() for t in (*morpher.model.state_dict().values(), *moments)]
    return [*tensors, morpher.generator.get_state(), torch.get_rng_state()]


BOTH = Together((Widen("0", by=3), Widen("2", by=5)))


def test_edits_made_together_are_those_made_one_after_another() -> None:
    together, apart = run(), run()
    before = together.probe()
    event = together.apply(BOTH, reason="a test")
    for edit in BOTH.edits:
        apart.apply(edit, reason="a test")
    assert all(torch.equal(a, b) for a, b in zip(state(together), state(apart), strict=True))
    assert [(e.op, e.target, e.reason) for e in together.events] == [
        ("widen", "0", "a test"),
        ("widen", "2", "a test"),
    ]
    assert (event.op, event.target) == ("together", "0, 2")
    assert event.parameters_added == sum(e.parameters_added for e in together.events)
    assert event.flops_before == together.events[0].flops_before
    assert [each["target"] for each in event.detail["edits"]] == ["0", "2"]
    assert len(together.spec.steps) == 2
    assert all(torch.allclose(before[k], v, rtol=1e-12) for k, v in together.probe().items())


@pytest.mark.parametrize("last", [Widen("4", by=1), Widen("nowhere", by=1)])
def test_if_one_is_refused_none_is_made(last: Widen, tmp_path: Path) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    before, identities = state(morpher), [id(p) for p in morpher.model.parameters()]
    graph = morpher.graph
    with pytest.raises((GrowthRefusedError, KeyError)):
        morpher.apply(Together((Widen("0", by=3), Widen("2", by=2), last)))
    assert all(torch.equal(a, b) for a, b in zip(state(morpher), before, strict=True))
    assert [id(p) for p in morpher.model.parameters()] == identities
    assert morpher.model[0].out_features == 6
    assert morpher.graph is graph
    assert not morpher.spec.steps
    refused = [(e.id, e.target, e.decision) for e in morpher.events]
    assert refused == ([(0, "4", "refused")] if last.group == "4" else [])
    lines = (tmp_path / "log.jsonl").read_text() if morpher.events else ""
    assert lines.count("\n") == len(morpher.events)
    morpher.apply(BOTH)
    assert morpher.model[2].out_features == 10


def test_every_edit_is_logged_once(tmp_path: Path) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    morpher.apply(BOTH)
    assert (tmp_path / "log.jsonl").read_text().count("committed") == 2


def test_together_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="edits must hold at least one edit"):
        Together(())


def test_learning_rates_fall_in_a_straight_line_and_come_back() -> None:
    morpher = run()
    optimizer, seen = morpher.optimizers[0], []
    optimizer.param_groups[0]["lr"] = 0.4
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [], "lr": 0.1})

    def step(model: nn.Module, batch: Any) -> None:
        seen.append([group["lr"] for group in optimizer.param_groups])

    train(morpher, [None] * 4, lambda model, batch: torch.zeros(()), step, cool=True)
    expected = [[0.4 * k, 0.1 * k] for k in (1.0, 0.75, 0.5, 0.25)]
    assert torch.allclose(torch.tensor(seen), torch.tensor(expected))
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1]


def test_learning_rates_come_back_after_an_error_and_may_be_tensors() -> None:
    weight = nn.Parameter(torch.zeros(1))
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([weight], rate)

    def fail() -> None:
        with cooling([optimizer]) as set_rates:
            set_rates(0.5)
            assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.1)
