"""What a layer serves outside training is what its factors say, whoever changed them."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from adlrns_models import (
    AdaptConfig,
    AdaptiveLinear,
    ElasticModel,
    _adapt,
    _kept,
    iter_adaptive_layers,
    make_elastic,
    materialize_model,
    wrap_model_with_adaptive,
)

FUSED = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 8)
    )


@pytest.fixture
def x():
    return torch.randn(64, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def elastic(x):
    return make_elastic(net(), [x])


def served(model, x):
    with torch.no_grad():
        for _ in range(_kept.PACK_AFTER + 1):  # long enough for every copy to be made
            y = model.eval()(x)
    return y


def computed(model, x):
    return model.eval()(x).detach()  # with gradients on nothing is kept


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", FUSED)
def test_what_is_served_follows_every_optimizer(elastic, x, optimizer, fused, share):
    elastic.set_budget(flops=share)
    before = served(elastic, x)
    step = optimizer(elastic.parameters(), lr=0.1, fused=fused)
    elastic.train()(x).square().mean().backward()
    served(elastic, x)  # between backward and step as well
    step.step()
    after = served(elastic, x)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, computed(elastic, x))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_copies_compute_what_the_factors_do(elastic, x, share):
    elastic.set_budget(flops=share)
    torch.testing.assert_close(served(elastic, x), computed(elastic, x))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_edits_in_place_reach_the_copies(elastic, x, share):
    elastic.set_budget(flops=share)
    served(elastic, x)
    with torch.no_grad():
        for layer in iter_adaptive_layers(elastic):
            layer.up.mul_(0.5)
    torch.testing.assert_close(served(elastic, x), computed(elastic, x))


def test_a_rank_that_moves_while_a_product_is_prepared_is_not_mixed_up(x, monkeypatch):
    (layer,) = make_elastic(nn.Sequential(nn.Linear(16, 16)), [x]).layers().values()
    layer.eval()
    right, original = computed(layer, x), AdaptiveLinear.effective_weight

    def slow(self, rank=None):
        self._rank = 3  # another thread
        try:
            return original(self, rank)
        finally:
            self._rank = 16

    monkeypatch.setattr(AdaptiveLinear, "effective_weight", slow)
    torch.testing.assert_close(served(layer, x), right)


class Reader(nn.Module):
    """Reads a layer's weight and bias as well as calling it."""

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(16, 8)

    def forward(self, x):
        return self.b(x) + F.linear(x, self.b.weight, self.b.bias)


def test_weight_and_bias_that_are_read_belong_together(x):
    model = Reader().double()
    x = x.double() + 5.0
    elastic = make_elastic(model, [x])
    torch.testing.assert_close(elastic(x), model(x))
    elastic.network.b.adapt_now()
    torch.testing.assert_close(elastic(x), model(x))


@pytest.mark.parametrize("order", [("x", "t"), ("t", "x")])
def test_samples_are_counted_whatever_comes_first(x, order):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x, t):
            return self.net(x) * t

    batch = {"x": x, "t": torch.ones(1)}
    elastic = make_elastic(Scaled(), [{name: batch[name] for name in order}])
    assert elastic.info["calibration"]["samples"] == 64


def test_numpy_batches_count_and_leave_their_fingerprint(x):
    def forward(model, batch):
        return model(torch.from_numpy(batch))

    first, same, other = (
        make_elastic(net(), [rows.numpy()], forward=forward) for rows in (x, x.clone(), x + 1)
    )
    assert first.info["calibration"]["samples"] == 64
    assert first.full_cost() == make_elastic(net(), [x]).full_cost()
    assert first.info["calibration"] == same.info["calibration"]
    assert first.info["calibration"] != other.info["calibration"]


def test_a_tensor_is_no_iterable_of_batches(x):
    with pytest.raises(TypeError, match="batches must be an iterable of batches, got a Tensor"):
        make_elastic(net(), x)


@pytest.mark.parametrize("wrapped", [tuple, list])
def test_numbers_among_the_tensors_of_a_batch_do_no_harm(x, wrapped):
    elastic = make_elastic(net(), [wrapped((x, torch.tensor(3.0)))])
    assert elastic.info["calibration"]["samples"] == 64


def test_parts_that_run_without_gradients_become_elastic_where_one_arrives(x):
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep, self.last, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            with torch.no_grad():
                f = self.last(self.deep(x).tanh())
            return self.head(f)

    elastic = make_elastic(Features(), [x])
    assert set(elastic.ranks()) == {"last", "head"}
    assert "gradient" in elastic.info["skipped"]["deep"]


def test_reentrant_checkpointing_does_not_stop_calibration(x):
    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.b(checkpoint(self.a, x, use_reentrant=True))

    with pytest.warns(UserWarning, match="requires_grad"):
        elastic = make_elastic(Recomputed(), [x])
    assert "b" in elastic.ranks()


