import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from torch import nn

from layer_importance import (
    Call,
    Classification,
    Moments,
    Subject,
    Task,
    Unit,
    Units,
    analyze,
    discover,
)
from layer_importance._ablation import Ablation
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._modalities.text import Text
from layer_importance._paired import Ratio, bootstrap_interval, t_interval
from layer_importance._streams import derangement, donated


class _Squares(Task):
    """Half the squared distance to the labels."""

    name, measure = "squares", "half squares"

    def loss(self, output, labels, batch):
        return (output - labels).square().flatten(1).sum(1) / 2

    def quality(self, output, labels, batch):
        return -(output - labels).abs().flatten(1).sum(1)


class _Linear(nn.Module):
    """``x + A x``."""

    def __init__(self, d, scale=0.4):
        super().__init__()
        self.a, self.b = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        nn.init.normal_(self.a.weight, std=scale)
        nn.init.eye_(self.b.weight)

    def forward(self, x):
        return x + self.b(self.a(x))

    @property
    def matrix(self):
        return torch.eye(len(self.a.weight), dtype=torch.float64) + self.a.weight.detach()


def _chain(length=4, d=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[_Linear(d) for _ in range(length)]).double()


def _run(net, batches, method, task=None, units=None):
    return analyze(net, batches, task=task or _Squares(), methods=[method], units=units)[
        "layer_ablation"
    ]


def test_the_damage_in_a_linear_residual_chain_is_its_closed_form():
    net, x = _chain(), torch.randn(64, 5, dtype=torch.float64)
    with torch.no_grad():
        target = net(x)
    scores = _run(net, [(x, target)], LayerAblation())
    second = x.T @ x / len(x)
    whole = torch.linalg.multi_dot([block.matrix for block in reversed(net)])
    for j in range(4):
        kept = [block.matrix for i, block in reversed(list(enumerate(net))) if i != j]
        change = torch.linalg.multi_dot(kept) - whole
        want = float((change @ second @ change.T).trace()) / 2
        assert scores[str(j)].value == pytest.approx(want, rel=1e-12)
    assert scores.measure == "half squares"
    assert set(scores.notes.values()) == {"ablation: identity"}
    assert scores.forwards == 1 + 3 / 2


def test_quality_change_and_interval_are_those_of_the_plain_loop():
    net, x = _chain(), torch.randn(40, 5, dtype=torch.float64)
    target = torch.randn(40, 5, dtype=torch.float64)
    scores = _run(net, [(x[:15], target[:15]), (x[15:], target[15:])], LayerAblation())
    task = _Squares()
    for j in range(4):
        with torch.no_grad():
            without = nn.Sequential(*[b for i, b in enumerate(net) if i != j])(x)
            damage = task.loss(without, target, None) - task.loss(net(x), target, None)
            quality = task.quality(without, target, None) - task.quality(net(x), target, None)
        score = scores[str(j)]
        assert score.value == pytest.approx(float(damage.mean()), rel=1e-12)
        assert score.standard_error == pytest.approx(float(damage.std()) / math.sqrt(40), rel=1e-10)
        low, high = stats.t.interval(0.95, 39, float(damage.mean()), score.standard_error)
        assert scores.extras["low"][str(j)] == pytest.approx(low, rel=1e-10)
        assert scores.extras["high"][str(j)] == pytest.approx(high, rel=1e-10)
        changed = scores.extras["quality_change"][str(j)]
        assert changed == pytest.approx(float(quality.mean()), rel=1e-12)


def test_a_dead_block_has_damage_exactly_zero_with_no_error():
    net = _chain()
    nn.init.zeros_(net[2].a.weight)
    batches = [(torch.randn(9, 5).double(), torch.randn(9, 5).double()) for _ in range(3)]
    for mode in ("auto", "identity", "zero", "mean", "resample"):
        score = _run(net, batches, LayerAblation(mode=mode))["2"]
        assert (score.value, score.standard_error) == (0.0, 0.0)


def test_a_harmful_block_has_negative_damage():
    net, x = _chain(), torch.randn(20, 5, dtype=torch.float64)
    with torch.no_grad():
        target = nn.Sequential(net[0], net[1], net[3])(x)
    scores = _run(net, [(x, target)], LayerAblation())
    assert scores["2"].value < 0
    assert min(scores, key=lambda name: scores[name].value) == "2"


