"""Refitting layer by layer, through the layers already compressed."""

import copy

import pytest
import torch
from torch import nn

from adlrns_models import ElasticModel, make_elastic, refit
from adlrns_models._cross_moments import CrossMoments
from adlrns_models._order import order_of

F64 = torch.float64


def rows(count, features=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator, dtype=F64)
    return x * torch.logspace(0.5, -0.5, features, dtype=F64) + 0.3


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 8)
    ).double()


def off(elastic, model, x):
    with torch.no_grad():
        return float((elastic(x) - model(x)).square().sum())


def moments_of(z, y):
    moments = CrossMoments(z.shape[1], {"": y.shape[1]}, z.device)
    for some, more in zip(z.split(37), y.split(37), strict=True):
        moments.add(some, {"": more})
    return moments


# the closed form


def test_the_best_map_is_least_squares_with_an_intercept():
    z, noise = rows(300), rows(300, 6, 1)
    y = z @ torch.randn(20, 6, dtype=F64) + noise
    best, bias = moments_of(z, y).best_map("", torch.zeros(6, 20, dtype=F64), 1e-13)
    ones = torch.cat([z, torch.ones(300, 1, dtype=F64)], 1)
    wanted = torch.linalg.lstsq(ones, y).solution.T
    torch.testing.assert_close(best, wanted[:, :-1], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(bias, wanted[:, -1], rtol=1e-7, atol=1e-9)


def test_the_ridge_draws_to_the_old_weight():
    z, W = rows(300), torch.randn(6, 20, dtype=F64)
    y = rows(300, 6, 1)
    moments = moments_of(z, y)
    lam = 0.1 * float((z - z.mean(0)).square().sum()) / 20
    best = moments.best_map("", W, 0.1)[0].requires_grad_(True)
    loss = (y - y.mean(0) - (z - z.mean(0)) @ best.T).square().sum()
    (loss + lam * (best - W).square().sum()).backward()
    torch.testing.assert_close(best.grad, torch.zeros_like(W), rtol=0, atol=1e-8)
    torch.testing.assert_close(moments.best_map("", W, 1e12)[0], W)


def test_directions_without_inputs_keep_the_old_weight():
    z, W = rows(300), torch.randn(6, 20, dtype=F64)
    z[:, 12:] = 0.0
    best, _ = moments_of(z, rows(300, 6, 1)).best_map("", W, 1e-3)
    torch.testing.assert_close(best[:, 12:], W[:, 12:])


def test_a_row_that_is_not_finite_does_not_count():
    z, y = rows(100), rows(100, 6, 1)
    broken_z, broken_y = z.clone(), y.clone()
    broken_z[3, 0], broken_y[50, 2] = float("nan"), float("inf")
    fine = torch.ones(100, dtype=torch.bool)
    fine[[3, 50]] = False
    W = torch.zeros(6, 20, dtype=F64)
    found = moments_of(broken_z, broken_y).best_map("", W, 1e-6)
    wanted = moments_of(z[fine], y[fine]).best_map("", W, 1e-6)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rank", [2, 5])
def test_no_other_second_layer_of_that_rank_has_less_error(rank):
    model = nn.Sequential(nn.Linear(20, 12), nn.Linear(12, 10)).double()
    x = rows(400)
    elastic = make_elastic(model, [x])
    ranks = {"0": 4, "1": rank}
    # the gradient of all outputs alike: what is weighed equally is plain least squares
    outputs = iter(torch.eye(10, dtype=F64))
    refit(
        elastic, [x] * 10, ranks=[ranks], ridge=1e-12,
        objective=lambda y, batch: (y * next(outputs)).sum() if y.shape[0] == 400 else y.sum(),
    )  # fmt: skip
    elastic.set_ranks(ranks)
    with torch.no_grad():
        y, z = model(x), elastic.layers()["0"](x)
    Y, Z = y - y.mean(0), z - z.mean(0)
    fitted = Z @ torch.linalg.lstsq(Z, Y, driver="gelsd").solution
    spectrum = torch.linalg.svdvals(fitted).square()
    least = float((Y - fitted).square().sum() + spectrum[rank:].sum())
    assert off(elastic, model, x) == pytest.approx(least, rel=1e-6)


# the whole model


def test_errors_on_unseen_inputs_fall():
    model, x, unseen = network(), rows(2000), rows(500, seed=5)
    elastic = make_elastic(model, x.split(200))
    old = copy.deepcopy(elastic)
    refit(elastic, x.split(200), shares=[0.4])
    for model_or_old in (old, elastic):
        model_or_old.set_budget(parameters=0.4)
    assert off(elastic, model, unseen) < 0.95 * off(old, model, unseen)


def test_at_full_rank_there_is_nothing_to_correct():
    model, x = network(), rows(500)
    elastic = make_elastic(model, [x])
    before = {share: elastic.set_budget(parameters=share).ranks for share in (0.3, 0.6)}
    refit(elastic, [x], shares=[1.0])
    assert {share: elastic.set_budget(parameters=share).ranks for share in before} == before
    elastic.set_budget(parameters=1.0)
    assert off(elastic, model, rows(50, seed=2)) < 1e-18


def test_without_correction_the_full_rank_stays():
    model, x = network(), rows(500)
    elastic = make_elastic(model, [x])
    refit(elastic, [x], shares=[0.3], correct=False)
    elastic.set_budget(parameters=1.0)
    assert off(elastic, model, rows(50, seed=2)) < 1e-18


def test_with_the_correction_it_does_not():
    model, x = network(), rows(500)
    elastic = make_elastic(model, [x])
    refit(elastic, [x], shares=[0.3])
    elastic.set_budget(parameters=1.0)
    assert off(elastic, model, x) > 1e-6


def test_prefixes_stay_ordered():
    model, x = network(), rows(1000)
    elastic = make_elastic(model, [x])
    refit(elastic, [x], shares=[0.3, 0.6, 1.0])
    losses = []
    for share in (0.2, 0.35, 0.5, 0.7, 0.9):
        elastic.set_budget(parameters=share)
        losses.append(off(elastic, model, x))
    assert losses == sorted(losses, reverse=True)
    for profile in elastic.profiles.values():
        assert sorted(profile.loss, reverse=True) == list(profile.loss)


@pytest.mark.parametrize("times", [1, 3])
def test_layers_that_share_an_input_are_one_group(times):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.o = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            for _ in range(times):
                x = self.o(self.q(x) * self.k(x).sigmoid())
            return x

    model = Attention()
    layers = dict(model.named_children())
    order = order_of(layers, lambda: model(torch.randn(4, 8)))
    assert order.groups == [["q", "k"], ["o"]]
    assert dict(order.calls) == dict.fromkeys("qko", times)
    x = [torch.randn(64, 8)]
    elastic = make_elastic(model, x)
    refit(elastic, x, shares=[0.7])
    assert all(p.isfinite().all() for p in elastic.parameters())


def test_an_input_changed_in_place_is_another():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = x + 1
            y = self.a(x)
            return y + self.b(x.mul_(2))

    model = Model()
    order = order_of(dict(model.named_children()), lambda: model(torch.randn(4, 4)))
    assert order.groups == [["a"], ["b"]]


def test_convolutions_are_refitted(digits, digits_cnn):
    x, _, unseen, _ = digits
    elastic = make_elastic(digits_cnn, x[:512].split(64)).eval()
    elastic.set_budget(flops=0.2)
    before = off(elastic, digits_cnn, unseen)
    refit(elastic, x[:384].split(128), shares=[0.2], cost="flops")
    elastic.set_budget(flops=0.2)
    assert off(elastic, digits_cnn, unseen) < before


def state(elastic):
    return {name: value.clone() for name, value in elastic.state_dict().items()}


@pytest.mark.parametrize("where", ["forward", "objective", "progress"])
def test_a_failure_changes_nothing(where):
    model, x = network(), rows(100)
    elastic = make_elastic(model, [x]).train()
    point = elastic.set_budget(parameters=0.5)
    before, profiles = state(elastic), elastic.profiles
    calls = []

    def fail(*_):
        calls.append(where)
        if len(calls) > (8 if where == "forward" else 1):
            raise KeyError(where)

    def forward(model, batch):
        if where == "forward":
            fail()
        return model(batch)

    def objective(output, batch):
        fail()
        return output.sum()

    with pytest.raises(KeyError, match=where):
        refit(
            elastic,
            [x, x],
            shares=[0.3],
            forward=forward,
            objective=objective if where == "objective" else None,
            progress=fail if where == "progress" else None,
        )
    for name, value in state(elastic).items():
        assert torch.equal(value, before[name]), name
    assert elastic.profiles is profiles
    assert elastic.operating_point is point
    assert elastic.ranks() == point.ranks
    assert elastic.training
    assert not any(part._forward_hooks for part in elastic.modules())


def test_it_is_saved_and_loaded_like_any_other(tmp_path):
    model, x = network(), rows(200)
    elastic = make_elastic(model, [x])
    refit(elastic, [x], shares=[0.5])
    elastic.set_budget(parameters=0.5)
    elastic.save(tmp_path)
    again = ElasticModel.load(tmp_path, model)
    with torch.no_grad():
        assert torch.equal(again(x), elastic(x))
    assert again.set_budget(parameters=0.3).ranks == elastic.set_budget(parameters=0.3).ranks


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"shares": []}, ValueError, "shares must not be empty"),
        ({"shares": [1.5]}, ValueError, r"shares must be in 0\.\.1, got 1.5"),
        ({"shares": [1e-6]}, ValueError, "shares must be at least"),
        ({"ranks": [{"9": 1}]}, ValueError, "ranks must name elastic layers, got '9'"),
        ({"ranks": [{"0": 99}]}, ValueError, r"ranks\['0'\] must be in 0\.\.20, got 99"),
        ({"ridge": 0.0}, ValueError, "ridge must be positive and finite, got 0.0"),
        ({"correct": 1}, TypeError, "correct must be True or False, got 1"),
        ({"cost": "joules"}, ValueError, "cost must be one of"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    x = rows(50)
    elastic = make_elastic(network(), [x])
    with pytest.raises(error, match=message):
        refit(elastic, [x], **arguments)
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        refit(elastic, [])
    with pytest.raises(TypeError, match="put it into a list"):
        refit(elastic, x)
