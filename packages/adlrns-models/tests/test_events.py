"""Events: products kept while an input stays, factors kept while a stream does."""

import copy

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from adlrns_models import DynamicConv2d, DynamicLinear, EventLinear, RefactorTrigger
from adlrns_models.testing import direct_loss, least_losses, synthetic_inputs

double = torch.float64


def stream(steps, shape, step=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=double)
    for _ in range(steps):
        yield x.clone()
        x = x + step * torch.randn(shape, generator=generator, dtype=double)


def make(theta=0.5, rank=0, bias=True):
    torch.manual_seed(0)
    return EventLinear(nn.Linear(12, 8, bias=bias).double(), theta, rank=rank).eval()


# products


@given(
    seed=st.integers(0, 10**6),
    theta=st.sampled_from([0.0, 1e-3, 0.3, 2.0]),
    rank=st.integers(0, 8),
    step=st.sampled_from([0.0, 1e-4, 0.05, 1.0]),
    bias=st.booleans(),
)
def test_the_bound_holds_along_any_stream(seed, theta, rank, step, bias):
    layer = make(theta, rank, bias)
    singular = torch.linalg.svdvals(layer.linear.weight)
    bound = float(singular[rank].detach() * theta) if rank < 8 else 0.0
    assert layer.bound == pytest.approx(bound)
    with torch.no_grad():
        for x in stream(12, (2, 3, 12), step, seed):
            off = (layer(x) - layer.linear(x)).norm(dim=-1)
            assert float(off.max()) <= bound + 1e-12
            assert bool((off[layer.last_events] < 1e-12).all())


@torch.no_grad()
def test_only_rows_that_moved_are_computed():
    layer = make(0.5)
    calls = []
    layer.linear.register_forward_hook(lambda module, inputs, y: calls.append(len(inputs[0])))
    x = torch.randn(5, 12, dtype=double)
    first = layer(x)
    assert bool(layer.last_events.all())
    x[3] += 1.0
    second = layer(x)
    assert layer.last_events.tolist() == [False, False, False, True, False]
    assert calls == [5, 1]
    assert torch.equal(second[:3], first[:3])
    layer(x)
    assert calls == [5, 1]
    # a slow drift is noticed too: it is measured from the last event, not the last input
    moved = 0
    for _ in range(20):
        x[0] += 0.03
        layer(x)
        moved += int(layer.last_events[0])
    assert 3 <= moved <= 5


@torch.no_grad()
def test_a_rank_makes_the_kept_product_follow_the_input():
    x = torch.randn(5, 12, dtype=double)
    change = 0.05 * torch.randn(5, 12, dtype=double)
    off = []
    for rank in (0, 4, 8):
        layer = make(1.0, rank)
        layer(x)
        off.append(float((layer(x + change) - layer.linear(x + change)).norm()))
        assert not bool(layer.last_events.any())
    assert off[0] > 2 * off[1] > 0
    assert off[2] < 1e-12


@torch.no_grad()
def test_what_is_kept_is_no_ones_to_write_to_and_ends_with_weights_and_shapes():
    layer = make()
    x = torch.randn(4, 12, dtype=double)
    y = layer(x)
    kept = y.clone()
    y.zero_()
    assert torch.equal(layer(x.clone()), kept)
    layer(x).zero_()
    x.zero_()
    assert not torch.equal(layer(x), kept)
    assert bool(layer.last_events.all())
    layer.linear.weight.mul_(2.0)
    assert torch.equal(layer(x), layer.linear(x))
    assert bool(layer.last_events.all())
    assert layer.bound == pytest.approx(float(torch.linalg.svdvals(layer.linear.weight)[0]) * 0.5)
    layer(x)
    layer(x[:2])
    assert bool(layer.last_events.all())
    layer.reset()
    with pytest.raises(RuntimeError, match="keeps no stream yet"):
        _ = layer.last_events


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, 3, 8])
@pytest.mark.parametrize("theta", [0.0, 0.3])
def test_the_bound_holds_where_autocast_begins_and_ends(rank, theta):
    layer = make(theta, rank).float()
    for low in (None, torch.bfloat16, None, torch.float16, torch.bfloat16):
        for i, x in enumerate(stream(6, (5, 12), 0.05)):
            x = x.float()
            x[i % 5] += 10.0
            with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
                y, wanted = layer(x), layer.linear(x)
            assert y.dtype == wanted.dtype == (low or torch.float32)
            assert bool(layer.last_events.all()) == (i == 0 or theta == 0.0)
            rounding = 8 * torch.finfo(y.dtype).eps * float(wanted.norm(dim=1).max())
            assert float((y - wanted).norm(dim=1).max()) <= layer.bound + rounding


