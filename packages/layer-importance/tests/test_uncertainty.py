import itertools

import pytest
import torch
from torch import nn

from layer_importance import Classification, Task, analyze
from layer_importance._methods.uncertainty_delta import UncertaintyDelta
from layer_importance._methods.uncertainty_quantification import UncertaintyQuantification
from layer_importance._noise import Dropout, WeightNoise
from layer_importance._posterior import PosteriorNoise


class _Output(Task):
    name = "output"

    def loss(self, output, labels, batch):
        return output.flatten(1).sum(1)


class _Block(nn.Module):
    def __init__(self, d=5):
        super().__init__()
        self.up, self.down = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def _net(classes, length=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[_Block() for _ in range(length)], nn.Linear(5, classes)).double()


def _uncertainty(net, x, task=None, **kwargs):
    method = UncertaintyQuantification(**kwargs)
    labels = torch.zeros(len(x), dtype=torch.long)
    report = analyze(net, [(x, labels)], task=task or Classification(), methods=[method])
    return report[method.name]


def _branches(net, x):
    with torch.no_grad():
        for block in list(net)[:-1]:
            y = block(x)
            yield x, y - x
            x = y


def test_the_variance_of_a_linear_answer_is_its_closed_form():
    net, x = _net(1), torch.randn(20, 5, dtype=torch.float64)
    scores = _uncertainty(net, x, _Output(), noise=Dropout(0.3), draws=1000)
    *_, (_, added) = _branches(net, x)
    want = 0.3 / 0.7 * (added.square() @ net[-1].weight[0].detach().square())
    # the variance of 1000 draws is known to about sqrt(2 / 1000) = 4.5 %
    assert scores["2"].value == pytest.approx(float(want.mean()), rel=0.15)
    assert scores.measure == "squared output"


def _exact_bald(net, unit, x, rate):
    """Over all masks, with their probabilities."""
    entered, added = list(_branches(net, x))[unit]
    mean, entropies = 0, 0
    with torch.no_grad():
        for kept in itertools.product([0, 1], repeat=5):
            mask = torch.tensor(kept, dtype=torch.float64)
            weight = float(torch.where(mask > 0, 1 - rate, rate).prod())
            y = entered + added * mask / (1 - rate)
            for block in list(net)[unit + 1 :]:
                y = block(y)
            p = y.softmax(1)
            mean, entropies = mean + weight * p, entropies - weight * (p * p.log()).sum(1)
    return float((-(mean * mean.log()).sum(1) - entropies).mean())


def test_the_information_of_dropout_is_that_over_all_masks():
    net, x = _net(3), torch.randn(10, 5, dtype=torch.float64)
    scores = _uncertainty(net, x, noise=Dropout(0.25), draws=1000)
    for unit in range(3):
        want = _exact_bald(net, unit, x, 0.25)
        assert scores[str(unit)].value == pytest.approx(want, rel=0.15)
    assert scores.measure == "nats"


def _seeded(net, batch, method, seed):
    report = analyze(net, [batch], methods=[method], seed=seed, units=["2"])
    return report[method.name]


def test_few_draws_are_right_on_average():
    net, x = _net(3), torch.randn(10, 5, dtype=torch.float64)
    want = _exact_bald(net, 2, x, 0.1)
    found = []
    for seed in range(200):
        method = UncertaintyQuantification(noise=Dropout(0.1), draws=3)
        batch = x, torch.zeros(10, dtype=torch.long)
        found.append(_seeded(net, batch, method, seed))
    values = torch.tensor([scores["2"].value for scores in found])
    error = float(values.std() / 200**0.5)
    assert abs(float(values.mean()) - want) < 4 * error
    # without K / (K - 1) it would be a third lower, which is far outside
    assert want / 3 > 4 * error


def test_units_differ_and_one_that_is_never_used_adds_nothing():
    net, x = _net(3), torch.randn(10, 5, dtype=torch.float64)
    nn.init.zeros_(net[1].down.weight)
    nn.init.zeros_(net[1].down.bias)
    scores = _uncertainty(net, x)
    assert scores["1"].value == pytest.approx(0, abs=1e-14)
    assert abs(scores["0"].value - scores["2"].value) > 0.05 * scores["2"].value > 0


@pytest.mark.parametrize("noise", [Dropout(0.0), WeightNoise(0.0), PosteriorNoise(precision=1e32)])
def test_no_noise_is_no_uncertainty(noise):
    net, x = _net(3), torch.randn(10, 5, dtype=torch.float64)
    for task in (Classification(), _Output()):
        for score in _uncertainty(net, x, task, noise=noise).values():
            assert score.value == pytest.approx(0, abs=1e-14)


class _Linear(nn.Module):
    def __init__(self, d=5):
        super().__init__()
        self.a = nn.Linear(d, d, bias=False)

    def forward(self, x):
        return self.a(x)


def test_noise_on_the_weights_of_a_linear_layer_has_its_closed_form():
    torch.manual_seed(0)
    net, x = nn.Sequential(_Linear(), _Linear()).double(), torch.randn(15, 5).double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    method = UncertaintyQuantification(noise=WeightNoise(0.2), draws=1000)
    report = analyze(net, [(x, x)], task=_Output(), methods=[method], units=["0", "1"])
    with torch.no_grad():
        inner = net[0](x)
        spread = [float(0.04 * block.a.weight.square().mean()) for block in net]
        out = float(net[1].a.weight.square().sum())
    last = 5 * spread[1] * inner.square().sum(1).mean()
    first = out * spread[0] * x.square().sum(1).mean()
    assert report[method.name]["1"].value == pytest.approx(float(last), rel=0.15)
    assert report[method.name]["0"].value == pytest.approx(float(first), rel=0.15)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class _Row(nn.Module):
    def __init__(self, *, bias):
        super().__init__()
        self.layer = nn.Linear(4, 3, bias=bias)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("bias", [False, True])
