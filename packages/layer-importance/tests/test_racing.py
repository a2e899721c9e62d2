import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from torch import nn

from layer_importance import Classification, analyze, discover
from layer_importance._bottom import bottom_units
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._preserve import preserved
from layer_importance._racing import Race
from layer_importance._subject import Subject

ARMS = [str(i) for i in range(12)]


def _problem(seed, samples=1500, skewed=False, k=3, gap=0.06):
    """Damages with a part that all units share, twelve true means and a gap at the cut."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(12, generator=generator).double().square().sort().values / 2 - 0.02
    means[k:] += gap
    means = means[torch.randperm(12, generator=generator)]
    common = torch.randn(samples, 1, generator=generator).double() * (0.2 + means)
    own = torch.randn(samples, 12, generator=generator).double()
    if skewed:
        own = torch.empty(samples, 12).double().exponential_(generator=generator) - 1
    return means, means + common + own * (0.1 + means.abs())


def _run(race, draws, chunk=16):
    for start in range(0, len(draws), chunk):
        if race.done:
            break
        race.add({name: draws[start : start + chunk, int(name)] for name in race.alive})
    return race.result()


@pytest.mark.parametrize("skewed", [False, True])
def test_the_bottom_is_right_and_costs_less_than_half_of_leaving_each_out(skewed):
    wrong = certain = 0
    costs = []
    for seed in range(100):
        means, draws = _problem(seed, skewed=skewed)
        result = _run(Race(ARMS, 3), draws)
        wrong += set(result.bottom) != {str(i) for i in means.argsort()[:3].tolist()}
        certain += result.certain
        costs.append(sum(result.draws.values()) / draws.numel())
    assert wrong <= 5
    assert certain >= 95
    assert sum(costs) / 100 <= 0.5


def _ever_decided(draws, reach):
    """Whether the mean of equal arms' differences is ever taken for more than nothing."""
    count = torch.arange(1, draws.shape[1] + 1).double()
    mean = draws.cumsum(1) / count
    deviation = ((draws.square().cumsum(1) / count - mean**2) * count / (count - 1)).sqrt()
    wide = torch.tensor([reach(int(n)) for n in count[49:]]).double()
    return (mean.abs()[:, 49:] > deviation[:, 49:] / count[49:].sqrt() * wide).any(1)


def test_equal_units_are_told_apart_no_more_often_than_stated_however_long_one_looks():
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(400, 1500, generator=generator).double()
    race = Race(["a", "b"], 1, delta=0.05)

    def ours(count):
        return float(race._reach(float(count), torch.tensor(float(count))))

    assert int(_ever_decided(draws, ours).sum()) <= 20
    # looking again and again with Student's interval is no such statement
    assert int(_ever_decided(draws, lambda n: stats.t.ppf(0.975, n - 1)).sum()) > 100


@settings(max_examples=15)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 3))
def test_what_is_known_does_not_depend_on_how_samples_came(sizes, seed):
    _, draws = _problem(seed, samples=400)
    whole, parts = Race(ARMS, 3, first=1000), Race(ARMS, 3, first=1000)
    whole.add({name: draws[:, int(name)] for name in ARMS})
    cuts = sorted({0, 400, *sizes})
    for a, b in itertools.pairwise(cuts):
        parts.add({name: draws[a:b, int(name)] for name in ARMS})
    torch.testing.assert_close(whole._mean, parts._mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(whole._comoment, parts._comoment, rtol=1e-10, atol=1e-9)
    centred = draws - draws.mean(0)
    torch.testing.assert_close(whole._comoment, centred.T @ centred, rtol=1e-10, atol=1e-9)


def test_stopped_early_it_says_what_is_decided_and_guesses_the_rest():
    _, draws = _problem(0)
    race = Race(ARMS, 3, prior=["7", "2", "9"])
    assert race.result().bottom == ("7", "2", "9")
    assert race.alive[:3] == ["7", "2", "9"]
    race.add({name: draws[:20, int(name)] for name in race.alive})
    result = race.result()
    assert not result.decided
    assert not result.certain
    lowest = draws[:20].mean(0).argsort()[:3].tolist()
    assert result.bottom == tuple(str(i) for i in lowest)


def test_a_common_part_of_all_damages_costs_nothing():
    generator = torch.Generator().manual_seed(0)
    common = 100 * torch.randn(60, generator=generator).double()
    noise = 0.1 * torch.randn(60, 2, generator=generator).double()
    race = Race(["a", "b", "c"], 1)
    race.add({"a": common, "b": common + 1 + noise[:, 0], "c": common + 2 + noise[:, 1]})
    assert race.done
    assert race.result().decided == ("a",)


def test_units_that_are_close_enough_are_let_through_with_epsilon():
    draws = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).double() * 0.1
    draws = draws - draws.mean(0)
    draws[:, 2] += 1
    strict, loose = Race(["0", "1", "2"], 1), Race(["0", "1", "2"], 1, epsilon=0.02)
    assert not _run(strict, draws).certain
    assert _run(loose, draws).certain
    assert loose.result().bottom[0] in ("0", "1")
    assert strict.alive == ["0", "1"]


