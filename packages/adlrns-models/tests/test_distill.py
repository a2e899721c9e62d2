"""A short training from the model's own full rank."""

import copy

import pytest
import torch
from torch import nn

from adlrns_models import distill, make_elastic
from adlrns_models._gauge import balance

F64 = torch.float64
BUDGETS = (0.3, 0.4, 0.5, 0.7, 1.0)


def rows(count, seed=0, features=20):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator, dtype=F64)
    return x * torch.logspace(0.3, -0.7, features, dtype=F64) + 0.3


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 40), nn.Tanh(), nn.Dropout(0.5), nn.Linear(40, 40), nn.LayerNorm(40),
        nn.Tanh(), nn.Linear(40, 8),
    ).double()  # fmt: skip


@pytest.fixture(scope="module")
def made():
    model = network().eval()
    return model, make_elastic(model, rows(512).split(64))


def off(elastic, model, x, share):
    elastic.set_budget(parameters=share)
    with torch.no_grad():
        wanted = model(x)
        return float((elastic(x) - wanted).square().sum() / wanted.square().sum())


def state(elastic):
    return {name: value.clone() for name, value in elastic.state_dict().items()}


def same(elastic, before):
    return all(torch.equal(value, before[name]) for name, value in state(elastic).items())


BATCHES = rows(2048, seed=3).split(64)


@pytest.fixture(scope="module")
def trained(made):
    elastic = copy.deepcopy(made[1])
    return elastic, distill(elastic, BATCHES, steps=120, lr=0.02)


@pytest.mark.parametrize("share", [0.3, 0.4, 0.5])
def test_unseen_inputs_are_answered_more_as_by_the_full_rank(made, trained, share):
    model, old = made
    x = rows(500, seed=9)
    assert off(trained[0], model, x, share) < 0.85 * off(copy.deepcopy(old), model, x, share)


def test_the_full_rank_stays_near_itself_and_more_budget_stays_better(made, trained):
    x = rows(500, seed=9)
    errors = [off(trained[0], made[0], x, share) for share in BUDGETS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[2]


def test_what_was_done_is_told(trained):
    _, done = trained
    assert len(done.losses) == 120
    assert sum(done.losses[-10:]) < sum(done.losses[:10])
    assert len(done.ranks) == 5
    assert all(set(point) == {"0", "3", "6"} for point in done.ranks)


def test_only_the_factors_move(made):
    elastic = copy.deepcopy(made[1]).train()
    elastic.network[3].enable_adaptation(True)
    before, point = state(elastic), elastic.set_budget(parameters=0.6)
    random, modes = torch.get_rng_state(), [part.training for part in elastic.modules()]
    elastic.network[6].up.grad = marker = torch.ones_like(elastic.network[6].up)
    distill(elastic, BATCHES, steps=3, shares=[0.4])
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in elastic.modules()] == modes
    assert elastic.operating_point is point
    assert elastic.ranks() == point.ranks
    assert elastic.network[6].up.grad is marker
    assert all(p.requires_grad for p in elastic.parameters())
    after = state(elastic)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    factors = ("down", "up", "inner_bias", "outer_bias")
    assert {name.rpartition(".")[2] for name in moved} - {"rank", "_extra_state"} <= set(factors)
    for layer in ("0", "3", "6"):
        assert all(f"network.{layer}.{part}" in moved for part in factors[:2])


def test_other_parameters_train_where_asked_and_frozen_ones_never(made):
    elastic = copy.deepcopy(made[1])
    elastic.network[0].requires_grad_(False)
    before = state(elastic)
    distill(elastic, BATCHES, steps=3, shares=[0.4], train_others=True)
    after = state(elastic)
    assert not torch.equal(before["network.4.weight"], after["network.4.weight"])
    kept = [name for name in before if name.startswith("network.0.") and "extra" not in name]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert not elastic.network[0].up.requires_grad
    elastic.requires_grad_(False)
    with pytest.raises(ValueError, match="elastic must have parameters that require gradients"):
        distill(elastic, BATCHES, steps=3)


@pytest.mark.parametrize("part", ["down", "up", "inner_bias", "outer_bias"])
def test_a_factor_that_is_frozen_alone_stays_as_it_is(made, part):
    elastic = copy.deepcopy(made[1])
    for layer in elastic.layers().values():
        getattr(layer, part).requires_grad_(False)
    before = state(elastic)
    distill(elastic, BATCHES, steps=3, shares=[0.4])
    after = state(elastic)
    moved = {
        name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])
    }
    assert part not in moved
    assert {"down", "up"} - {part} <= moved


def test_equal_calls_give_equal_weights(made):
    twins = [copy.deepcopy(made[1]) for _ in range(3)]
    for twin, seed in zip(twins, (0, 0, 1), strict=True):
        distill(twin, BATCHES, steps=4, seed=seed)
    assert same(twins[1], state(twins[0]))
    assert not same(twins[2], state(twins[0]))


