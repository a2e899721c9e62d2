import re
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthPlan, GrowthRefusedError, Morpher, Widen
from neuro_morph._back_off import BackOff
from neuro_morph._budget import Budget, Usage, apply_within
from neuro_morph._policy import GrowthPolicy
from neuro_morph._policy_settings import PolicySettings
from neuro_morph._tournament import Tournament
from neuro_morph._triggers import Period, Plateau, Quorum


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().flatten(1).mean(1)


def narrow() -> tuple[Morpher, list[Any], list[Any]]:
    """A net whose second layer holds two units, on a task that needs more."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2), nn.ReLU(), nn.Linear(2, 16), nn.ReLU()
    )
    model.append(nn.Linear(16, 3))
    x = torch.randn(640, 4)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), torch.sin(2 * x[:, 3])], 1)
    batches = list(zip(x.split(64), y.split(64), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    morpher = Morpher(model, optimizer, example_inputs=x[:2], capture="dispatch")
    return morpher, batches[:8], batches[8:]


def trained(policy: GrowthPolicy, steps: int) -> list[Any]:
    optimizer, events = policy.morpher.optimizers[0], []
    for k in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(policy.morpher.model, policy.batches[k % 8]).mean()
        loss.backward()
        optimizer.step()
        events.append(policy.step(loss))
    return [event for event in events if event is not None]


QUICK = PolicySettings(
    quorum=Quorum([Period(100)]),
    measure_every=0,
    pause=50,
    growth=1.0,
    together=False,
    per="parameters",
    trial_steps=60,
    check_every=50,
)


def test_a_plain_loop_with_one_more_line_grows_the_layer_that_is_too_narrow() -> None:
    morpher, batches, validation = narrow()
    settings = replace(
        QUICK, quorum=Quorum([Plateau(window=100)]), measure_every=100, total_steps=1200
    )
    settings = replace(settings, growth=2.0, trial_steps=150, trial_share=None)
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    events = trained(policy, 1000)
    assert events
    assert events[0].target == "2"
    assert "plateau" in events[0].reason
    assert all(event.step <= 900 for event in events)
    assert all(event.relative_change <= 1e-5 for event in events)
    fixed = GrowthPolicy(*_with_loss(narrow()), settings=replace(QUICK, quorum=_never()))
    assert not trained(fixed, 1000)
    ends = [_held_out(p) for p in (policy, fixed)]
    assert ends[0] < 0.8 * ends[1]
    assert len(policy.traces.gradient_norm) == len(policy.traces.loss) == 1000
    assert len(policy.traces.used_rank) == len(policy.traces.validation) == 10


def _with_loss(found: tuple[Morpher, list[Any], list[Any]]) -> tuple[Any, ...]:
    return found[0], loss_fn, found[1], found[2]


def _never() -> Quorum:
    return Quorum([Period(10**9)])


def _held_out(policy: GrowthPolicy) -> float:
    with torch.no_grad():
        losses = [loss_fn(policy.morpher.model, batch) for batch in policy.validation]
    return float(torch.cat(losses).mean())


def test_a_policy_that_never_grows_leaves_training_as_it_is() -> None:
    outputs = []
    for watched in (True, False):
        morpher, batches, validation = narrow()
        settings = replace(QUICK, quorum=_never(), measure_every=7)
        policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
        if watched:
            trained(policy, 60)
        else:
            policy.close()
            for k in range(60):
                morpher.optimizers[0].zero_grad()
                loss_fn(morpher.model, batches[k % 8]).mean().backward()
                morpher.optimizers[0].step()
        outputs.append([p.detach().clone() for p in morpher.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_growth_that_does_not_help_is_left_alone_for_longer_and_longer() -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, quorum=Quorum([Period(10)]), check_every=10, trial_steps=1)
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    tried = []
    original = Tournament.run

    def nothing_helps(self: Tournament, candidates: Any, **kwargs: Any) -> Any:
        tried.append((policy.taken, {edit.target for edit in candidates}))
        return original(replace(self, min_gain=1e9), candidates, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tournament, "run", nothing_helps)
        trained(policy, 450)
    assert [step for step, _ in tried] == [10, 310]  # at 110 all three are left alone
    assert tried[0][1] == tried[1][1] == {"0", "2", "4"}
    assert policy.back_off.now == 400
    assert [e.decision for e in morpher.events] == ["rolled back"] * 6


def test_pauses_double_until_something_helps() -> None:
    wait = BackOff(10, most=35)
    wait.failed(100, ("widen", "a"))
    assert wait.now == 20
    assert not wait.allows("widen", "a", 139)
    assert wait.allows("widen", "a", 140)
    assert wait.allows("widen", "b", 100)
    assert wait.allows("deepen", "a", 100)
    wait.failed(140)
    assert wait.now == 35
    wait.succeeded()
    assert wait.now == 10
    with pytest.raises(ValueError, match="most must be at least pause"):
        BackOff(10, most=5)


def test_gradients_that_wait_for_a_step_are_not_touched() -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, quorum=Quorum([Period(1)]), check_every=1)
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    loss = loss_fn(morpher.model, batches[0]).mean()
    loss.backward()
    held = [p.grad.clone() for p in morpher.model.parameters()]
    assert policy.step(loss) is None
    assert not policy.decisions
    assert all(
        torch.equal(p.grad, g) for p, g in zip(morpher.model.parameters(), held, strict=True)
    )


@pytest.mark.parametrize(
    "budget", [Budget(parameters=240), Budget(flops=500), Budget(latency_s=1e-9)]
)
def test_what_would_overspend_is_refused_by_name_and_nothing_has_changed(budget: Budget) -> None:
    morpher = narrow()[0]
    before = [p.detach().clone() for p in morpher.model.parameters()]
    name = next(key for key, limit in vars(budget).items() if limit is not None)
    with pytest.raises(GrowthRefusedError, match=f"would take {name} to .* over the budget of"):
        apply_within(morpher, Widen("2", by=8), budget)
    assert all(torch.equal(p, b) for p, b in zip(morpher.model.parameters(), before, strict=True))
    assert not morpher.events


def test_what_is_within_is_done_and_events_are_counted() -> None:
    morpher = narrow()[0]
    size = sum(p.numel() for p in morpher.model.parameters())
    exactly = Budget(parameters=size + 33, events=1)  # a unit: 16 + 1 made from, 16 read
    assert apply_within(morpher, Widen("2", by=1), exactly).parameters_added == 33
    assert Budget(latency_s=1.0).measure(morpher) == Usage(
        size + 33, Budget().measure(morpher).flops, pytest.approx(0.5, abs=0.5), 1
    )
    with pytest.raises(GrowthRefusedError, match="would take events to 2, over the budget of 1"):
        apply_within(morpher, Widen("2", by=1), Budget(events=1))
    with pytest.raises(ValueError, match="flops must be above 0"):
        Budget(flops=0)


def test_a_policy_spends_no_more_than_its_budget() -> None:
    for budget in (Budget(events=1), Budget(parameters=300)):
        morpher, batches, validation = narrow()
        policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=QUICK, budget=budget)
        events = trained(policy, 400)
        assert len(events) >= 1
        assert budget.overspent(budget.measure(morpher)) is None
    tried = [t.edit for t in policy.results[-1].trials]
    asked = policy.morpher.graph[tried[0].target].size  # growth is 1
    assert any(edit.by < asked for edit in tried)  # as many as the budget pays for


def test_settings_out_of_range_are_refused() -> None:
    morpher, batches, _ = narrow()
    with pytest.raises(ValueError, match="trial_steps must be at least 1"):
        PolicySettings(trial_steps=0)
    hooks = len(morpher.optimizers[0]._optimizer_step_post_hooks)
    for over in (Budget(parameters=10), Budget(flops=10)):
        with pytest.raises(ValueError, match=r"budget must have at least the \d+ .*, got 10"):
            GrowthPolicy(morpher, loss_fn, batches, batches, budget=over)
    with pytest.raises(ValueError, match="validation must hold at least one batch"):
        GrowthPolicy(morpher, loss_fn, batches, [])
    assert len(morpher.optimizers[0]._optimizer_step_post_hooks) == hooks


def test_all_groups_at_once_are_tried_beside_the_best_ones_and_kept_if_they_gain_the_most() -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, together=True, per=None, growth=2.0, trial_steps=150)
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    trained(policy, 100)
    tried = [trial.edit.target for trial in policy.results[0].trials]
    whole = tried.pop()
    assert set(whole.split(", ")) == set(tried) == {"0", "2", "4"}
    winner = policy.results[0].winner
    assert winner is not None
    assert winner.edit.target == whole
    kept = [e.target for e in morpher.events if e.decision == "committed"]
    assert sorted(kept) == ["0", "2", "4"]
    assert [morpher.graph[name].size for name in ("0", "2", "4")] == [48, 6, 48]


def test_all_groups_at_once_count_as_their_edits_and_are_left_alone_after_a_failure() -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, together=True, check_every=10, quorum=Quorum([Period(10)]))
    policy = GrowthPolicy(
        morpher, loss_fn, batches, validation, settings=settings, budget=Budget(events=2)
    )
    trained(policy, 10)
    refused = policy.results[0].trials[-1].refused
    assert "would take events to 3, over the budget of 2" in str(refused)
    policy.back_off.failed(policy.taken, ("together", policy.results[0].trials[-1].edit.target))
    assert all(edit.op == "widen" for edit in policy._candidates())


def test_scores_are_measured_on_as_many_batches_as_asked_for() -> None:
    morpher, batches, validation = narrow()
    seen = []

    def counted(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch[0])
        return loss_fn(model, batch)

    settings = replace(QUICK, score_batches=3)
    policy = GrowthPolicy(morpher, counted, batches, validation, settings=settings)
    policy._statistics()
    assert len({id(x) for x in seen}) == 3
    with pytest.raises(ValueError, match="score_batches must be at least 1, got 0"):
        PolicySettings(score_batches=0)


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"growth": -1.0}, "growth must be a finite number above 0, got -1.0"),
    ({"growth": float("nan")}, "growth must be a finite number above 0, got nan"),
    ({"trial_share": 0.0}, "trial_share must be a finite number above 0, got 0.0"),
    ({"per": "nonsense"}, "per must be 'parameters', 'flops' or None, got 'nonsense'"),
    ({"total_steps": 0}, "total_steps must be at least 1, got 0"),
    ({"kinds": ()}, "kinds must be among widen, deepen, connect"),
    ({"kinds": "widen"}, "kinds must be a list of names, got 'widen'"),
    ({"kinds": ("shrink",)}, "kinds must be among widen, deepen, connect"),
    ({"weights": {"luck": 1.0}}, "weights must be of metrics among"),
    ({"weights": {"tiny_gain": float("nan")}}, "the weight of 'tiny_gain' must be finite"),
    ({"quorum": [Plateau()]}, "quorum must be a Quorum, got list"),
]


@pytest.mark.parametrize("given, message", BAD_SETTINGS, ids=[str(b[0]) for b in BAD_SETTINGS])
def test_settings_are_checked_when_they_are_made(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        PolicySettings(**given)


def test_what_a_policy_cannot_work_with_is_refused_by_name_before_it_watches() -> None:
    morpher, batches, validation = narrow()
    loader = torch.utils.data.DataLoader(batches)
    hooks = len(morpher.optimizers[0]._optimizer_step_post_hooks)
    with pytest.raises(TypeError, match="batches must be a sequence .* got DataLoader"):
        GrowthPolicy(morpher, loss_fn, loader, validation)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="validation must be a sequence .* got generator"):
        GrowthPolicy(morpher, loss_fn, batches, (b for b in validation))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="budget must be a Budget, got int"):
        GrowthPolicy(morpher, loss_fn, batches, validation, budget=1000)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="settings must be a PolicySettings, got dict"):
        GrowthPolicy(morpher, loss_fn, batches, validation, settings={})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="morpher must be a Morpher, got function"):
        GrowthPolicy(loss_fn, morpher, batches, validation)  # type: ignore[arg-type]
    assert len(morpher.optimizers[0]._optimizer_step_post_hooks) == hooks


def test_a_run_has_one_policy_until_it_is_closed() -> None:
    morpher, batches, validation = narrow()
    first = GrowthPolicy(morpher, loss_fn, batches, validation)
    with pytest.raises(ValueError, match="this run has a policy already: close it first"):
        GrowthPolicy(morpher, loss_fn, batches, validation)
    with pytest.raises(ValueError, match="this run has a policy already: close it first"):
        GrowthPlan(morpher, 2.0)
    first.close()
    second = GrowthPolicy(morpher, loss_fn, batches, validation)
    assert morpher.policy is second


def test_gradients_that_are_accumulated_are_not_touched_until_their_step() -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, quorum=Quorum([Period(1)]), check_every=1, pause=0, trial_steps=2)
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    optimizer, tried = morpher.optimizers[0], []
    for k in range(8):
        loss = loss_fn(morpher.model, batches[k]).mean()
        loss.backward()
        held = [p.grad.clone() for p in morpher.model.parameters()]
        if k % 4 == 3:
            optimizer.step()
        policy.step(loss)
        tried.append(len(policy.results))
        if k % 4 < 3:
            grads = [p.grad for p in morpher.model.parameters()]
            assert all(torch.equal(a, b) for a, b in zip(grads, held, strict=True))
        else:
            optimizer.zero_grad()
    assert tried == [0, 0, 0, 1, 1, 1, 1, 2]


def test_growth_asked_for_outright_refuses_gradients_that_are_there() -> None:
    morpher, batches, validation = narrow()
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=QUICK)
    loss_fn(morpher.model, batches[0]).mean().backward()
    held = [p.grad.clone() for p in morpher.model.parameters()]
    with pytest.raises(GrowthRefusedError, match="has a gradient"):
        policy.grow("now")
    grads = [p.grad for p in morpher.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(grads, held, strict=True))


def test_trials_take_no_more_than_their_share_of_a_run() -> None:
    spent = {}
    for share in (0.2, 0.02, None):
        morpher, batches, validation = narrow()
        settings = replace(QUICK, trial_share=share, total_steps=2000, trial_steps=40, pause=100)
        policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
        trained(policy, 1000)
        total = policy.work.total(policy.taken, 2000)
        assert total is not None
        spent[share] = policy.work.tried / total, len(policy.results)
        blocked = [d.blocked for _, d in policy.decisions if "trials would" in str(d.blocked)]
        assert bool(blocked) == (share is not None)
    assert 0.0 < spent[0.2][0] <= 0.2 < spent[None][0]
    assert spent[0.02] == (0.0, 0)


def test_layers_and_connections_are_tried_where_they_are_asked_for() -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, kinds=("widen", "deepen", "connect"), short_list=3, trial_steps=5)
    policy = GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    policy.grow("now")
    assert [t.edit.op for t in policy.results[0].trials] == ["widen", "deepen", "connect"]


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_loop_that_asks_before_the_optimizer_steps_is_told_once(plan: bool, after: bool) -> None:
    morpher, batches, validation = narrow()
    settings = replace(QUICK, quorum=_never(), check_every=1)
    made: Any = (
        GrowthPlan(morpher, at=[0.5], total_steps=40)
        if plan
        else GrowthPolicy(morpher, loss_fn, batches, validation, settings=settings)
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        for k in range(30):
            morpher.optimizers[0].zero_grad()
            loss = loss_fn(morpher.model, batches[k % 8]).mean()
            loss.backward()
            for call in ([], [made])[not after]:
                call.step(loss)
            morpher.optimizers[0].step()
            for call in ([], [made])[after]:
                call.step(loss)
    expected = "call step() of the policy after that of the optimizer"
    assert [expected in str(each.message) for each in told] == [True] * (not after)