def test_mean_ablation_puts_the_mean_branch_in_place():
    net, x = _chain(), torch.randn(30, 5, dtype=torch.float64) + 2
    target = torch.randn(30, 5, dtype=torch.float64)
    scores = _run(net, [(x[:7], target[:7]), (x[7:], target[7:])], LayerAblation(mode="mean"))
    task = _Squares()
    with torch.no_grad():
        inner = net[0](x)
        mean = (net[1](inner) - inner).mean(0)
        damage = task.loss(net[3](net[2](inner + mean)), target, None)
        damage = damage - task.loss(net(x), target, None)
    assert scores["1"].value == pytest.approx(float(damage.mean()), rel=1e-11)
    assert scores.forwards == 2 + 3 / 2


def test_resample_ablation_in_a_linear_chain_is_its_closed_form_for_its_donors():
    net, x = _chain(), torch.randn(30, 5, dtype=torch.float64)
    with torch.no_grad():
        target = net(x)
    scores = _run(net, [(x, target)], LayerAblation(mode="resample"))
    donors = derangement(30, torch.Generator().manual_seed(0))
    after = torch.linalg.multi_dot([net[3].matrix, net[2].matrix])
    step = (net[1].matrix - torch.eye(5)) @ net[0].matrix
    change = (x[donors] - x) @ step.T @ after.T
    want = float(change.square().sum(1).mean()) / 2
    assert scores["1"].value == pytest.approx(want, rel=1e-11)


class _Narrows(nn.Module):
    def __init__(self, d_in, d_out):
        super().__init__()
        self.a, self.b = nn.Linear(d_in, d_out), nn.Linear(d_out, d_out)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def test_auto_takes_the_mean_where_the_input_does_not_fit_and_says_so():
    torch.manual_seed(0)
    net = nn.Sequential(_Narrows(5, 5), _Narrows(5, 3), _Narrows(3, 3)).double()
    x, target = torch.randn(20, 5).double(), torch.randn(20, 3).double()
    auto = _run(net, [(x, target)], LayerAblation())
    assert [auto.notes[n] for n in "012"] == [
        f"ablation: {w}" for w in ("identity", "mean", "identity")
    ]
    with torch.no_grad():
        inner = net[1](net[0](x)).mean(0).expand(20, 3)
        damage = _Squares().loss(net[2](inner), target, None)
        damage = damage - _Squares().loss(net(x), target, None)
    assert auto["1"].value == pytest.approx(float(damage.mean()), rel=1e-12)
    strict = _run(net, [(x, target)], LayerAblation(mode="identity"))
    assert set(strict) == {"0", "2"}
    assert "its input cannot stand in for it: it changes the shape" in strict.missing["1"]
    zero = _run(net, [(x, target)], LayerAblation(mode="zero"))
    with torch.no_grad():
        none = _Squares().loss(net[2](torch.zeros(20, 3).double()), target, None)
        none = none - _Squares().loss(net(x), target, None)
    assert zero["1"].value == pytest.approx(float(none.mean()), rel=1e-12)


class _Parallel(nn.Module):
    def __init__(self, d=4):
        super().__init__()
        self.left, self.right = _Narrows(d, d), _Narrows(d, d)

    def forward(self, x):
        return self.left(x) + self.right(x)


def _branch_unit(path):
    return Unit(
        name=path,
        path=path,
        chain="",
        index=0,
        tower="",
        type_name="",
        parameters=0,
        removal="zero",
    )


def test_a_branch_that_its_parent_adds_is_zeroed():
    torch.manual_seed(0)
    net, x, target = _Parallel().double(), torch.randn(9, 4).double(), torch.randn(9, 4).double()
    units = Units((_branch_unit("left"), _branch_unit("right")))
    scores = _run(net, [(x, target)], LayerAblation(), units=units)
    with torch.no_grad():
        damage = _Squares().loss(net.right(x), target, None) - _Squares().loss(net(x), target, None)
    assert scores["left"].value == pytest.approx(float(damage.mean()), rel=1e-12)
    assert scores.notes["left"] == "ablation: zero"


