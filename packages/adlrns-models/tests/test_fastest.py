"""Settled by time: the timer decides the form, and no form decides the output."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from adlrns_models import (
    IdentityBlock,
    iter_adaptive_layers,
    load_materialized,
    make_elastic,
    materialize_model,
    save_materialized,
    set_rank_change_callback,
    wrap_model_with_adaptive,
)
from adlrns_models._fastest import take_turns

FORMS = ("dense", "factored", "identity")
each_winner = pytest.mark.parametrize("winner", FORMS)


def network():
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 12, 3, groups=2),
        nn.Flatten(),
        nn.Linear(12 * 9, 20),
        nn.Dropout(0.5),
        nn.Linear(20, 8, bias=False),
    ).double()


@pytest.fixture
def x():
    return torch.randn(6, 2, 5, 5, dtype=torch.float64)


@pytest.fixture
def model():
    model = wrap_model_with_adaptive(network())
    for layer, rank in zip(iter_adaptive_layers(model), (5, 3, 6, 2), strict=True):
        layer.set_rank(rank)
    return model


class Planted:
    """A timer that says what it was told to, and remembers what it was asked."""

    def __init__(self, costs):
        self.costs, self.asked, self.outputs = costs, [], []

    def __call__(self, calls, device):
        self.asked.append(tuple(calls))
        self.outputs.append([call() for call in calls.values()])
        self.grad = torch.is_grad_enabled()
        return {form: self.costs[form] for form in calls}


def wins(form):
    return Planted({other: 1.0 + (other != form) for other in FORMS})


def form_of(module):
    if isinstance(module, IdentityBlock):
        return "identity"
    return "factored" if isinstance(module, nn.Sequential) else "dense"


def forms(settled):
    return [form_of(settled[i]) for i in (0, 3, 5, 7)]


@each_winner
def test_the_timer_decides_the_form_and_not_the_output(model, x, winner):
    timer = wins(winner)
    settled = materialize_model(model, "fastest", example_inputs=x, timer=timer).eval()
    assert forms(settled) == [winner] * 4
    assert timer.asked == [FORMS] * 4
    wanted = materialize_model(model, "dense").eval()(x)
    torch.testing.assert_close(settled(x), wanted, rtol=1e-10, atol=1e-10)


def test_measured_forms_compute_what_the_dense_ones_do(model, x):
    settled = materialize_model(model, "fastest", example_inputs=x).eval()
    wanted = materialize_model(model, "dense").eval()(x)
    torch.testing.assert_close(settled(x), wanted, rtol=1e-10, atol=1e-10)
    assert not list(iter_adaptive_layers(settled))


def test_every_form_is_timed_on_the_very_input_of_the_layer(model, x):
    timer, seen = wins("dense"), []
    materialize_model(model, "fastest", example_inputs=x, timer=timer)
    assert timer.grad is False
    for layer in iter_adaptive_layers(model.eval()):
        layer.register_forward_hook(lambda layer, args, y: seen.append(y.clone()))
    model(x)
    for outputs, wanted in zip(timer.outputs, seen, strict=True):
        for y in outputs:
            torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "factored, identity, form",
    [
        (1.0, 1.0, "identity"),
        (1.04, 1.05, "identity"),
        (1.04, 1.06, "factored"),
        (1.06, 1.06, "dense"),
        (0.9, 0.95, "factored"),
        (0.0, 0.0, "identity"),
    ],
)
def test_forms_that_take_about_as_long_are_told_apart_by_their_weights(
    model, x, factored, identity, form
):
    timer = Planted({"dense": 1.0, "factored": factored, "identity": identity})
    settled = materialize_model(model, "fastest", example_inputs=x, timer=timer)
    assert forms(settled) == [form] * 4


def test_a_layer_that_has_but_one_form_is_not_timed(model, x):
    first, *_, last = iter_adaptive_layers(model)
    first.set_rank(first.max_rank)
    last.set_rank(0)
    timer = wins("factored")
    settled = materialize_model(model, "fastest", example_inputs=x, timer=timer)
    assert forms(settled) == ["dense", "factored", "factored", "dense"]
    assert len(timer.asked) == 2


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.taken, self.idle = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x, *, other=False):
        return self.idle(x) if other else self.taken(x)


def test_a_layer_that_does_not_run_takes_the_fewest_weights():
    model = wrap_model_with_adaptive(Branches())
    for layer, rank in zip(iter_adaptive_layers(model), (16, 16), strict=True):
        layer.set_rank(rank)
    rows = torch.randn(4, 32)
    settled = materialize_model(model, "fastest", example_inputs=rows, timer=wins("dense"))
    assert (form_of(settled.taken), form_of(settled.idle)) == ("dense", "identity")


class Levels(nn.Module):
    """One layer for inputs of two sizes, the smaller one three times."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 16)

    def forward(self, x):
        for _ in range(3):
            y = self.head(x[:2])
        return self.head(x), y


@pytest.mark.parametrize("dense, form", [(5.0, "dense"), (9.0, "factored")])
def test_what_a_layer_takes_is_the_sum_of_all_its_calls(dense, form):
    model = wrap_model_with_adaptive(Levels())
    model.head.set_rank(4)
    sizes = []

    def timer(calls, device):
        sizes.append(len(calls["dense"]()))
        small = sizes[-1] == 2
        return {"dense": 1.0 if small else dense, "factored": 3.0 if small else 1.0, "identity": 99}

    settled = materialize_model(model, "fastest", example_inputs=torch.randn(9, 16), timer=timer)
    assert sizes == [2, 9]
    assert form_of(settled.head) == form  # 3 x 1 + dense against 3 x 3 + 1


