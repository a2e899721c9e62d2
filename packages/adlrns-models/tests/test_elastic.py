"""Elastic models: one set of weights for all budgets."""

import copy
import io
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adlrns_models import (
    AdaptiveLinear,
    ElasticModel,
    factorize,
    make_elastic,
    materialize_model,
    refit,
)
from rank_sched import allocate, uniform

SHARES = (0.9, 0.7, 0.5, 0.35, 0.25, 0.15)


def mlp(dtype=torch.float32):
    return nn.Sequential(
        nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 6)
    ).to(dtype)


def cnn(dtype=torch.float32):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 9, 10),
    ).to(dtype)


def batches_for(model, dtype=torch.float32, count=4):
    generator = torch.Generator().manual_seed(7)
    size = (3, 8, 8) if isinstance(model[0], nn.Conv2d) else (20,)
    return [torch.randn(32, *size, generator=generator, dtype=dtype) for _ in range(count)]


NETWORKS = {"mlp": mlp, "cnn": cnn}
each_network = pytest.mark.parametrize("kind", NETWORKS)


def made(kind, dtype=torch.float32, **options):
    model = NETWORKS[kind](dtype).eval()
    batches = batches_for(model, dtype)
    return model, batches, make_elastic(model, batches, **options)


def product_flops(model, x):
    """FLOPs of matrix products and convolutions for one sample."""
    with torch.no_grad():
        model(x)  # dense weights of full ranks are made once
        with FlopCounterMode(display=False) as counter:
            model(x)
    return counter.get_total_flops() / len(x)


# the dial


@each_network
def test_the_full_budget_is_the_model_itself(kind):
    model, batches, elastic = made(kind, torch.float64)
    torch.testing.assert_close(elastic(batches[0]), model(batches[0]), rtol=1e-12, atol=1e-12)
    elastic.set_budget(flops=0.3)
    elastic.set_budget(flops=1.0)
    fresh = torch.randn_like(batches[0])
    torch.testing.assert_close(elastic(fresh), model(fresh), rtol=1e-12, atol=1e-12)


def test_the_full_budget_is_the_model_also_where_calibration_saw_little():
    model = mlp(torch.float64)
    x = torch.randn(64, 20, dtype=torch.float64)
    x[:, 5:] = 0.0
    elastic = make_elastic(model, [x])
    elastic.set_budget(flops=1.0)
    fresh = torch.randn(16, 20, dtype=torch.float64)
    torch.testing.assert_close(elastic(fresh), model(fresh), rtol=1e-12, atol=1e-12)


@each_network
@pytest.mark.parametrize("share", SHARES)
def test_a_budget_of_flops_is_what_is_really_computed(kind, share):
    model, batches, elastic = made(kind)
    point = elastic.set_budget(flops=share)
    dense = product_flops(model, batches[0])
    assert elastic.full_cost("flops") == pytest.approx(dense)
    assert product_flops(elastic.eval(), batches[0]) <= share * dense * (1 + 1e-9)
    assert product_flops(elastic, batches[0]) == pytest.approx(point.cost)
    assert elastic.operating_point is point
    assert elastic.ranks() == point.ranks
    assert {n: layer.current_rank() for n, layer in elastic.layers().items()} == point.ranks


def test_the_operating_point_is_that_of_the_ranks_in_force_or_none():
    _, _, elastic = made("mlp")
    small = elastic.set_budget(flops=0.4)
    state = copy.deepcopy(elastic.state_dict())
    large = elastic.set_budget(flops=1.0)
    elastic.load_state_dict(state)
    assert elastic.ranks() == small.ranks
    assert elastic.operating_point is None
    point = elastic.set_budget(flops=0.4)
    with elastic.at(ranks=large.ranks):
        assert elastic.operating_point is point
    layer = elastic.layers()["0"]
    layer.set_rank(small.ranks["0"] - 1)
    assert elastic.operating_point is None
    layer.set_rank(small.ranks["0"])
    assert elastic.operating_point is point
    elastic.set_ranks({"0": 1})
    assert elastic.operating_point is None
    elastic.load_state_dict(state)
    assert elastic.operating_point is None


@each_network
@pytest.mark.parametrize("form", ["factored", "identity"])
def test_a_budget_of_parameters_is_what_is_really_stored(kind, form):
    _, _, elastic = made(kind)
    for share in SHARES:
        point = elastic.set_budget(parameters=share, form=form)
        settled = materialize_model(elastic, form)
        weights = sum(
            p.numel()
            for name in elastic.profiles
            for p in settled.get_submodule(name).parameters()
            if p.ndim > 1
        )
        assert weights == point.cost <= share * elastic.full_cost("parameters")