def test_the_posterior_of_a_linear_gaussian_model_is_its_closed_form(bias):
    torch.manual_seed(0)
    x = torch.randn(12, 4).double() * torch.tensor([3.0, 1.0, 0.3, 0.0])
    net, s2, tau = _Row(bias=bias).double(), 0.5, 2.0
    method = UncertaintyQuantification(noise=PosteriorNoise(s2, tau), draws=800)
    batches = [(part, part) for part in x.split(5)]
    report = analyze(net, batches, task=_Output(), methods=[method], units=["layer"])
    rows = torch.cat([x, torch.ones(12, 1).double()], 1) if bias else x
    covariance = torch.linalg.inv(rows.T @ rows / s2 + tau * torch.eye(rows.shape[1]))
    want = 3 * torch.einsum("ni,ij,nj->n", rows, covariance, rows)
    assert report[method.name]["layer"].value == pytest.approx(float(want.mean()), rel=0.1)
    # the inputs are looked at once, the unchanged run, and each draw
    assert report[method.name].forwards == 802


def test_a_posterior_knows_more_the_more_it_has_seen_and_no_more_than_its_prior():
    torch.manual_seed(0)
    net, x = _net(1, length=2), torch.randn(40, 5).double()
    found = {}
    for name, count, tau in (("few", 4, 1.0), ("many", 40, 1.0), ("sure", 4, 1e9)):
        rows = x[:4].repeat(count // 4, 1)
        noise = PosteriorNoise(precision=tau)
        scores = _uncertainty(net, rows, _Output(), noise=noise, draws=64)
        found[name] = [score.value for score in scores.values()]
    for few, many, sure in zip(*found.values(), strict=True):
        assert few > 2 * many > 0
        assert sure == pytest.approx(0, abs=1e-7)


def test_units_without_a_linear_layer_have_no_posterior():
    net = nn.Sequential(nn.Sequential(nn.LayerNorm(5), nn.Tanh()), nn.Linear(5, 2)).double()
    batch = torch.randn(4, 5).double(), torch.zeros(4).long()
    method = UncertaintyQuantification(noise=PosteriorNoise(), draws=2)
    scores = analyze(net, [batch], methods=[method], units=["0"])[method.name]
    assert scores.missing == {"0": "has no linear layer that was run"}


def test_scores_are_the_same_for_every_split_into_batches():
    net, x = _net(3), torch.randn(12, 5, dtype=torch.float64)
    labels = torch.zeros(12, dtype=torch.long)
    whole = _uncertainty(net, x)
    parts = [(x[a:b], labels[a:b]) for a, b in ((0, 5), (5, 6), (6, 12))]
    split = analyze(net, parts, methods=[UncertaintyQuantification()])[whole.method]
    for name in whole:
        assert split[name].value == pytest.approx(whole[name].value, rel=1e-10)
        error = whole[name].standard_error
        assert split[name].standard_error == pytest.approx(error, rel=1e-9)
    assert split.forwards == UncertaintyQuantification().passes(3)[0] == 17


def test_the_delta_method_is_the_information_of_little_noise():
    net = _net(3)
    x = torch.randn(6, 5, dtype=torch.float64)
    many = x.repeat(3000, 1)  # each of the six with many drawn labels
    batch = many, torch.zeros(len(many), dtype=torch.long)
    cheap = analyze(net, [batch], methods=[UncertaintyDelta(rate=0.002)])["uncertainty_delta"]
    for unit in range(3):
        want = _exact_bald(net, unit, x, 0.002)
        got = cheap[str(unit)]
        assert got.value == pytest.approx(want, rel=0.05)


def test_the_delta_method_for_a_linear_head_is_its_closed_form():
    net, x = _net(4), torch.randn(4000, 5, dtype=torch.float64)
    batch = x, torch.zeros(len(x), dtype=torch.long)
    score = analyze(net, [batch], methods=[UncertaintyDelta(rate=0.2)])["uncertainty_delta"]["2"]
    *_, (entered, added) = _branches(net, x)
    with torch.no_grad():
        p = net[-1](entered + added).softmax(1)
        w = net[-1].weight
        centred = w[None] - (p @ w)[:, None]
        variance = (p[..., None] * centred.square()).sum(1)
        want = 0.2 / 1.6 * (added.square() * variance).sum(1)
    assert abs(score.value - float(want.mean())) < 4 * score.standard_error
    assert score.standard_error < 0.05 * score.value


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="draws must be at least 2, got 1"):
        UncertaintyQuantification(draws=1)
    with pytest.raises(ValueError, match="rate must be in 0..1, 1 excluded, got 1"):
        Dropout(1)
    with pytest.raises(ValueError, match="spread must be at least 0, got -1"):
        WeightNoise(-1)
    with pytest.raises(ValueError, match="variance must be positive, got 0"):
        PosteriorNoise(0)
    with pytest.raises(ValueError, match="precision must be positive, got -1"):
        PosteriorNoise(precision=-1)
    with pytest.raises(ValueError, match="rate must be in"):
        UncertaintyDelta(rate=-0.1)