def test_a_shared_layer_is_timed_once_and_stays_shared():
    shared, timer = nn.Linear(16, 16), wins("factored")
    model = wrap_model_with_adaptive(nn.Sequential(shared, shared))
    model[0].set_rank(4)
    rows = torch.randn(9, 16)
    settled = materialize_model(model, "fastest", example_inputs=rows, timer=timer)
    assert settled[0] is settled[1]
    assert len(timer.asked) == 1


def test_the_model_and_the_random_numbers_are_untouched(model, x):
    model.register_buffer("seen", torch.zeros(()))
    model.register_forward_pre_hook(lambda module, args: module.seen.add_(1) and None)
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    settled = materialize_model(model, "fastest", example_inputs=x, timer=wins("factored"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert settled.training
    assert float(settled.seen) == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_measuring_moves_no_rank_and_tells_nobody_of_one():
    torch.manual_seed(0)
    told, options = [], {"freeze_during_eval": False, "adapt_every": 1, "eps": 0.5}
    model = wrap_model_with_adaptive(nn.Sequential(nn.Linear(32, 32)), **options)
    model[0].set_rank(16)
    set_rank_change_callback(model, lambda old, new: told.append((old, new)))
    rows, timer = torch.randn(64, 32) * torch.logspace(0, -3, 32), wins("dense")
    materialize_model(model, "fastest", example_inputs=rows, timer=timer)
    assert not told
    model(rows)
    assert told == [(16, model[0].current_rank())]  # the model itself goes on as it was


@pytest.mark.parametrize("batch", [lambda x: (x, "label"), lambda x: {"input": x}])
def test_batches_come_as_elsewhere(model, x, batch):
    timer = wins("identity")
    settled = materialize_model(model, "fastest", example_inputs=batch(x), timer=timer)
    assert forms(settled) == ["identity"] * 4


def test_other_batches_are_what_forward_makes_of_them(model, x):
    settled = materialize_model(
        model,
        "fastest",
        example_inputs=SimpleNamespace(picture=x),
        forward=lambda model, batch: model(batch.picture),
        timer=wins("identity"),
    )
    assert forms(settled) == ["identity"] * 4


def test_an_elastic_model_is_settled_at_the_ranks_of_the_call(x):
    elastic = make_elastic(network().eval(), [x] * 3)
    seen = []

    def timer(calls, device):
        seen.append(None)
        return dict.fromkeys(calls, 1.0)

    with elastic.at(ranks=dict.fromkeys(elastic.ranks(), 1)):
        settled = materialize_model(elastic, "fastest", example_inputs=x, timer=timer)
        torch.testing.assert_close(settled(x), elastic(x), rtol=1e-10, atol=1e-10)
    assert len(seen) == 4
    assert forms(settled) == ["identity"] * 4


def test_all_projections_of_an_attention_are_timed():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    model = wrap_model_with_adaptive(copy.deepcopy(layer))
    layers = list(iter_adaptive_layers(model))
    for each in layers:
        each.set_rank(4)
    timer, rows = wins("factored"), torch.randn(3, 5, 16)
    settled = materialize_model(model, "fastest", example_inputs=rows, timer=timer)
    assert len(timer.asked) == len(layers) == 6
    with torch.no_grad():
        torch.testing.assert_close(settled(rows), model(rows))


def test_a_saved_choice_is_read_back_without_measuring(model, x, tmp_path, monkeypatch):
    turns = iter(("identity", "dense", "factored", "identity"))
    settled = materialize_model(
        model, "fastest", example_inputs=x, timer=lambda calls, device: wins(next(turns)).costs
    ).eval()
    save_materialized(settled, tmp_path, like=network())
    monkeypatch.setattr("adlrns_models._fastest._Trial.on_call", None)
    loaded = load_materialized(tmp_path, network().eval())
    assert forms(loaded) == forms(settled) == ["identity", "dense", "factored", "identity"]
    assert torch.equal(loaded(x), settled(x))


def test_a_settled_layer_of_any_form_takes_its_input_by_name(model, x):
    for form in FORMS:
        last = materialize_model(model, form)[7]
        rows = torch.randn(3, 20, dtype=torch.float64)
        assert torch.equal(last(input=rows), last(rows))


@pytest.mark.parametrize("seconds", [{"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 2.0}])
def test_medians_of_calls_that_take_turns(monkeypatch, seconds):
    clock, order = [0.0], []

    def call(name):
        order.append(name)
        slow = 50.0 if len(order) % 7 == 0 else 0.0  # the machine is busy now and then
        clock[0] += 1e-3 * (seconds[name] + slow)

    monkeypatch.setattr(
        "adlrns_models._measure_clock.time", SimpleNamespace(perf_counter=lambda: clock[0])
    )
    found = take_turns({n: lambda n=n: call(n) for n in seconds}, torch.device("cpu"))
    assert found == pytest.approx({name: 1e-3 * s for name, s in seconds.items()})
    assert order[::2] == ["a"] * (len(order) // 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"example_inputs": None}, "example_inputs must be given for form 'fastest', got None"),
        ({"form": "auto"}, "example_inputs must be None but for form 'fastest', got form 'auto'"),
        ({"form": "quickest"}, "form must be one of .*'fastest'.*, got 'quickest'"),
        ({"timer": lambda calls, device: {"dense": 1.0}}, "timer must return a finite number"),
        (
            {"timer": lambda calls, device: dict.fromkeys(calls, float("nan"))},
            "timer must return a finite number for each of",
        ),
        (
            {"timer": lambda calls, device: dict.fromkeys(calls, -1.0)},
            "timer must return .* not negative, got .*-1.0",
        ),
    ],
)
def test_bad_input_is_named(model, x, change, message):
    with pytest.raises(ValueError, match=message):
        materialize_model(model, **({"form": "fastest", "example_inputs": x} | change))
