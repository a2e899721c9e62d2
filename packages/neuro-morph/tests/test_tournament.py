import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    AddHeads,
    Budget,
    Connect,
    Deepen,
    Duplicate,
    GrowthRefusedError,
    Morpher,
    Together,
    Widen,
)
from neuro_morph._paired import paired_gain
from neuro_morph._tournament import Tournament


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().flatten(1).mean(1)


def narrow(seed: int = 0, **settings: Any) -> tuple[Morpher, list[Any], list[Any]]:
    """A net whose second layer holds two units, on a task that needs more."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(2, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )
    x = torch.randn(640, 4)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), torch.sin(2 * x[:, 3])], 1)
    batches = list(zip(x.split(64), y.split(64), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    morpher = Morpher(model, optimizer, example_inputs=x[:2], capture="dispatch", **settings)
    for k in range(200):
        optimizer.zero_grad()
        loss_fn(model, batches[k % 8]).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return morpher, batches[:8], batches[8:]


def everything(morpher: Morpher) -> dict[str, Any]:
    optimizer = morpher.optimizers[0]
    return copy.deepcopy(
        {
            "model": dict(morpher.model.state_dict()),
            "state": dict(optimizer.state_dict()["state"]),
            "random": torch.get_rng_state(),
            "numbers": morpher.generator.get_state(),
            "spec": len(morpher.spec.steps),
            "modes": [m.training for m in morpher.model.modules()],
        }
    )


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return bool(first == second)


CANDIDATES = [Widen("0", by=4), Widen("2", by=4), Widen("5", by=4)]


def test_the_layer_that_is_too_narrow_wins_and_the_rest_is_noted(tmp_path: Path) -> None:
    morpher, batches, validation = narrow(log=tmp_path / "events.jsonl")
    result = Tournament(morpher, loss_fn, batches, validation, steps=150).run(CANDIDATES)
    assert result.winner is not None
    assert result.winner.edit.target == "2"
    assert result.control < result.before
    assert len(morpher.model[2].weight) == 6
    decisions = [(e.target, e.decision) for e in morpher.events]
    assert decisions == [("0", "rolled back"), ("5", "rolled back"), ("2", "committed")]
    assert [e.id for e in morpher.events] == [0, 1, 2]
    assert (tmp_path / "events.jsonl").read_text().count("\n") == 3
    assert all(e.gain is not None for e in morpher.events[:2])


def test_a_run_that_keeps_nothing_is_as_it_was_bit_for_bit() -> None:
    morpher, batches, validation = narrow()
    before, groups = everything(morpher), [g.id for g in morpher.graph]
    tournament = Tournament(morpher, loss_fn, batches, validation, steps=20, min_gain=1e3)
    result = tournament.run(CANDIDATES)
    assert result.winner is None
    assert result.event is None
    assert same(everything(morpher), before)
    assert [g.id for g in morpher.graph] == groups
    assert all(p.grad is None for p in morpher.model.parameters())


def test_the_winner_is_what_a_fresh_run_of_it_gives() -> None:
    morpher, batches, validation = narrow()
    result = Tournament(morpher, loss_fn, batches, validation, steps=60, per=None).run(CANDIDATES)
    assert result.winner is not None
    fresh = narrow()[0]
    fresh.apply(result.winner.edit)
    assert same(everything(fresh), everything(morpher))


@pytest.mark.parametrize("cool", [True, False])
def test_a_trial_is_what_training_after_that_growth_gives(cool: bool) -> None:
    morpher, batches, validation = narrow()
    tournament = Tournament(
        morpher, loss_fn, batches, validation, steps=8, per=None, cool=cool, min_gain=1e3
    )
    result = tournament.run(CANDIDATES)
    assert morpher.optimizers[0].param_groups[0]["lr"] == 3e-3
    fresh = narrow()[0]
    means = []
    for grows in (True, False):
        run = narrow()[0] if not grows else fresh
        if grows:
            run.apply(CANDIDATES[0])
        run.model.train()
        for k, batch in enumerate(batches):
            run.optimizers[0].param_groups[0]["lr"] = 3e-3 * (1 - k / 8 if cool else 1)
            run.optimizers[0].zero_grad()
            loss_fn(run.model, batch).mean().backward()
            run.optimizers[0].step()
        run.model.eval()
        with torch.no_grad():
            means.append(
                float(torch.cat([loss_fn(run.model, b) for b in validation]).double().mean())
            )
    assert result.control == pytest.approx(means[1], abs=1e-12)
    gain = result.trials[0].gain
    assert gain is not None
    assert gain.mean == pytest.approx(means[1] - means[0], abs=1e-9)


def test_losses_after_trials_depend_less_on_the_order_of_batches_where_the_rates_fall() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    x = torch.randn(768, 6)
    pairs = list(zip(x.split(8), (x[:, :1] + torch.randn(768, 1)).split(8), strict=True))
    morpher = Morpher(model, torch.optim.SGD(model.parameters(), 0.1), example_inputs=x[:1])
    spreads = {}
    for cool in (True, False):
        found = []
        for k in range(10):
            order = [pairs[j] for j in torch.randperm(64, generator=_seeded(k)).tolist()]
            tried = Tournament(morpher, loss_fn, order, pairs[64:], steps=64, cool=cool)
            found.append(float(tried._averaged(None).mean()))
        spreads[cool] = float(torch.tensor(found).std())
    assert spreads[True] < 0.5 * spreads[False]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_helps_on_the_training_batches_alone_is_not_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 2), nn.ReLU(), nn.Linear(2, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    x, noise = torch.randn(32, 20), torch.randn(32, 1)
    batches, other = [(x, noise)], [(torch.randn(64, 20), torch.randn(64, 1))]
    morpher = Morpher(model, optimizer, example_inputs=x[:1], capture="dispatch")
    wide = [Widen("0", by=32)]
    own = Tournament(morpher, loss_fn, batches, batches, steps=100, min_gain=1e3).run(wide)
    assert own.trials[0].gain is not None
    assert own.trials[0].gain.mean > 0.01  # what the training batch would say
    assert Tournament(morpher, loss_fn, batches, other, steps=100).run(wide).winner is None


def test_refused_candidates_are_named_and_the_others_go_on() -> None:
    morpher, batches, validation = narrow()
    tournament = Tournament(morpher, loss_fn, batches, validation, steps=60)
    result = tournament.run([Widen("7", by=1), Widen("2", by=4)])
    assert "the model's output" in str(result.trials[0].refused)
    assert result.winner is result.trials[1]


MISNAMED: list[tuple[Any, str]] = [
    (Widen("nothing", by=1), "group must be one of"),
    (Together((Widen("nothing", by=1), Widen("2", by=1))), "group must be one of"),
    (Deepen("nothing"), "after must be the path of a module"),
    (Connect("nothing", "2"), "source must be the path of a module"),
    (Connect("2", "nothing"), "target must be the path of a module"),
    (AddHeads("nothing", by=1), "layer must be the path of a module or a group"),
    ("2", "candidates must be a list of edits, got str in it"),
]


@pytest.mark.parametrize("edit, match", MISNAMED)
def test_a_name_that_the_model_does_not_have_is_an_error_before_anything_is_trained(
    edit: Any, match: str
) -> None:
    morpher, batches, validation = narrow()

    def step(model: nn.Module, batch: Any) -> None:
        raise AssertionError("it was trained")

    tournament = Tournament(morpher, loss_fn, batches, validation, step_fn=step)
    with pytest.raises((KeyError, TypeError, ValueError), match=match):
        tournament.run([Widen("2", by=1), edit])
    assert not morpher.events


@dataclass(frozen=True)
class Failing:
    """An edit of one's own that fails."""

    target: str = "2"
    op: str = "fail"

    def detail(self) -> dict[str, Any]:
        return {}

    def variants(self, site: Any) -> Any:
        raise ZeroDivisionError("by nothing")


