from typing import Any

import numpy as np
import pytest
import torch

from neuro_morph._triggers import (
    GeneralizationGap,
    GradientHealth,
    Information,
    Period,
    Plateau,
    Quorum,
    Saturation,
    Topology,
    Traces,
    Trigger,
    Vote,
    connection_lengths,
    mean_connection_length,
)

RUNS = 200


def noisy(mean: Any, scale: float, seed: int) -> list[float]:
    values = np.asarray(mean, dtype=float)
    noise = np.random.default_rng(seed).normal(size=len(values))
    return list(values + scale * noise)


SHARES = {"used_rank": Information(), "saturated": Saturation(), "spread": Topology()}


def test_a_loss_that_goes_on_falling_or_never_falls_is_no_plateau() -> None:
    trigger, wrong = Plateau(window=100), 0
    for seed in range(RUNS):
        falls = noisy(3.0 - 0.004 * np.arange(600), 0.05, seed)
        never = noisy(np.full(600, 2.0), 0.05, seed + 1000)
        wrong += any(trigger.vote(Traces(loss=falls[:n])).grow for n in (200, 400, 600))
        wrong += any(trigger.vote(Traces(loss=never[:n])).grow for n in (200, 400, 600))
    assert wrong / (2 * RUNS) <= 0.01


def test_a_plateau_is_found_within_its_window_and_not_before_it_begins() -> None:
    trigger, early, late = Plateau(window=100), 0, 0
    for seed in range(60):
        mean = np.concatenate([3.0 - 0.005 * np.arange(300), np.full(200, 1.5)])
        loss = noisy(mean, 0.03, seed)
        early += any(trigger.vote(Traces(loss=loss[:n])).grow for n in range(200, 300, 20))
        late += not any(trigger.vote(Traces(loss=loss[:n])).grow for n in range(300, 401, 10))
    assert early / 60 <= 0.01
    assert late == 0


@pytest.mark.parametrize("trace", sorted(SHARES))
def test_shares_of_units_are_found_when_they_pass_the_threshold(trace: str) -> None:
    trigger = SHARES[trace]
    wrong = late = 0
    for seed in range(RUNS):
        below, above = trigger.threshold - 0.15, trigger.threshold + 0.1
        shares = noisy([below] * 20 + [above] * trigger.window, 0.05, seed)
        votes = [trigger.vote(Traces(**{trace: shares[:n]})) for n in range(1, len(shares) + 1)]
        wrong += any(vote.grow for vote in votes[:20])
        late += not votes[-1].grow
        assert not any(vote.veto for vote in votes)
    assert wrong / RUNS <= 0.01
    assert late / RUNS <= 0.01


@pytest.mark.parametrize(
    "end, vetoes", [(1.0, False), (30.0, True), (1e-5, True), (float("nan"), True)]
)
def test_gradients_that_explode_vanish_or_are_not_finite_forbid_growth(
    end: float, vetoes: bool
) -> None:
    trigger, said = GradientHealth(), 0
    for seed in range(RUNS):
        norms = np.exp(np.random.default_rng(seed).normal(size=120)) * 2.0
        norms[-20:] *= end
        assert not trigger.vote(Traces(gradient_norm=list(norms[:-20]))).veto
        said += trigger.vote(Traces(gradient_norm=list(norms))).veto
    assert said / RUNS >= 0.99 if vetoes else said / RUNS <= 0.01
    assert not trigger.vote(Traces(gradient_norm=list(norms))).grow


def test_a_gap_that_opens_forbids_growth_and_one_that_stays_does_not() -> None:
    trigger, wrong, missed = GeneralizationGap(), 0, 0
    for seed in range(RUNS):
        training = noisy(np.linspace(1.0, 0.5, 12), 0.02, seed)
        same = [t + g for t, g in zip(training, noisy([0.3] * 12, 0.02, seed + 500), strict=True)]
        opens = [t + g for t, g in zip(training, np.linspace(0.1, 0.5, 12), strict=True)]
        wrong += trigger.vote(Traces(validation=same, training=training)).veto
        missed += not trigger.vote(Traces(validation=opens, training=training)).veto
    assert wrong / RUNS <= 0.01
    assert missed == 0