def test_a_unit_without_which_the_loss_is_infinite_is_out():
    race = Race(["a", "b"], 1)
    race.add({"a": torch.tensor([0.0, torch.inf]), "b": torch.tensor([1.0, 2.0])})
    assert race.done
    assert race.result().bottom == ("b",)


def test_all_units_asked_for_need_no_sample():
    race = Race(["a", "b"], 2)
    assert race.done
    assert set(race.result().bottom) == {"a", "b"}


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"k must be in 1..2, got 3"):
        Race(["a", "b"], 3)
    with pytest.raises(ValueError, match=r"delta must be inside 0..1, got 0"):
        Race(["a", "b"], 1, delta=0)
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        Race(["a", "b"], 1, epsilon=-1)
    with pytest.raises(ValueError, match="arms must be different names"):
        Race(["a", "a"], 1)
    with pytest.raises(ValueError, match="first must be at least 2, got 1"):
        Race(["a", "b"], 1, first=1)
    race = Race(["a", "b"], 1)
    with pytest.raises(ValueError, match="every arm alive, got none for"):
        race.add({"a": torch.ones(3)})
    with pytest.raises(ValueError, match="as many for every arm"):
        race.add({"a": torch.ones(3), "b": torch.ones(2)})


class _Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)
        with torch.no_grad():
            self.down.weight.mul_(size)
            self.down.bias.mul_(size)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def _subject():
    torch.manual_seed(0)
    sizes = [3.0, 0.01, 2.0, 0.0, 3.0, 4.0]
    net = nn.Sequential(*[_Block(size) for size in sizes], nn.Linear(6, 4)).double()
    with torch.no_grad():
        net[-1].weight.mul_(4)
    x = torch.randn(4000, 6, dtype=torch.float64)
    with torch.no_grad():
        labels = net(x).argmax(1)
    batches = [(x[i : i + 40], labels[i : i + 40]) for i in range(0, 4000, 40)]
    units = discover(net, batches[0])
    return Subject(net, units, Classification(), batches), batches


def test_the_race_on_a_model_finds_what_leaving_each_out_finds_and_costs_less():
    subject, batches = _subject()
    full = analyze(subject.model, batches, methods=[LayerAblation()])["layer_ablation"]
    want = set(sorted(full, key=lambda name: full[name].value)[:2])
    with preserved(subject.model, gradients=False):
        result, spent = bottom_units(subject, 2)
    assert set(result.bottom) == want == {"1", "3"}
    assert result.certain
    naive = len(batches) * 6 * full.forwards
    assert spent <= 0.5 * naive
    for name in result.bottom:
        used = result.draws[name]
        part = analyze(subject.model, batches[: used // 40], methods=[LayerAblation()])
        assert result.damages[name] == pytest.approx(part["layer_ablation"][name].value, rel=1e-9)


def test_the_race_stops_at_its_budget_and_after_the_last_batch():
    subject, _ = _subject()
    with preserved(subject.model, gradients=False):
        result, spent = bottom_units(subject, 1, budget=50)
        assert not result.certain
        assert spent <= 50
        assert spent == 2 * 21
        with pytest.raises(ValueError, match="mode must not be 'mean'"):
            bottom_units(subject, 1, mode="mean")