def test_all_that_was_tried_is_in_the_events_with_its_gain_or_why_it_was_refused(
    tmp_path: Path,
) -> None:
    morpher, batches, validation = narrow(log=tmp_path / "log.jsonl")
    size = sum(p.numel() for p in morpher.model.parameters())
    tournament = Tournament(
        morpher, loss_fn, batches, validation, steps=150, budget=Budget(parameters=size + 200)
    )
    uneven = Together((Widen("2", by=4), Widen("5", by=3, init=Duplicate())))
    tried = [Widen("7", by=1), Failing(), uneven, Widen("0", by=90), *CANDIDATES[:2]]
    result = tournament.run(tried)
    assert [(e.op, e.target, e.decision) for e in morpher.events] == [
        ("widen", "7", "refused"),
        ("fail", "2", "refused"),
        ("together", "2, 5", "refused"),
        ("widen", "0", "refused"),
        ("widen", "0", "rolled back"),
        ("widen", "2", "committed"),
    ]
    why = [str(e.why_not) for e in morpher.events]
    assert "the model's output" in why[0]
    assert why[1] == "fail of '2' fails with ZeroDivisionError: by nothing"
    assert "ValueError" in why[2]
    assert "over the budget" in why[3]
    assert [e.id for e in morpher.events] == list(range(6))
    assert all(e.reason == "tried in a tournament" for e in morpher.events[:5])
    assert all(e.parameters_added == 0 for e in morpher.events[:4])
    for event, found in ((morpher.events[4], result.trials[4]), (result.event, result.winner)):
        assert event is not None
        assert found is not None
        assert found.gain is not None
        assert event.gain == found.gain.mean
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 6