@each_network
def test_more_budget_never_predicts_more_loss(kind):
    _, _, elastic = made(kind)
    losses = [elastic.set_budget(flops=share).loss for share in np.linspace(0.15, 1, 40)]
    assert (np.diff(losses) <= 1e-12 * losses[0]).all()
    assert losses[0] > losses[-1] >= 0
    points = elastic.frontier()
    assert (np.diff(points.costs) > 0).all()
    assert (np.diff(points.losses) < 0).all()
    assert elastic.frontier() is points


@each_network
def test_a_limit_on_loss_takes_the_fewest_flops_that_keep_it(kind):
    _, _, elastic = made(kind)
    for share in (0.2, 0.5, 0.8):
        by_cost = elastic.set_budget(flops=share)
        by_loss = elastic.set_budget(loss=by_cost.loss)
        assert by_loss.loss <= by_cost.loss
        assert by_loss.cost <= by_cost.cost * (1 + 1e-9)
        assert elastic.ranks() == by_loss.ranks


def test_predicted_loss_is_about_the_objective():
    # one linear layer: the change of the outputs themselves is the loss, exactly
    model = nn.Sequential(nn.Linear(20, 15)).double()
    x = torch.randn(4000, 20, dtype=torch.float64)
    probes = torch.Generator().manual_seed(1)

    def objective(output, batch):
        return (output * torch.randn(output.shape, generator=probes, dtype=output.dtype)).sum()

    elastic = make_elastic(model, x.split(500), objective=objective)
    for rank in (3, 8, 12):
        elastic.set_ranks({"0": rank})
        change = float((elastic(x) - model(x)).detach().square().sum()) / len(x)
        assert elastic.profiles["0"].loss[rank] == pytest.approx(change, rel=0.05)


@each_network
def test_ranks_are_multiples_where_asked(kind):
    _, _, elastic = made(kind, multiple_of=4)
    for share in (0.45, 0.7):
        elastic.set_budget(flops=share)
        for name, rank in elastic.ranks().items():
            assert rank % 4 == 0 or rank == min(elastic.layers()[name].sizes)


@pytest.mark.parametrize(
    "budget, error, message",
    [
        ({}, TypeError, "exactly one of"),
        ({"flops": 0.5, "loss": 1.0}, TypeError, "exactly one of"),
        ({"flops": 1.5}, ValueError, r"flops must be in 0\.\.1, got 1.5"),
        ({"flops": float("nan")}, ValueError, r"flops must be in 0\.\.1, got nan"),
        ({"parameters": -0.1}, ValueError, r"parameters must be in 0\.\.1, got -0.1"),
        ({"flops": "0.5"}, TypeError, "flops must be a number, got '0.5'"),
        ({"flops": True}, TypeError, "flops must be a number, got True"),
        ({"flops": 0.0}, ValueError, "flops must be at least .* got 0.0"),
        ({"flops": 1e-4}, ValueError, "flops must be at least .* got 0.0001"),
        ({"loss": -1.0}, ValueError, "loss must not be negative, got -1.0"),
        ({"loss": float("nan")}, ValueError, "loss must"),
        ({"flops": 0.5, "form": "dense"}, ValueError, "form must be .* got 'dense'"),
    ],
)
def test_a_bad_budget_leaves_the_ranks_as_they_were(budget, error, message):
    _, _, elastic = made("mlp")
    point = elastic.set_budget(flops=0.6)
    before = elastic.ranks()
    with pytest.raises(error, match=message):
        elastic.set_budget(**budget)
    assert elastic.ranks() == before
    assert elastic.operating_point is point


@pytest.mark.parametrize(
    "ranks, error, message",
    [
        ({"0": 3, "9": 1}, ValueError, "ranks must name elastic layers, got '9'"),
        ({"0": 3, "2": 31}, ValueError, r"ranks\['2'\] must be in 0\.\.30, got 31"),
        ({"0": 3, "2": -1}, ValueError, r"ranks\['2'\] must be in"),
        ({"0": 3, "2": 1.5}, TypeError, r"ranks\['2'\] must be an integer, got 1.5"),
    ],
)
def test_bad_ranks_change_none(ranks, error, message):
    _, _, elastic = made("mlp")
    before = elastic.ranks()
    with pytest.raises(error, match=message):
        elastic.set_ranks(ranks)
    assert elastic.ranks() == before