@torch.no_grad()
def test_weights_that_were_replaced_twice_are_new_all_the_same():
    layer, x = EventLinear(nn.Linear(64, 64), 0.5).eval(), torch.randn(3, 64)
    for _ in range(20):
        layer(x)
        for _ in range(2):  # the second may come to lie where the one before the first did
            layer.linear.weight = nn.Parameter(torch.randn(64, 64))
        assert torch.equal(layer(x), layer.linear(x))
        assert bool(layer.last_events.all())


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, 3])
def test_nan_is_an_event_of_its_own_row(rank):
    layer = make(0.5, rank)
    x = torch.randn(3, 12, dtype=double)
    good = layer(x)
    x[1] = float("nan")
    y = layer(x)
    assert layer.last_events.tolist() == [False, True, False]
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], good[[0, 2]])
    x[1] = 1.0
    torch.testing.assert_close(layer(x), layer.linear(x), rtol=0, atol=1e-12)
    assert layer(x[:0]).shape == (0, 8)
    assert layer(x[0]).shape == (8,)


def test_where_gradients_are_wanted_nothing_is_kept():
    layer, x = make(), torch.randn(4, 12, dtype=double)
    for training in (True, False):
        layer.train(training)
        layer(x).sum().backward()
        assert layer.linear.weight.grad is not None
        assert layer._memory is None
        layer.zero_grad()


@torch.no_grad()
def test_copies_and_states_carry_weights_and_no_stream():
    layer, x = make(), torch.randn(4, 12, dtype=double)
    layer(x)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer.linear(x))
    assert bool(twin.last_events.all())
    assert set(layer.state_dict()) == {"linear.weight", "linear.bias"}
    assert layer.float()(x.float()).dtype == torch.float32


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"theta": -1.0}, ValueError, "theta must be 0 or more"),
        ({"theta": float("nan")}, ValueError, "theta must be 0 or more"),
        ({"theta": "near"}, TypeError, "theta must be a number"),
        ({"rank": 9}, ValueError, "rank must be in 0..8, got 9"),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        make(**options)


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"x must be \[..., 12\], got \[3, 11\]"), torch.no_grad():
        make()(torch.randn(3, 11, dtype=double))
    with pytest.raises(TypeError, match="linear must be a Linear"):
        EventLinear(nn.ReLU(), 0.1)


# factors

FAMILIES = ["power-law", "outlier-channels", "log-normal-channels"]


def fitted(X, n=40, m=24):
    torch.manual_seed(0)
    layer = DynamicLinear(n, m, m, 2, dtype=double)
    trigger = RefactorTrigger(layer, rank=6, every=1, decay=1.0)
    trigger.observe(X)
    trigger.refit()
    return layer