class _Tokens(nn.Module):
    """Mixes no tokens: padding changes nothing but the mean."""

    def __init__(self, d=4):
        super().__init__()
        self.blocks = nn.ModuleList([_Linear(d) for _ in range(3)])

    def forward(self, x, attention_mask):
        for block in self.blocks:
            x = block(x)
        weight = attention_mask[..., None].to(x.dtype)
        return torch.where(weight > 0, x, 0 * x).sum(1) / weight.sum(1)


def _padded(garbage):
    torch.manual_seed(1)
    x, mask = torch.randn(6, 5, 4, dtype=torch.float64), torch.ones(6, 5, dtype=torch.long)
    for row, length in enumerate([5, 2, 3, 4, 1, 5]):
        mask[row, length:] = 0
        x[row, length:] = garbage
    return {"x": x, "attention_mask": mask, "labels": torch.randn(6, 4, dtype=torch.float64)}


@pytest.mark.parametrize("mode", ["identity", "mean", "resample"])
def test_what_is_in_the_padding_changes_no_score(mode):
    torch.manual_seed(0)
    net = _Tokens().double()
    found = [_run(net, [_padded(g)], LayerAblation(mode=mode)) for g in (0.0, 77.0)]
    for name in found[0]:
        assert found[0][name].value == pytest.approx(found[1][name].value, rel=1e-12)
        assert found[0][name].value != 0


def test_a_chosen_subset_is_scored_and_unknown_names_are_refused():
    net = _chain()
    batch = torch.randn(8, 5).double(), torch.randn(8, 5).double()
    assert list(_run(net, [batch], LayerAblation(units=["3", "1"]))) == ["1", "3"]
    with pytest.raises(ValueError, match="units must be names of units, got 9"):
        _run(net, [batch], LayerAblation(units=["9"]))
    with pytest.raises(ValueError, match="mode must be one of auto, .* got 'remove'"):
        _run(net, [batch], LayerAblation(mode="remove"))


@settings(max_examples=12)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_scores_are_the_same_for_every_split_into_batches(sizes):
    net, count = _chain(3), 20
    x, target = torch.randn(count, 5).double(), torch.randn(count, 5).double()
    cuts = sorted({0, count, *(s for s in sizes if s < count)})
    parts = [(x[a:b], target[a:b]) for a, b in itertools.pairwise(cuts)]
    for mode in ("identity", "mean"):
        whole, split = (_run(net, b, LayerAblation(mode=mode)) for b in ([(x, target)], parts))
        for name in whole:
            assert split[name].value == pytest.approx(whole[name].value, rel=1e-10)
            error = whole[name].standard_error
            assert split[name].standard_error == pytest.approx(error, rel=1e-10)


class _Explodes(Task):
    name = "explodes"

    def loss(self, output, labels, batch):
        return (-output.abs().sum(1)).exp().reciprocal()


def test_a_unit_without_which_the_loss_is_infinite_has_a_reason_and_no_score():
    torch.manual_seed(0)
    net = nn.Sequential(_Linear(3), _Linear(3), _Linear(3)).double()
    for block, value in zip(net, (0.0, -0.999999, 0.0), strict=True):
        block.a.weight.data = value * torch.eye(3).double()
    x = torch.full((4, 3), 500.0).double()
    scores = _run(net, [(x, x)], LayerAblation(), task=_Explodes())
    assert scores.missing == {"1": "4 of 4 losses are not finite with it edited"}
    assert set(scores) == {"0", "2"}


def test_batches_of_one_sample_cannot_be_resampled():
    net = _chain()
    batch = torch.randn(1, 5).double(), torch.randn(1, 5).double()
    scores = _run(net, [batch, batch], LayerAblation(mode="resample"))
    assert not scores
    assert set(scores.missing.values()) == {"no batch has a second sample to stand in"}