def test_units_that_say_the_same_are_joined_at_once_and_others_late() -> None:
    same = torch.ones(4, 4).double()
    torch.testing.assert_close(connection_lengths(same), torch.zeros(3).double())
    torch.testing.assert_close(connection_lengths(torch.eye(4).double()), torch.ones(3).double())
    pairs = torch.block_diag(same[:2, :2], same[:2, :2] * 4)
    torch.testing.assert_close(connection_lengths(pairs), torch.tensor([0.0, 0.0, 1.0]).double())
    chain = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, -0.8], [0.2, -0.8, 1.0]]).double()
    torch.testing.assert_close(connection_lengths(chain), torch.tensor([0.2, 0.5]).double())
    idle = torch.diag(torch.tensor([1.0, 1.0, 1e-9])).double()
    assert len(connection_lengths(idle)) == 1
    assert mean_connection_length(idle[2:, 2:]) == 0.0


def test_a_period_asks_at_its_steps_alone() -> None:
    asked = [n for n in range(31) if Period(10).vote(Traces(loss=[1.0] * n)).grow]
    assert asked == [10, 20, 30]


class Says:
    def __init__(self, name: str, *, grow: bool = False, veto: bool = False) -> None:
        self.name, self._vote = name, Vote(name, grow, "said so", veto)

    def vote(self, traces: Traces) -> Vote:
        return self._vote


def test_a_quorum_counts_votes_and_a_veto_outweighs_them() -> None:
    yes = [Says(f"y{k}", grow=True) for k in range(2)]
    no, veto = Says("n"), Says("v", veto=True)
    assert isinstance(no, Trigger)
    seen = Traces(loss=[1.0] * 50)
    assert Quorum([*yes, no], 2).decide(seen).grow
    assert not Quorum([*yes, no], 3).decide(seen).grow
    decision = Quorum([*yes, veto], 1).decide(seen)
    assert not decision.grow
    assert decision.blocked == "v: said so"
    assert Quorum([*yes, no], 2).decide(seen).reason == "y0: said so; y1: said so"


@pytest.mark.parametrize(
    "settings, grows",
    [
        ({"since": 9, "pause": 10}, False),
        ({"since": 10, "pause": 10}, True),
        ({"total": 66}, False),
        ({"total": 67}, True),
    ],
)
def test_nothing_grows_in_the_pause_or_in_the_last_quarter(
    settings: dict[str, int], grows: bool
) -> None:
    quorum = Quorum([Says("y", grow=True)])
    assert quorum.decide(Traces(loss=[1.0] * 50), **settings).grow is grows


def test_settings_out_of_range_are_refused() -> None:
    for make, match in (
        (lambda: Plateau(window=3), "window must be at least 8"),
        (lambda: Plateau(tau=1.0), "tau must be between 0 and 1"),
        (lambda: Information(threshold=0.0), "threshold must be"),
        (lambda: GradientHealth(ceiling=1.0), "ceiling must be above 1"),
        (lambda: GeneralizationGap(tolerance=-1.0), "tolerance must be"),
        (lambda: Period(0), "every must be at least 1"),
        (lambda: Quorum([]), "needed must be"),
        (lambda: Quorum([Says("a"), Says("a")]), "names of their own"),
        (lambda: Quorum([Says("a")], last_part=1.0), "last_part must be"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_too_few_steps_and_losses_that_are_not_finite_say_nothing() -> None:
    triggers = [Plateau(), Information(), GradientHealth(), Saturation(), Topology()]
    for trigger in [*triggers, GeneralizationGap()]:
        vote = trigger.vote(Traces())
        assert not vote.grow
        assert not vote.veto
    broken = [2.0 - 0.01 * k for k in range(200)] + [float("nan")] * 200
    assert not Plateau().vote(Traces(loss=broken)).grow


@pytest.mark.parametrize(
    "last, blocked",
    [(1.0, None), (float("nan"), "the loss is nan"), (float("-inf"), "the loss is -inf")],
)
def test_nothing_grows_after_a_step_whose_loss_is_not_finite(
    last: float, blocked: str | None
) -> None:
    found = Quorum([Period(1)]).decide(Traces(loss=[1.0, float("nan"), last]))
    assert (found.grow, found.blocked) == (blocked is None, blocked)