def test_what_training_raises_is_no_refusal_and_leaves_the_run_as_it_was() -> None:
    morpher, batches, validation = narrow()
    before = everything(morpher)

    def step(model: nn.Module, batch: Any) -> None:
        if len(model[2].weight) > 2:
            raise KeyError("a mistake of one's own")

    tournament = Tournament(morpher, loss_fn, batches, validation, steps=2, step_fn=step)
    with pytest.raises(KeyError, match="a mistake of one's own"):
        tournament.run([Widen("2", by=1)])
    assert same(everything(morpher), before)
    assert not morpher.events


def test_repeats_are_means_over_trials_that_differ() -> None:
    morpher, batches, validation = narrow()
    tournament = Tournament(morpher, loss_fn, batches, validation, steps=5, min_gain=1e3)
    before = everything(morpher)
    once = tournament.run(CANDIDATES[:1])
    tournament.repeats = 3
    thrice = tournament.run(CANDIDATES[:1])
    assert thrice.control != once.control
    again = tournament.run(CANDIDATES[:1])
    assert again.trials[0].gain == thrice.trials[0].gain
    assert same(everything(morpher), before)


@pytest.mark.parametrize("per", ["parameters", "flops"])
def test_gains_are_weighed_by_what_they_cost(per: str) -> None:
    morpher, batches, validation = narrow()
    result = Tournament(morpher, loss_fn, batches, validation, steps=20, per=per).run(CANDIDATES)
    for each in result.trials:
        assert each.event is not None
        assert each.gain is not None
        added = each.event.flops_after - each.event.flops_before
        assert each.cost == (each.event.parameters_added if per == "parameters" else added)
        assert each.worth == each.gain.mean / each.cost


def test_gradients_in_flight_are_refused_and_settings_are_checked() -> None:
    morpher, batches, validation = narrow()
    for bad, match in (
        ({"steps": 0}, "steps must be"),
        ({"per": "joule"}, "per must be"),
        ({"level": 1.0}, "level must be"),
    ):
        with pytest.raises(ValueError, match=match):
            Tournament(morpher, loss_fn, batches, validation, **bad)
    with pytest.raises(ValueError, match="validation must hold"):
        Tournament(morpher, loss_fn, batches, [])
    tournament = Tournament(morpher, loss_fn, batches, validation, steps=2)
    with pytest.raises(ValueError, match="candidates must hold"):
        tournament.run([])
    morpher.model[0].weight.grad = torch.ones_like(morpher.model[0].weight)
    with pytest.raises(GrowthRefusedError, match="has a gradient: try growth after"):
        tournament.run(CANDIDATES)
    assert bool((morpher.model[0].weight.grad == 1).all())


def test_the_paired_test_errs_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = right = 0
    for _ in range(1000):
        base, noise = (torch.randn(40, generator=generator) for _ in range(2))
        wrong += paired_gain(base, base + 0.1 * noise, level=0.05).lower > 0
        right += paired_gain(base, base + 0.1 * noise - 0.06, level=0.05).lower > 0
    assert 0.03 < wrong / 1000 < 0.07
    assert right / 1000 > 0.95
    assert paired_gain(base[:1], base[:1] - 1).lower == -float("inf")
    assert paired_gain(base, base * float("nan")).p_value == 1
    assert paired_gain(base, base - 1.0, level=0.01).lower == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="one length"):
        paired_gain(base, base[:3])