def test_the_model_is_bit_identical_afterwards_also_after_an_error():
    net = nn.Sequential(
        nn.Linear(4, 6), *[nn.Sequential(_Linear(6), nn.BatchNorm1d(6)) for _ in range(3)]
    ).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    batch = torch.randn(8, 4), torch.randint(0, 6, (8,))

    class Fails(Classification):
        calls = 0

        def quality(self, output, labels, batch):
            Fails.calls += 1
            if Fails.calls > 2:
                raise RuntimeError("stop")
            return super().quality(output, labels, batch)

    state = torch.get_rng_state()
    _run(net, [batch], LayerAblation(mode="resample"), task=Classification())
    with pytest.raises(RuntimeError, match="stop"):
        _run(net, [batch], LayerAblation(), task=Fails())
    after = net.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training and "forward" not in m.__dict__ for m in net.modules())


@given(st.integers(2, 40), st.integers(0, 5))
def test_a_derangement_is_one_cycle_that_leaves_nobody_in_place(count, seed):
    donors = derangement(count, torch.Generator().manual_seed(seed))
    place, seen = 0, []
    for _ in range(count):
        seen.append(place)
        place = int(donors[place])
    assert place == 0
    assert sorted(seen) == list(range(count))
    with pytest.raises(ValueError, match="count must be at least 2"):
        derangement(1, torch.Generator())


def test_a_donor_s_padding_is_filled_with_its_mean_token():
    rows = torch.tensor([[[1.0], [2.0], [3.0]], [[5.0], [7.0], [99.0]]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    for layer, stream in (
        (nn.Linear(1, 1), rows),
        (nn.Conv1d(1, 1, 1), rows.mT),  # features before tokens
    ):
        model = nn.Sequential(nn.Sequential(layer, nn.Tanh()), nn.Flatten())
        batch = {"input": stream, "mask": mask, "labels": torch.zeros(2).long()}
        task = Classification(inputs=lambda batch: Call((batch["input"],)))
        units = discover(model, batch, units=["0"], call=task.inputs(batch))
        subject = Subject(model, units, task, [batch], modality=Text())
        got = donated(subject, units[0], batch, stream, torch.tensor([1, 0]))
        assert got.flatten(1).tolist() == [[5.0, 7.0, 6.0], [1.0, 2.0, 3.0]]


def test_intervals_hold_the_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    held = {"t": 0, "bootstrap": 0}
    for seed in range(200):
        draws = torch.empty(30, dtype=torch.float64).exponential_(generator=generator)
        small = t_interval(draws, confidence=0.9)
        held["t"] += small.low <= 1 <= small.high
        big = bootstrap_interval(draws, confidence=0.9, resamples=300, seed=seed)
        held["bootstrap"] += big.low <= 1 <= big.high
    # 200 draws at 0.9: a standard deviation of 4.2; both lose a little to the skew
    assert 165 <= held["t"] <= 193
    assert 165 <= held["bootstrap"] <= 193


def test_intervals_of_few_or_equal_differences():
    assert t_interval(torch.tensor([2.0])).low == -math.inf
    equal = bootstrap_interval(torch.full((5,), 0.25))
    assert (equal.low, equal.mean, equal.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="confidence must be inside 0..1, got 1"):
        t_interval(torch.ones(3), confidence=1)
    with pytest.raises(ValueError, match="n >= 2"):
        bootstrap_interval(torch.ones(1))
    with pytest.raises(ValueError, match="at least one number"):
        t_interval(Moments())


def test_the_ratio_of_means_has_the_error_of_the_delta_method():
    generator = torch.Generator().manual_seed(0)
    found, errors = [], []
    for _ in range(400):
        noise = torch.randn(200, 2, generator=generator, dtype=torch.float64)
        below = 2 + 0.5 * noise[:, 0]
        ratio = Ratio()
        ratio.add(0.5 * below + 0.3 * noise[:, 1], below)
        found.append(ratio.value)
        errors.append(ratio.standard_error)
    spread = float(torch.tensor(found).std())
    assert spread == pytest.approx(sum(errors) / 400, rel=0.1)
    assert sum(found) / 400 == pytest.approx(0.5, abs=0.004)


def test_discovered_chains_and_a_single_unit_work_alike():
    net = _chain(1)
    batch = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    with pytest.raises(ValueError, match="mode must be"):
        Ablation(None, "none")
    found = discover(net, batch)
    assert len(_run(net, [batch], LayerAblation(), units=found)) == len(found)