def rotated(X, seed=3):
    generator = torch.Generator().manual_seed(seed)
    n = X.shape[1]
    return X @ torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=double)).Q


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sketch_size", [64, 12])  # 40 inputs: kept exactly, and sketched
@pytest.mark.parametrize("tau", [0.0, 0.5, 3.0])
def test_when_it_fires_fresh_factors_are_better_by_more_than_tau(family, sketch_size, tau):
    X = synthetic_inputs(family, 400, 40)
    layer = fitted(X)
    fired = 0
    for share in (0.0, 0.01, 0.1, 1.0):
        rows = torch.cat([X, share * rotated(X)])
        trigger = RefactorTrigger(
            layer, rank=6, tau=tau, sketch_size=sketch_size, decay=1.0, every=1
        )
        fires = trigger.observe(rows)
        fresh = copy.deepcopy(layer)
        fresh.refit_(trigger.sketch)
        weight = layer.weight.detach()
        now, then = loss(layer, weight, rows), loss(fresh, weight, rows)
        drift = trigger.check()
        assert drift.fires == fires
        assert drift.present <= now * (1 + 1e-9)
        assert drift.fresh >= then * (1 - 1e-9)
        if fires:
            assert now > (1 + tau) * then
        if now <= (1 + tau) * float(least_losses(weight, rows)[6]):
            assert not fires
        fired += fires
    if sketch_size == 64 and tau < 1:
        assert fired > 0


def loss(layer, weight, rows):
    error = weight - (layer.up[:, :6] @ layer.down[:6]).detach()
    return float((rows @ error.T).square().sum())


@pytest.mark.parametrize("sketch_size", [64, 12])
def test_a_stream_that_stays_fires_nothing_and_one_that_turns_does(sketch_size):
    X = synthetic_inputs("outlier-channels", 2000, 40)
    layer = fitted(X[:400])
    trigger = RefactorTrigger(layer, rank=6, sketch_size=sketch_size, decay=0.8, every=5)
    for part in X[400:1200].split(20):
        assert not trigger.observe(part)
    fired = [trigger.observe(part) for part in rotated(X[1200:]).split(20)]
    assert any(fired)
    trigger.refit()
    assert not any(trigger.observe(part) for part in rotated(X[:800]).split(20))


def test_a_refit_keeps_the_function_of_the_layer():
    layer = DynamicLinear(40, 24, 24, 2, dtype=double)
    trigger = RefactorTrigger(layer, rank=6)
    X = synthetic_inputs("power-law", 100, 40)
    before = layer.at_rank(X)
    trigger.observe(X)
    factors = trigger.refit()
    torch.testing.assert_close(layer.at_rank(X), before)
    weight = layer.weight.detach()
    torch.testing.assert_close(
        direct_loss(factors, weight, X, 6, bias=layer.bias.detach()),
        float(least_losses(weight, X)[6]),
    )


def test_convolutions_are_watched_by_their_patches():
    torch.manual_seed(0)
    layer = DynamicConv2d(2, 8, 3, padding=1, r_max=8, r_min=1, dtype=double)
    trigger = RefactorTrigger(layer, rank=2, every=1, max_rows=50)
    x = torch.randn(2, 2, 6, 6, dtype=double)
    trigger.observe(x)
    assert trigger.sketch.n_samples_seen == 36
    assert layer.rows(x, 10**6).shape == (72, 18)


def test_a_trigger_refuses_what_it_cannot_watch():
    layer = DynamicLinear(12, 8, 8, 2)
    empty = RefactorTrigger(layer, rank=2)
    assert not empty.check().fires
    with pytest.raises(RuntimeError, match="seen no inputs yet"):
        empty.refit()
    for options, error, words in [
        ({"rank": 8}, ValueError, "rank must be in 1..7, got 8"),
        ({"rank": 2, "tau": -1.0}, ValueError, "tau must not be negative"),
        ({"rank": 2, "tau": "much"}, TypeError, "tau must be a number"),
        ({"rank": 2, "every": 0}, ValueError, "every must be in 1"),
    ]:
        with pytest.raises(error, match=words):
            RefactorTrigger(layer, **options)
    with pytest.raises(TypeError, match="layer must be a DynamicLayer"):
        RefactorTrigger(nn.Linear(2, 2), rank=1)