@pytest.mark.parametrize("ask", ["frontier", "full_cost"])
def test_an_unknown_cost_is_named(ask):
    _, _, elastic = made("mlp")
    with pytest.raises(ValueError, match="cost must be one of .* got 'joules'"):
        getattr(elastic, ask)("joules")


def test_changing_the_budget_touches_no_parameter():
    _, batches, elastic = made("cnn")
    before = {name: (p, p.detach().clone()) for name, p in elastic.named_parameters()}
    elastic.eval()
    first = elastic(batches[0])
    for share in SHARES:
        elastic.set_budget(flops=share)
    elastic.set_budget(flops=1.0)
    assert torch.equal(elastic(batches[0]), first)
    for name, p in elastic.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])


# calibration leaves no trace


def fingerprint(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    return state, flags, [m.training for m in model.modules()], torch.get_rng_state()


def assert_untouched(model, before):
    state, flags, modes, rng = before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    for p, (requires_grad, grad) in zip(model.parameters(), flags, strict=True):
        assert p.requires_grad == requires_grad
        assert p.grad is grad
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def mixed(kind):
    """A model with every kind of state that could be lost."""
    model = NETWORKS[kind]().train()
    model[-1].eval()
    model[0].weight.requires_grad_(False)
    model[-1].weight.grad = torch.ones_like(model[-1].weight)
    return model


@each_network
def test_the_model_is_untouched(kind):
    model = mixed(kind)
    before = fingerprint(model)
    elastic = make_elastic(model, batches_for(model))
    assert_untouched(model, before)
    elastic.set_budget(flops=0.3)
    for p in elastic.parameters():
        p.data.zero_()
    assert_untouched(model, before)


@each_network
@pytest.mark.parametrize("where", ["forward", "objective", "batches", "progress"])
def test_the_model_is_untouched_after_a_failure(kind, where):
    model = mixed(kind)
    batches = batches_for(model)
    before = fingerprint(model)
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) > 1:
            raise KeyError(where)

    def forward(model, batch):
        if where == "forward":
            fail()
        return model(batch)

    def objective(output, batch):
        if where == "objective":
            fail()
        return output.sum()

    def stream():
        for batch in batches:
            if where == "batches":
                fail()
            yield batch

    with pytest.raises(KeyError, match=where):
        make_elastic(
            model,
            stream(),
            forward=forward,
            objective=objective,
            progress=fail if where == "progress" else None,
        )
    assert_untouched(model, before)


def test_frozen_layers_stay_frozen_in_the_copy():
    model = mlp()
    model[0].requires_grad_(False)
    elastic = make_elastic(model, batches_for(model))
    layers = elastic.layers()
    assert not any(p.requires_grad for p in layers["0"].parameters())
    assert all(p.requires_grad for p in layers["2"].parameters())


@each_network
def test_the_same_data_give_the_same_bits(kind):
    model = NETWORKS[kind]().eval()
    torch.manual_seed(1)
    first = make_elastic(model, batches_for(model))
    torch.manual_seed(2)
    second = make_elastic(model, batches_for(model))
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert first.profiles == second.profiles
    assert first.info == second.info
    other = make_elastic(model, [b + 1e-6 for b in batches_for(model)])
    assert other.info["calibration"]["sha256"] != first.info["calibration"]["sha256"]
    assert first.info["calibration"]["samples"] == 128


# kinds of batches and models


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x, torch.zeros(len(x))],
        lambda x: {"input": x},
    ],
)
def test_batches_may_be_tensors_pairs_or_mappings(pack):
    model = mlp()
    batches = batches_for(model)
    reference = make_elastic(model, batches)
    elastic = make_elastic(model, [pack(x) for x in batches])
    assert elastic.profiles == reference.profiles


def test_labels_play_no_part():
    model = mlp()
    batches = batches_for(model)
    one = make_elastic(model, [(x, torch.zeros(len(x))) for x in batches])
    two = make_elastic(model, [(x, torch.ones(len(x))) for x in batches])
    assert one.profiles == two.profiles