def test_parameters_can_be_viewed_flat_and_written_as_they_are(elastic, x, tmp_path):
    served(elastic, x)
    total = sum(p.numel() for p in elastic.parameters())
    assert nn.utils.parameters_to_vector(elastic.parameters()).numel() == total
    save_file(elastic.state_dict(), tmp_path / "all.safetensors")


@pytest.mark.parametrize("form", ["dense", "factored", "identity"])
def test_what_is_made_in_inference_mode_trains_elsewhere(elastic, x, form, tmp_path):
    elastic.set_budget(flops=0.5)
    elastic.save(tmp_path)
    with torch.inference_mode():
        settled, loaded = materialize_model(elastic, form), ElasticModel.load(tmp_path, net())
    for model in (settled, loaded):
        model(x).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("form", ["dense", "factored", "identity"])
def test_settling_is_exact_under_autocast(elastic, x, form):
    elastic.set_budget(flops=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        settled = materialize_model(elastic, form)
    torch.testing.assert_close(computed(settled, x), computed(elastic, x), rtol=1e-4, atol=1e-5)


def test_prefix_loss_is_exact_under_autocast(x):
    layer = AdaptiveLinear(nn.Linear(16, 16))
    layer.train()(x)
    right = layer.prefix_loss()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.prefix_loss(), right, rtol=0, atol=0)


def test_models_that_share_loaded_tensors_have_ranks_of_their_own(elastic, x):
    other = make_elastic(net(), [x])
    other.load_state_dict(elastic.state_dict(), assign=True)
    other.set_budget(flops=0.3)
    saved = {name: int(v) for name, v in elastic.state_dict().items() if name.endswith("rank")}
    assert list(saved.values()) == list(elastic.ranks().values())


def test_a_checkpoint_holds_the_ranks_that_run(elastic):
    layer = next(iter(elastic.layers().values()))
    layer.rank.fill_(2)  # as broadcasting buffers would
    assert int(layer.state_dict()["rank"]) == layer.current_rank() == 16


def test_several_workers_cannot_re_fit_each_for_itself(x, monkeypatch):
    layer = AdaptiveLinear(nn.Linear(16, 16))
    layer.train()(x)
    before = layer.up.detach().clone()
    monkeypatch.setattr(_adapt, "has_other_workers", lambda: True)
    with pytest.raises(RuntimeError, match="workers"):
        layer.adapt_now()
    assert torch.equal(layer.up, before)


def postponed(x):
    """A layer whose look is due, put off while graphs wait."""
    config = AdaptConfig(r_min=1, adapt_every=3, adapt_cooldown=0)
    layer = AdaptiveLinear(nn.Linear(16, 16), config)
    graphs = [layer(x) for _ in range(3)]
    del graphs
    return layer


def one_direction(x):
    return torch.cat([x[:, :1], torch.zeros(len(x), 15)], 1)


def test_clearing_forgets_a_look_that_was_due(x):
    layer = postponed(x)
    layer.clear_sketch()
    layer(one_direction(x))
    assert layer.current_rank() == 16


def test_a_look_that_is_due_is_saved(x):
    layer, twin = postponed(x), AdaptiveLinear(nn.Linear(16, 16))
    twin.load_state_dict(layer.state_dict())
    for each in (layer, twin):
        each(one_direction(x))
    assert twin.current_rank() == layer.current_rank()
    assert twin.steps == layer.steps == 4


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_elastic_models_can_be_traced(elastic, x, share):
    elastic.eval().set_budget(flops=share)
    with torch.no_grad():
        traced = torch.jit.trace(elastic, x)
    torch.testing.assert_close(traced(x), computed(elastic, x))


def test_state_that_is_no_tensor_is_named(x, tmp_path):
    class Counter(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            del state

    elastic = make_elastic(nn.Sequential(nn.Linear(16, 16), Counter(16, 4)), [x])
    with pytest.raises(ValueError, match=r"got dict for '1._extra_state'"):
        elastic.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrapped_layers_keep_no_copies(x):
    model = wrap_model_with_adaptive(net(), r_max=32)
    served(model, x)
    with torch.no_grad():
        for layer in iter_adaptive_layers(model):
            layer.up.data.mul_(2.0)  # what no version counter tells of
    torch.testing.assert_close(served(model, x), computed(model, x))


def test_a_budget_set_again_takes_edits_of_the_data_over(elastic, x):
    served(elastic, x)
    for layer in iter_adaptive_layers(elastic):
        layer.up.data.mul_(2.0)
    elastic.set_ranks(elastic.ranks())
    torch.testing.assert_close(served(elastic, x), computed(elastic, x))
