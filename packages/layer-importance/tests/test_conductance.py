import pytest
import torch
from torch import nn

from layer_importance import Task, Unit, Units, analyze
from layer_importance._methods.conductance import Conductance
from layer_importance._quadrature import gauss_legendre
from layer_importance._streams import derangement


class _Squares(Task):
    name = "squares"

    def loss(self, output, labels, batch):
        return (output - labels).square().sum(1)


class _Linear(nn.Module):
    """``x + A x``."""

    def __init__(self, d=4):
        super().__init__()
        self.a, self.b = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        nn.init.normal_(self.a.weight, std=0.5)

    def forward(self, x):
        return x + self.b(self.a(x))


class _Tanh(_Linear):
    def forward(self, x):
        return x + self.b(torch.tanh(self.a(x)))


def _chain(block, length=4):
    torch.manual_seed(0)
    return nn.Sequential(*[block() for _ in range(length)]).double()


def _batch(count=9):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(count, 4, generator=generator, dtype=torch.float64) for _ in "xy")


def _conductance(net, batches, units=None, **kwargs):
    method = Conductance(**kwargs)
    return analyze(net, batches, task=_Squares(), methods=[method], units=units)["conductance"]


def test_the_quadrature_integrates_and_differentiates_polynomials():
    for points in (2, 5, 9):
        nodes, weights, matrix = gauss_legendre(points)
        for power in range(2 * points):
            want = 1 / (power + 1)
            assert float(weights @ nodes**power) == pytest.approx(want, rel=1e-12)
        for power in range(1, points):
            torch.testing.assert_close(matrix @ nodes**power, power * nodes ** (power - 1))


@pytest.mark.parametrize("baseline", ["zero", "resample"])
def test_in_a_linear_chain_it_is_the_closed_form(baseline):
    net, (x, y) = _chain(_Linear), _batch()
    scores = _conductance(net, [(x, y)], baseline=baseline, points=2)
    start = torch.zeros_like(x)
    if baseline == "resample":
        start = x[derangement(9, torch.Generator().manual_seed(0))]
    with torch.no_grad():
        # the loss is quadratic: its gradient along the path is that of the middle on average
        middle = 2 * (net((x + start) / 2) - y)
        for b in range(4):
            flow = x - start
            for block in net[:b]:
                flow = block(flow)
            flow = net[b](flow) - flow
            for block in net[b + 1 :]:
                flow = block(flow)
            want = -float((middle * flow).sum(1).mean())
            assert scores[str(b)].value == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("baseline", ["zero", "resample"])
def test_in_a_chain_branch_and_skip_add_up_to_all_of_it(baseline):
    net, batch = _chain(_Tanh), _batch()
    scores = _conductance(net, [batch], baseline=baseline, points=48)
    for name, score in scores.items():
        total = scores.extras["total"][name]
        assert score.value + scores.extras["passed_on"][name] == pytest.approx(total, rel=1e-7)
        assert abs(scores.extras["gap"][name]) < 1e-7 * abs(total)
        assert score.value != 0
    coarse = _conductance(net, [batch], baseline=baseline, points=2)
    assert max(map(abs, coarse.extras["gap"].values())) > 1e-3


def test_noise_in_the_place_of_a_branch_does_not_add_up():
    net, batch = _chain(_Tanh), _batch()
    scores = _conductance(net, [batch], points=48)
    noise = torch.randn(4, generator=torch.Generator().manual_seed(0)).tolist()
    for name, value in zip(scores, noise, strict=True):
        gap = scores.extras["total"][name] - value - scores.extras["passed_on"][name]
        assert abs(gap) > 0.01 * abs(scores.extras["total"][name])


class _Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = _Tanh()
        self.branches = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in "abc"])

    def forward(self, x):
        x = self.before(x)
        return sum(branch(x) for branch in self.branches)


def test_what_flows_through_parallel_branches_adds_up_to_all_of_it():
    torch.manual_seed(0)
    net = _Parallel().double()
    named = dict.fromkeys(("chain", "tower", "type_name"), "")
    units = [
        Unit(name=p, path=p, index=0, parameters=0, removal=r, **named)
        for p, r in [("before", "identity"), *((f"branches.{i}", "zero") for i in range(3))]
    ]
    scores = _conductance(net, [_batch()], Units(tuple(units)), points=48)
    total = scores.extras["total"]["before"]
    parts = [scores[f"branches.{i}"].value for i in range(3)]
    assert sum(parts) == pytest.approx(total, rel=1e-7)
    assert min(map(abs, parts)) > 1e-3


def test_a_dead_branch_conducts_exactly_nothing():
    net = _chain(_Tanh)
    nn.init.zeros_(net[2].b.weight)
    score = _conductance(net, [_batch()])["2"]
    assert (score.value, score.standard_error) == (0.0, 0.0)


class _Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([_Tanh() for _ in range(3)])

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


def test_what_is_in_the_padding_changes_no_score():
    torch.manual_seed(0)
    net = _Tokens().double()
    found = [_conductance(net, [_padded(g)], points=4) for g in (0.0, 50.0)]
    for name in found[0]:
        assert found[0][name].value == pytest.approx(found[1][name].value, rel=1e-11)


def test_where_there_is_no_baseline_the_reason_is_said():
    net, (x, y) = _chain(_Tanh), _batch()
    scores = _conductance(net, [(x[:1], y[:1])])
    assert not scores
    assert "has no baseline" in scores.missing["0"]
    assert len(_conductance(net, [(x[:1], y[:1])], baseline="zero")) == 4
    with pytest.raises(ValueError, match="baseline must be one of resample, zero, got 'mean'"):
        Conductance(baseline="mean")
    with pytest.raises(ValueError, match="points must be at least 2, got 1"):
        Conductance(points=1)