class HubStyle(nn.Module):
    """Takes keywords and returns a mapping with other things than tensors in it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 20)
        self.body = mlp()

    def forward(self, input_ids, attention_mask=None):
        hidden = self.body(self.embed(input_ids))
        return {"last_hidden_state": hidden, "lengths": input_ids.sum(), "cache": None}


def test_models_that_return_mappings_and_take_keywords():
    model = HubStyle()
    ids = torch.randint(0, 11, (8, 5))
    elastic = make_elastic(model, [{"input_ids": ids, "attention_mask": torch.ones(8, 5)}])
    assert set(elastic.profiles) == {"body.0", "body.2", "body.4"}
    assert elastic.profiles["body.0"].size.rows == 5
    found = elastic(input_ids=ids)["last_hidden_state"]
    torch.testing.assert_close(found, model(ids)["last_hidden_state"], rtol=1e-4, atol=1e-5)


def test_a_custom_objective_decides_what_matters():
    model = nn.ModuleDict({"heard": nn.Linear(20, 20), "ignored": nn.Linear(20, 20)})
    x = torch.randn(64, 20)
    elastic = make_elastic(
        model,
        [x],
        forward=lambda model, x: (model["heard"](x), model["ignored"](x)),
        objective=lambda output, batch: output[0].square().sum() + 1e-6 * output[1].sum(),
    )
    elastic.set_budget(flops=0.6)
    ranks = elastic.ranks()
    assert ranks["heard"] > ranks["ignored"]


@pytest.mark.parametrize("size", [1, 3])
def test_batches_may_be_as_small_as_one_sample(size):
    model = mlp()
    elastic = make_elastic(model, torch.randn(12, 20).split(size))
    assert elastic.info["calibration"]["samples"] == 12


def test_in_place_activations_do_not_matter():
    plain = mlp()
    inplace = copy.deepcopy(plain)
    inplace[1], inplace[3] = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
    x = batches_for(plain)
    assert make_elastic(inplace, x).profiles == make_elastic(plain, x).profiles


def test_a_model_that_is_one_layer():
    linear = nn.Linear(20, 30)
    x = torch.randn(64, 20)
    elastic = make_elastic(linear, [x])
    assert isinstance(elastic.network, AdaptiveLinear)
    torch.testing.assert_close(elastic(x), linear(x), rtol=1e-4, atol=1e-5)
    elastic.set_budget(flops=0.5)
    assert elastic.ranks()[""] <= 6


def test_a_layer_used_twice_is_watched_twice_and_stays_shared():
    shared = nn.Linear(20, 20)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    elastic = make_elastic(model, [torch.randn(32, 20)])
    assert list(elastic.profiles) == ["0"]
    assert elastic.profiles["0"].size.rows == 2
    assert elastic.network[0] is elastic.network[2]


def test_non_finite_rows_are_left_out():
    model = mlp()
    x = torch.randn(64, 20)
    dirty = torch.cat([x, torch.full((3, 20), torch.nan), torch.full((1, 20), torch.inf)])
    clean, elastic = make_elastic(model, [x]), make_elastic(model, [dirty])
    assert all(bool(p.isfinite().all()) for p in elastic.parameters())
    for name, profile in elastic.profiles.items():
        assert profile.loss[0] > 0
        assert np.isfinite(profile.loss).all()
        assert len(profile.loss) == len(clean.profiles[name].loss)
    assert clean.info["non_finite_rows"] == {}
    assert elastic.info["non_finite_rows"] == dict.fromkeys(elastic.profiles, 4)


def test_rows_that_are_left_out_are_told_once(caplog):
    x = torch.randn(64, 20)
    elastic = make_elastic(mlp(), [x])
    refit(elastic, [x])
    assert not caplog.records
    x[3, 5] = torch.nan
    make_elastic(mlp(), [x])
    refit(elastic, [x])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for text, work in zip(told, ("make_elastic", "refit"), strict=True):
        assert text.startswith(f"{work} left out rows that are not finite, at ")
        assert "1 rows at " in text


def test_a_layer_that_saw_nothing_finite_stays_dense():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    model.insert = None
    with pytest.raises(ValueError, match="must"):
        make_elastic(model, [torch.full((4, 8), torch.nan)])


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(20, 20), nn.Linear(20, 20)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_is_never_reached_stays_dense_and_says_so():
    model = Branches()
    elastic = make_elastic(model, [torch.randn(32, 20)])
    assert set(elastic.profiles) == {"used"}
    assert type(elastic.network.unused) is nn.Linear
    assert "it was not called, or its weight was read" in elastic.info["skipped"]["unused"]


class Reader(Branches):
    def forward(self, x):
        return self.used(nn.functional.linear(x, self.unused.weight))


def test_a_layer_whose_weight_is_read_stays_dense_and_is_told_from_one_with_bad_inputs():
    model, x = Reader(), torch.randn(32, 20)
    elastic = make_elastic(model, [x])
    assert "its weight was read" in elastic.info["skipped"]["unused"]
    torch.testing.assert_close(elastic(x), model(x))
    with pytest.raises(ValueError, match="'used': 'no finite input reached it"):
        make_elastic(model, [torch.full((4, 20), torch.nan)])


def test_convolutions_can_be_left_alone():
    model = cnn()
    elastic = make_elastic(model, batches_for(model), include_conv=False)
    assert set(elastic.profiles) == {"6"}
    assert type(elastic.network[0]) is nn.Conv2d
    assert "include_conv" in elastic.info["skipped"]["0"]


def test_a_small_sketch_size_means_a_sketch_with_a_doubt_and_a_large_one_none():
    model = mlp()
    rough = make_elastic(model, batches_for(model), sketch_size=2)
    exact = make_elastic(model, batches_for(model))
    for name in rough.profiles:
        low, high = (np.asarray(getattr(rough.profiles[name], k)) for k in ("lower", "upper"))
        assert (low <= high).all()
        assert (high - low).max() > 0.01 * high[0]
        low, high = (np.asarray(getattr(exact.profiles[name], k)) for k in ("lower", "upper"))
        assert (high - low).max() <= 1e-3 * high[0]


def test_progress_is_reported():
    seen = []
    model = mlp()
    make_elastic(model, batches_for(model), progress=lambda *args: seen.append(args))
    assert [s for s in seen if s[0] == "watch"] == [("watch", i, 0) for i in (1, 2, 3, 4)]
    assert [s for s in seen if s[0] == "factor"] == [("factor", i, 3) for i in (1, 2, 3)]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"model": 3}, TypeError, "model must be a Module, got int"),
        ({"model": nn.ReLU()}, ValueError, "model must have an elastic layer"),
        ({"batches": []}, ValueError, "batches must hold at least one batch"),
        ({"sketch_size": 1}, ValueError, r"sketch_size must be in 2\.\., got 1"),
        ({"sketch_size": 2.5}, TypeError, "sketch_size must be an integer"),
        ({"multiple_of": 0}, ValueError, r"multiple_of must be in 1\.\., got 0"),
        ({"objective": lambda o, b: o}, ValueError, "objective must return a scalar"),
        ({"objective": lambda o, b: 1.0}, ValueError, "objective must return a scalar"),
        ({"objective": lambda o, b: torch.ones(())}, ValueError, "objective must depend"),
        ({"forward": lambda m, b: m(b).argmax()}, ValueError, "output must hold a floating"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {"model": nn.Linear(4, 3), "batches": [torch.randn(5, 4)]}
    arguments = good | change
    with pytest.raises(error, match=message):
        make_elastic(arguments.pop("model"), arguments.pop("batches"), **arguments)


# files


@each_network
def test_a_saved_model_is_the_same_at_every_budget(kind, tmp_path):
    _, batches, elastic = made(kind)
    elastic.eval()
    elastic.set_budget(flops=0.4)
    elastic.save(tmp_path)
    blank = NETWORKS[kind]().eval()  # other weights: they must play no part
    before = fingerprint(blank)
    loaded = ElasticModel.load(tmp_path, blank).eval()
    assert_untouched(blank, before)
    assert loaded.ranks() == elastic.ranks()
    assert loaded.profiles == elastic.profiles
    assert loaded.info == elastic.info
    assert loaded.multiple_of == elastic.multiple_of
    for share in (None, *SHARES, 1.0):
        if share is not None:
            assert loaded.set_budget(flops=share) == elastic.set_budget(flops=share)
        with torch.no_grad():
            assert torch.equal(loaded(batches[0]), elastic(batches[0]))


def test_saving_twice_replaces_the_file_and_leaves_nothing_else(tmp_path):
    model, _, elastic = made("mlp")
    folder = tmp_path / "deep" / "folder"
    elastic.save(folder)
    elastic.set_budget(flops=0.5)
    elastic.save(str(folder))
    assert [f.name for f in folder.iterdir()] == ["elastic.safetensors"]
    assert ElasticModel.load(folder, model).ranks() == elastic.ranks()


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    _, _, elastic = made("mlp")
    elastic.save(tmp_path)
    before = (tmp_path / "elastic.safetensors").read_bytes()
    elastic.set_budget(flops=0.5)

    def full(handle):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        elastic.save(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["elastic.safetensors"]
    assert (tmp_path / "elastic.safetensors").read_bytes() == before


def test_tied_weights_are_stored_once(tmp_path):
    model = HubStyle()
    model.head = nn.Linear(20, 11, bias=False)
    model.head.weight = model.embed.weight
    ids = torch.randint(0, 11, (8, 5))
    elastic = make_elastic(model, [{"input_ids": ids}])
    assert "tied" in elastic.info["skipped"]["head"]
    elastic.save(tmp_path)
    loaded = ElasticModel.load(tmp_path, model)
    assert loaded.network.head.weight is loaded.network.embed.weight


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model, _, elastic = made("mlp")
    folder = tmp_path_factory.mktemp("saved")
    elastic.save(folder)
    return model, (folder / "elastic.safetensors").read_bytes()


def assert_refused(tmp_path, model, data, *words):
    path = tmp_path / "elastic.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="elastic.safetensors") as caught:
        ElasticModel.load(tmp_path, model)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="elastic.safetensors"):
        ElasticModel.load(tmp_path, mlp())


def test_a_truncated_file_is_refused_at_every_length(saved, tmp_path):
    model, data = saved
    header = int.from_bytes(data[:8], "little") + 8
    lengths = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1}
    for length in sorted(lengths | set(range(0, len(data), len(data) // 60))):
        assert_refused(tmp_path, model, data[:length])


def test_a_longer_file_is_refused(saved, tmp_path):
    model, data = saved
    assert_refused(tmp_path, model, data + b"\0")


def test_no_flipped_bit_goes_unnoticed(saved, tmp_path):
    model, data = saved
    header = int.from_bytes(data[:8], "little") + 8
    generator = np.random.default_rng(0)
    places = [
        *range(8),
        *generator.integers(8, header, 150),
        *generator.integers(header, len(data), 50),
    ]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(generator.integers(8))
        assert_refused(tmp_path, model, bytes(damaged))


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "elastic.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="elastic.safetensors: field adlrns is missing"):
        ElasticModel.load(tmp_path, mlp())
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer)
    assert_refused(tmp_path, mlp(), buffer.getvalue())


@pytest.mark.parametrize("kind", ["other sizes", "more layers", "a convolution"])
def test_another_architecture_is_refused(saved, tmp_path, kind):
    other = {
        "other sizes": nn.Sequential(
            nn.Linear(20, 41), nn.ReLU(), nn.Linear(41, 30), nn.ReLU(), nn.Linear(30, 6)
        ),
        "more layers": nn.Sequential(*mlp(), nn.Linear(6, 6)),
        "a convolution": cnn(),
    }[kind]
    before = fingerprint(other)
    assert_refused(tmp_path, other, saved[1])
    assert_untouched(other, before)


def rewritten(data, tmp_path, change):
    """The file with its own header changed, everything else in order."""
    path = tmp_path / "source.safetensors"
    path.write_bytes(data)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["adlrns"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        others = {k: v for k, v in file.metadata().items() if k != "adlrns"}
    change(header)
    save_file(tensors, path, metadata={"adlrns": json.dumps(header), **others})
    return path.read_bytes()


FIELDS = ["format", "kind", "versions", "aliases", "layers", "multiple_of", "info"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_refused(saved, tmp_path, field):
    model, data = saved
    assert_refused(tmp_path, model, rewritten(data, tmp_path, lambda header: header.pop(field)))


def test_a_newer_format_is_named(saved, tmp_path):
    model, data = saved
    newer = rewritten(data, tmp_path, lambda header: header.update(format=99))
    assert_refused(tmp_path, model, newer, "field format", "99")


def test_a_file_of_another_kind_is_named(saved, tmp_path):
    model, data = saved
    other = rewritten(data, tmp_path, lambda header: header.update(kind="materialized"))
    assert_refused(tmp_path, model, other)


# what it is for


def plain_copies(model, elastic, share):
    """The model by plain SVD at the same budget: ranks alike, and by its own singular values."""
    factors, losses, costs, ranks = {}, {}, {}, {}
    for name, profile in elastic.profiles.items():
        m, n, rows = profile.size
        layer = model.get_submodule(name)
        factors[name] = factorize(layer.weight.detach().flatten(1), layer.bias)
        choices = [r for r in range(1, min(m, n)) if r * (m + n) < m * n] + [min(m, n)]
        ranks[name] = np.asarray(choices)
        losses[name] = factors[name].loss.numpy()[choices]
        weights = [r * (m + n) if r < min(m, n) else m * n for r in choices]
        costs[name] = 2.0 * rows * np.asarray(weights)
    budget = share * elastic.full_cost("flops")
    return {
        rule.__name__: truncated(model, factors, rule(losses, costs, budget, ranks=ranks).ranks)
        for rule in (uniform, allocate)
    } | {"ranks": uniform(losses, costs, budget, ranks=ranks).ranks}


def truncated(model, factors, ranks):
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, rank in ranks.items():
            weight = result.get_submodule(name).weight
            f = factors[name]
            weight.copy_((f.up[:, :rank] @ f.down[:rank]).reshape(weight.shape))
    return result


def outputs(model, x):
    with torch.no_grad():
        return torch.cat([model.eval()(part) for part in x.split(1000)])


def compare(model, data, *, share, calibration):
    """Of each way to meet a budget: error of the outputs, disagreement, drop in accuracy."""
    x, _, test_x, test_y = data
    wanted = outputs(model, test_x)
    full = float((wanted.argmax(1) == test_y).double().mean())

    def judged(other):
        found = outputs(other, test_x)
        error = float((found - wanted).square().sum() / wanted.square().sum())
        other_class = float((found.argmax(1) != wanted.argmax(1)).double().mean())
        return error, other_class, full - float((found.argmax(1) == test_y).double().mean())

    elastic = make_elastic(model, x[:calibration].split(64))
    others = plain_copies(model, elastic, share)
    elastic.set_budget(flops=share)
    found = {"ours": judged(elastic)}
    elastic.set_ranks(others.pop("ranks"))
    found["uniform ranks, data-aware"] = judged(elastic)
    for name, other in others.items():
        found[f"plain SVD, {name}"] = judged(other)
    for name, (error, other_class, drop) in found.items():
        print(  # noqa: T201
            f"{share:4} of the FLOPs, {name:26} error {error:.5f}, "
            f"another class {other_class:.4f}, accuracy {-drop:+.4f}"
        )
    return found


def assert_better_than_plain_svd(found, samples, *, part=1 / 3):
    error, other_class, drop = found["ours"]
    uniform_svd, svd = found["plain SVD, uniform"], found["plain SVD, allocate"]
    alike = found["uniform ranks, data-aware"]
    assert error <= part * min(svd[0], uniform_svd[0])
    assert error <= alike[0]
    # on a few samples nothing is known better than to one of them
    assert other_class <= max(2 / 3 * svd[1], 1 / samples)
    assert drop <= uniform_svd[2] / 3 + 1 / samples
    assert drop <= alike[2] + 1 / samples


@pytest.mark.parametrize("network", ["digits_mlp", "digits_cnn"])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_digits_lose_at_most_a_third_of_what_plain_svd_loses(network, share, digits, request):
    model = request.getfixturevalue(network)
    found = compare(model, digits, share=share, calibration=512)
    assert_better_than_plain_svd(found, len(digits[3]))
    rival = found["plain SVD, allocate"][2]
    assert found["ours"][2] <= max(rival, 0.0) / 3 + 1 / len(digits[3])


@pytest.mark.slow
@pytest.mark.parametrize("share, part", [(0.5, 1 / 3), (0.35, 1 / 3)])
def test_fashion_is_nearer_to_the_model_than_by_plain_svd(fashion, fashion_cnn, share, part):
    found = compare(fashion_cnn, fashion, share=share, calibration=1024)
    assert_better_than_plain_svd(found, len(fashion[3]), part=part)


def test_predicted_loss_ranks_the_budgets_as_the_outputs_do(digits, digits_mlp):
    x, _, test_x, _ = digits
    elastic = make_elastic(digits_mlp, x[:512].split(64))
    predicted, found = [], []
    for share in (0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1):
        predicted.append(elastic.set_budget(flops=share).loss)
        with torch.no_grad():
            found.append(float((elastic(test_x) - digits_mlp(test_x)).square().sum()))
    assert np.argsort(predicted).tolist() == np.argsort(found).tolist()