def test_ranks_can_be_named_and_unnamed_layers_are_full(made):
    elastic = copy.deepcopy(made[1])
    done = distill(elastic, BATCHES, steps=2, ranks=[{"3": 4}])
    assert done.ranks == ({"0": 20, "3": 4, "6": 8},)


def test_another_teacher_and_another_loss_are_followed(made):
    model, elastic = made[0], copy.deepcopy(made[1])
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        teacher[6].bias.add_(1.0)
    distill(
        elastic, BATCHES, steps=100, lr=0.05, shares=[0.7], teacher=teacher,
        loss=lambda s, t, batch: (s - t).abs().mean(),
    )  # fmt: skip
    x = rows(200, seed=9)
    assert off(elastic, teacher, x, 0.7) < 0.2 * off(elastic, model, x, 0.7)


@pytest.mark.parametrize("where", ["forward", "loss", "progress", "not finite"])
def test_a_failure_changes_nothing(made, where):
    elastic = copy.deepcopy(made[1]).train()
    point = elastic.set_budget(parameters=0.5)
    before, calls = state(elastic), []

    def fail(*_):
        calls.append(where)
        if len(calls) > 4:
            raise KeyError(where)

    def forward(model, batch):
        if where == "forward":
            fail()
        return model(batch)

    def loss(student, teacher, batch):
        if where == "loss":
            fail()
        calls.append(0)
        factor = float("nan") if where == "not finite" and len(calls) > 4 else 1.0
        return (student - teacher).square().mean() * factor

    with pytest.raises((KeyError, ValueError), match=where if where != "not finite" else "finite"):
        distill(
            elastic, BATCHES, steps=9, forward=forward, loss=loss,
            progress=fail if where == "progress" else None,
        )  # fmt: skip
    assert same(elastic, before)
    assert elastic.ranks() == point.ranks
    assert elastic.operating_point is point
    assert elastic.training
    assert all(p.requires_grad and p.grad is None for p in elastic.parameters())


def test_it_trains_where_inference_mode_is_on(made):
    elastic = copy.deepcopy(made[1])
    with torch.inference_mode():
        done = distill(elastic, BATCHES, steps=30, shares=[0.4])
    assert sum(done.losses[-5:]) < sum(done.losses[:5])
    assert not any(p.is_inference() for p in elastic.parameters())


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"steps": 0}, ValueError, "steps must be in 1"),
        ({"per_step": 0}, ValueError, "per_step must be in 1"),
        ({"lr": 0.0}, ValueError, "lr must be positive and finite, got 0.0"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        ({"shares": []}, ValueError, "shares must not be empty"),
        ({"ranks": []}, ValueError, "ranks must not be empty"),
        ({"shares": [2.0]}, ValueError, r"shares must be in 0\.\.1, got 2.0"),
        ({"teacher": "me"}, TypeError, "teacher must be a Module, got str"),
        ({"train_others": 1}, TypeError, "train_others must be True or False, got 1"),
    ],
)
def test_wrong_arguments_are_named(made, arguments, error, message):
    with pytest.raises(error, match=message):
        distill(made[1], BATCHES, **arguments)


def test_batches_that_are_none_are_refused(made):
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        distill(made[1], [])
    with pytest.raises(TypeError, match="put it into a list"):
        distill(made[1], BATCHES[0])
    with pytest.raises(TypeError, match="elastic must be a ElasticModel"):
        distill(made[0], BATCHES)


def test_a_balanced_layer_is_the_same_at_every_rank(made):
    layer = copy.deepcopy(made[1].network[3])
    with torch.no_grad():
        layer.up[:, 2] *= 1e4
        layer.down[2] /= 1e4
        layer.inner_bias[2] /= 1e4
        layer.down[5] = 0.0
    before = [layer.effective_weight(rank) for rank in range(41)]
    balance(layer)
    for rank, (weight, bias) in enumerate(before):
        torch.testing.assert_close(layer.effective_weight(rank)[0], weight, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.effective_weight(rank)[1], bias, rtol=1e-9, atol=1e-12)
    kept = torch.arange(40) != 5
    torch.testing.assert_close(layer.up.norm(dim=0)[kept], layer.down.norm(dim=1)[kept])


def test_convolutions_of_several_groups_are_balanced_group_by_group():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 4, 1))
    x = torch.randn(32, 8, 6, 6)
    elastic = make_elastic(model, [x])
    with torch.no_grad():
        wanted = elastic(x)
    for layer in elastic.layers().values():
        with torch.no_grad():
            balance(layer)
    with torch.no_grad():
        torch.testing.assert_close(elastic(x), wanted, atol=1e-4, rtol=1e-4)
    done = distill(elastic, [x], steps=10, shares=[0.5])
    assert done.losses[-1] < done.losses[0]
