"""Adaptive layers: what they compute, watch, keep and restore."""

import copy
import gc
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from adlrns_models import (
    AdaptConfig,
    AdaptiveConv2d,
    AdaptiveLayer,
    AdaptiveLinear,
    clear_fd_sketch,
    iter_adaptive_layers,
    set_rank_change_callback,
    wrap_model_with_adaptive,
)
from adlrns_models._patches import Window
from adlrns_models.testing import check_prefixes, synthetic_inputs

NEVER = 10**9
double = torch.float64
EAGER = {"r_min": 1, "adapt_every": 1, "adapt_cooldown": 0}


def linear(m=12, n=16, **options):
    return nn.Linear(n, m, **options).double()


def rows(count=64, n=16):
    return synthetic_inputs("power-law", count, n)


CONVS = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (2, 0)},
    {"stride": (1, 3), "dilation": (2, 1)},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"kernel_size": (4, 2), "padding": "same"},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular", "stride": 2},
    {"padding": 1, "padding_mode": "replicate"},
    {"kernel_size": 1},
    {"bias": False},
]
each_conv = pytest.mark.parametrize("options", CONVS)
even_kernels = pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")


def conv(options, inputs=3, outputs=8):
    return nn.Conv2d(inputs, outputs, **({"kernel_size": 3} | options)).double()


# what they compute


@pytest.mark.parametrize("shape", [(16,), (5, 16), (2, 3, 16), (2, 1, 3, 16), (0, 16), (1, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_wrapped_linear_computes_the_same(shape, bias):
    plain = linear(bias=bias)
    layer = AdaptiveLinear(plain)
    x = torch.randn(shape, dtype=double)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), plain(x), rtol=1e-12, atol=1e-12)
    check_prefixes(layer, x, [12, 5, 1, 0])


@even_kernels
@each_conv
@pytest.mark.parametrize("batch", [None, 0, 1, 3])
def test_a_wrapped_convolution_computes_the_same(options, batch):
    plain = conv(options)
    layer = AdaptiveConv2d(plain)
    x = torch.randn(*(() if batch is None else (batch,)), 3, 8, 9, dtype=double)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), plain(x), rtol=1e-12, atol=1e-12)
    check_prefixes(layer, x, [layer.max_rank, 2, 1, 0])


@even_kernels
@each_conv
def test_patches_are_what_unfold_gives(options):
    plain = conv(options)
    window = Window.of(plain)
    x = torch.randn(3, 3, 8, 9, dtype=double)
    left, right, top, bottom = window.padding
    mode = "constant" if window.mode == "zeros" else window.mode
    padded = F.pad(x, (left, right, top, bottom), mode) if any(window.padding) else x
    wanted = F.unfold(padded, window.size, dilation=window.dilation, stride=window.stride)
    wanted = wanted.transpose(1, 2).flatten(0, 1)
    assert window.count(x) == len(wanted)
    numbers = torch.randperm(len(wanted))[:20]
    assert torch.equal(window.patches(x, numbers), wanted[numbers])
    image = window.patches(x[0], torch.arange(window.count(x[0])))
    assert torch.equal(image, wanted[: window.count(x[0])])
    y = wanted @ plain.weight.flatten(1).T
    y = y if plain.bias is None else y + plain.bias
    grid = plain(x).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(y, grid)


@given(
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(0, 3)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
)
def test_patches_are_what_unfold_gives_for_any_window(size, stride, padding, dilation):
    plain = nn.Conv2d(2, 3, size, stride=stride, padding=padding, dilation=dilation)
    x = torch.randn(2, 2, 8, 7)
    wanted = F.unfold(x, size, dilation=dilation, padding=padding, stride=stride)
    wanted = wanted.transpose(1, 2).flatten(0, 1)
    window = Window.of(plain)
    assert torch.equal(window.patches(x, torch.arange(window.count(x))), wanted)


def test_gradients_of_all_factors_are_right():
    layer = AdaptiveLinear(linear(4, 5), AdaptConfig(r_min=1, adapt_every=NEVER))
    layer.enable_adaptation(False)
    for rank in (4, 2):
        layer.set_rank(rank)
        x = torch.randn(3, 5, dtype=double, requires_grad=True)
        names = [name for name, _ in layer.named_parameters()]

        def run(x, *values, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

        values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
        assert torch.autograd.gradcheck(run, (x, *values))


def test_directions_beyond_the_rank_get_no_gradient():
    layer = AdaptiveLinear(linear())
    layer.set_rank(5)
    layer(rows()).square().sum().backward()
    assert not layer.down.grad[5:].any()
    assert not layer.up.grad[:, 5:].any()
    assert not layer.inner_bias.grad[5:].any()
    assert layer.down.grad[:5].any()
    assert layer.inner_bias.grad[:5].all()


def test_training_reduces_the_loss_while_ranks_adapt():
    target = nn.Sequential(nn.Linear(16, 3), nn.Linear(3, 8)).double()
    model = nn.Sequential(linear(32, 16), nn.Tanh(), linear(8, 32))
    model = wrap_model_with_adaptive(model, eps=0.02, adapt_every=10, r_min=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses, ranks = [], []
    for _ in range(300):
        x = rows()
        optimizer.zero_grad()
        loss = (model(x) - target(x)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        ranks.append(model[0].current_rank())
    assert losses[-1] < 0.02 * losses[0]
    assert len(set(ranks)) > 1


def test_a_cached_dense_weight_is_never_stale():
    layer = AdaptiveLinear(linear()).eval()
    x = rows(5)
    with torch.no_grad():
        before = layer(x)
        layer.up.mul_(2.0)
        layer.outer_bias.mul_(2.0)
        torch.testing.assert_close(layer(x), 2 * before)
        layer.load_state_dict(AdaptiveLinear(linear()).state_dict())
        assert not torch.allclose(layer(x), 2 * before)
        layer.up.data = layer.up.data * 0
        torch.testing.assert_close(layer(x), layer.outer_bias.expand(5, 12))


# changing the rank


@pytest.mark.parametrize(
    "make", [lambda: AdaptiveLinear(linear()), lambda: AdaptiveConv2d(conv({}))]
)
def test_a_rank_change_replaces_nothing(make):
    model = nn.Sequential(make())
    layer = model[0]
    calls = []
    model.register_forward_hook(lambda *a: calls.append("model"))
    layer.register_forward_hook(lambda *a: calls.append("layer"))
    optimizer = torch.optim.Adam(model.parameters())
    x = rows(4) if isinstance(layer, AdaptiveLinear) else torch.randn(2, 3, 5, 5, dtype=double)
    model(x).sum().backward()
    optimizer.step()
    names = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    names = {k: v for k, v in names.items() if "_extra_state" not in k}
    state = {id(p): dict(s) for p, s in optimizer.state.items()}
    for rank in (3, 7, 1):
        layer.set_rank(rank)
        model(x).sum().backward()
    now = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    assert {k: v for k, v in now.items() if "_extra_state" not in k} == names
    assert model[0] is layer
    for p, s in optimizer.state.items():
        assert all(
            torch.equal(torch.as_tensor(s[k]), torch.as_tensor(v)) for k, v in state[id(p)].items()
        )
    assert calls == ["layer", "model"] * 4


@pytest.mark.parametrize(
    "rank, error, message",
    [
        (13, ValueError, r"rank must be in 0\.\.12, got 13"),
        (-1, ValueError, r"rank must be in 0\.\.12, got -1"),
        (2.0, TypeError, "rank must be an integer, got 2.0"),
        (True, TypeError, "rank must be an integer, got True"),
    ],
)
def test_a_bad_rank_is_refused_and_changes_nothing(rank, error, message):
    layer = AdaptiveLinear(linear())
    with pytest.raises(error, match=message):
        layer.set_rank(rank)
    assert layer.current_rank() == int(layer.rank) == 12


def test_callbacks_hear_of_every_change_and_can_be_removed():
    model = wrap_model_with_adaptive(nn.Sequential(linear(), linear(5, 12)), **EAGER, eps=0.3)
    heard = []
    set_rank_change_callback(model, lambda old, new: heard.append((old, new)))
    model[0].set_rank(7)
    model[0].set_rank(7)
    model[1].set_rank(0)
    assert heard == [(12, 7), (5, 0)]
    for _ in range(5):
        model(rows())
    assert heard[2:]
    assert all(old != new for old, new in heard)
    heard.clear()
    set_rank_change_callback(model, None)
    model[0].set_rank(3)
    assert not heard
    with pytest.raises(TypeError, match="callback must be callable or None, got 3"):
        set_rank_change_callback(model, 3)


def test_a_rank_change_between_forward_and_backward_is_harmless():
    layer = AdaptiveLinear(linear(), AdaptConfig(adapt_every=NEVER))
    x = rows()
    y = layer(x).square().sum()
    layer.set_rank(3)
    y.backward()
    kept = layer.down.grad.clone()
    layer.set_rank(12)
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(kept, layer.down.grad)


# watching


def observed(layer):
    return layer.sketch.n_samples_seen, layer.steps, layer.current_rank()


def test_adaptation_is_off_inside_adapt_disabled_however_nested():
    layer = AdaptiveLinear(linear(), AdaptConfig(**EAGER))
    with layer.adapt_disabled():
        with layer.adapt_disabled():
            layer(rows())
        layer(rows())
        with pytest.raises(KeyError, match="inside"), layer.adapt_disabled():
            raise KeyError("inside")
        layer(rows())
    assert observed(layer) == (0, 0, 12)
    layer(rows())
    assert observed(layer)[1] == 1
    layer.enable_adaptation(False)
    with layer.adapt_disabled():
        pass
    layer(rows())
    assert observed(layer)[1] == 1
    layer.enable_adaptation(True)
    layer(rows())
    assert observed(layer)[1] == 2
    layer.enable_adaptation()
    with pytest.raises(TypeError, match="enabled must be True or False, got 1"):
        layer.enable_adaptation(1)


def test_clearing_forgets_inputs_and_steps_but_not_the_rank():
    model = wrap_model_with_adaptive(nn.Sequential(linear(), linear(5, 12)), adapt_every=NEVER)
    for _ in range(3):
        model(rows())
    model[0].set_rank(4)
    clear_fd_sketch(model)
    for layer in iter_adaptive_layers(model):
        assert observed(layer)[:2] == (0, 0)
        assert layer.sketch.total_mass() == 0.0
    assert model[0].current_rank() == 4
    assert not model[0].prefix_loss().any()
    model(rows())
    assert model[0].sketch.n_samples_seen > 0


def test_adapt_now_moves_by_the_largest_step_ignores_the_cool_down_and_tells():
    config = AdaptConfig(r_min=1, eps=0.3, shrink_step=3, adapt_every=NEVER, adapt_cooldown=NEVER)
    layer = AdaptiveLinear(linear(), config)
    assert layer.adapt_now() == 12  # nothing seen, nothing done
    layer(rows())
    assert layer.adapt_now() == layer.current_rank() == 9
    assert layer.adapt_now() == 6


def test_adapt_now_keeps_the_function_at_full_rank():
    plain = linear()
    layer = AdaptiveLinear(plain, AdaptConfig(r_min=12, adapt_every=NEVER))
    x = rows() + 2.0
    layer._watch.credit = 1e6
    layer(x)
    for _ in range(5):
        layer.adapt_now()
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-11, atol=1e-11)
    # the bias is now the output at the mean input
    torch.testing.assert_close(layer.effective_weight(0)[1], plain(x.mean(0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_rows_never_enter_the_sketch(bad):
    layer = AdaptiveLinear(linear(), AdaptConfig(r_min=1, adapt_every=2))
    for _ in range(6):
        x = rows(20)
        x[::5, 3] = bad
        layer(x)
    assert layer.sketch.n_skipped > 0
    assert layer.sketch.n_samples_seen > 0
    layer.adapt_now()
    assert bool(torch.isfinite(layer.prefix_loss()).all())
    assert all(bool(p.isfinite().all()) for p in layer.parameters())
    everything = torch.full((20, 16), bad, dtype=double)
    clear_fd_sketch(layer)
    layer(everything)
    layer.adapt_now()
    assert layer.sketch.n_samples_seen == 0
    assert all(bool(p.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_tiny_batches_are_watched_too(batch):
    layer = AdaptiveLinear(linear(), AdaptConfig(r_min=1, adapt_every=3))
    for _ in range(12):
        layer(rows(batch))
    assert layer.steps == 12
    # the first rows are free, later ones are sampled
    seen = layer.sketch.n_samples_seen
    assert seen == 0 if batch == 0 else 12 <= seen <= 12 * batch


def test_a_convolution_watches_its_patches():
    plain = conv({"padding": 1}, inputs=2)
    layer = AdaptiveConv2d(plain, AdaptConfig(adapt_every=NEVER))
    x = torch.randn(2, 2, 4, 4, dtype=double)
    layer._watch.credit = 1e6
    layer(x)
    patches = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    centred = patches - patches.mean(0)
    B = torch.as_tensor(layer.sketch.sketch()).double()
    torch.testing.assert_close(B.T @ B, centred.T @ centred, rtol=1e-4, atol=1e-4)


def test_activation_checkpointing_counts_a_step_once_and_works():
    plain = nn.Sequential(linear(), nn.Tanh(), linear(4, 12))
    config = dict(EAGER, adapt_every=3, shrink_step=2, eps=0.3)
    model = wrap_model_with_adaptive(plain, **config)
    twin = copy.deepcopy(model)
    for step in range(8):
        x = rows().requires_grad_()
        checkpoint(model, x, use_reentrant=False).square().sum().backward()
        twin(x.detach().requires_grad_()).square().sum().backward()
        assert model[0].steps == step + 1
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert model[0].current_rank() == twin[0].current_rank() < 12


def test_gradients_accumulate_over_steps_in_which_the_rank_moves():
    model = wrap_model_with_adaptive(nn.Sequential(linear()), **EAGER, eps=0.3, shrink_step=2)
    total = sum(model(rows()).square().sum() for _ in range(4))
    total.backward()
    assert model[0].current_rank() < 12
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_autocast_runs_in_bfloat16_and_decides_in_float32():
    plain = nn.Linear(16, 12)
    layers = [AdaptiveLinear(plain, AdaptConfig(**EAGER, eps=0.1)) for _ in range(2)]
    for _ in range(4):
        x = rows().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layers[0](x).dtype == torch.bfloat16
        assert layers[1](x).dtype == torch.float32
    assert layers[0].sketch.to_bytes() == layers[1].sketch.to_bytes()
    assert layers[0].current_rank() == layers[1].current_rank()
    assert layers[0].down.dtype == torch.float32


def test_inference_mode_first_and_training_after():
    layer = AdaptiveLinear(
        linear(), AdaptConfig(**EAGER, eps=0.1, freeze_during_eval=False, shrink_step=1)
    )
    with torch.inference_mode():
        for _ in range(3):
            layer(rows())
    layer(rows()).sum().backward()
    layer.adapt_now()
    assert layer.steps == 4
    assert layer.current_rank() < 12
    assert not layer.rank.is_inference()
    layer.eval()
    layer.enable_adaptation(False)
    layer.set_rank(12)
    with torch.inference_mode():
        first = layer(rows(3))
    with torch.no_grad():
        layer(rows(3))
    layer(rows(3)).sum().backward()
    assert bool(first.isfinite().all())


def test_a_model_made_in_inference_mode_runs():
    with torch.inference_mode():
        model = wrap_model_with_adaptive(nn.Sequential(nn.Linear(8, 8))).eval()
        y = model(torch.ones(2, 8))
    with torch.no_grad():
        assert torch.equal(model(torch.ones(2, 8)), y)


# copies and files


def test_a_copy_is_a_layer_of_its_own():
    model = wrap_model_with_adaptive(nn.Sequential(linear()), adapt_every=NEVER)
    model(rows())
    twin = copy.deepcopy(model)
    before = observed(model[0])
    twin(rows())
    twin[0].set_rank(3)
    twin[0].adapt_now()
    assert observed(model[0]) == before
    assert observed(twin[0])[1] == before[1] + 1
    seen = twin[0].sketch.n_samples_seen
    model(rows())
    assert twin[0].sketch.n_samples_seen == seen


def test_what_a_compiled_copy_watches_goes_to_the_copy():
    torch._dynamo.reset()
    model = wrap_model_with_adaptive(nn.Sequential(linear()), adapt_every=NEVER)
    run = torch.compile(model, backend="eager", fullgraph=True)
    run(rows())
    assert model[0].steps == 1
    twin = copy.deepcopy(model)
    torch.compile(twin, backend="eager", fullgraph=True)(rows())
    assert (model[0].steps, twin[0].steps) == (1, 2)
    run(rows())
    assert (model[0].steps, twin[0].steps) == (2, 2)


def test_layers_are_freed():
    import weakref

    layer = AdaptiveLinear(linear())
    layer(rows()).sum().backward()
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def adapting(seed=0, **options):
    torch.manual_seed(seed)
    plain = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 20)
    )
    options = dict(EAGER, adapt_every=2, eps=0.2, shrink_step=2, sketch_size=12) | options
    return wrap_model_with_adaptive(plain.double(), **options)


def images(seed, count=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 4, 4, generator=generator, dtype=double)


def test_a_loaded_model_goes_on_as_the_saved_one_would():
    model = adapting()
    for i in range(5):
        model(images(i))
    fresh = adapting(seed=1, eps=0.9, sketch_size=9)
    fresh.load_state_dict(through_a_file(model.state_dict()))
    for mine, its in zip(iter_adaptive_layers(model), iter_adaptive_layers(fresh), strict=True):
        assert observed(mine) == observed(its)
        assert mine.sketch.to_bytes() == its.sketch.to_bytes()
        assert mine.config == its.config
    for i in range(5, 25):
        torch.testing.assert_close(model(images(i)), fresh(images(i)), rtol=0, atol=0)
        if i == 15:
            for layer in (model[3], fresh[3]):
                layer.adapt_now()
    for mine, its in zip(iter_adaptive_layers(model), iter_adaptive_layers(fresh), strict=True):
        assert observed(mine) == observed(its)
        assert mine.sketch.to_bytes() == its.sketch.to_bytes()
    assert model[3].current_rank() < 20


def test_the_switch_and_the_cool_down_are_restored_too():
    model = adapting(adapt_cooldown=7)
    for i in range(4):
        model(images(i))
    model[3].enable_adaptation(False)
    fresh = adapting(seed=1)
    fresh.load_state_dict(through_a_file(model.state_dict()))
    before = observed(fresh[3])
    fresh(images(9))
    assert observed(fresh[3]) == before
    for i in range(10, 20):
        model(images(i))
        if i > 10:
            fresh(images(i))
    model(images(99))


@pytest.mark.parametrize("damage", ["short", "empty", "flip", "text", "header"])
def test_damaged_extra_state_is_named_and_changes_nothing(damage):
    layer = AdaptiveLinear(linear(), AdaptConfig(adapt_every=NEVER))
    layer(rows())
    before = layer.get_extra_state()
    data = before.clone()
    damaged = {
        "short": data[:-7],
        "empty": data[:0],
        "flip": torch.where(torch.arange(len(data)) == len(data) // 2, data ^ 1, data),
        "text": torch.tensor(list(b"no state at all"), dtype=torch.uint8),
        "header": torch.where(torch.arange(len(data)) == 20, data ^ 1, data),
    }[damage]
    with pytest.raises(ValueError, match="extra state of an adaptive layer"):
        layer.set_extra_state(damaged)
    assert torch.equal(layer.get_extra_state(), before)


@pytest.mark.parametrize("state", [None, "x", {"a": 1}, torch.ones(3)])
def test_extra_state_of_another_kind_is_named(state):
    with pytest.raises(ValueError, match="extra state of an adaptive layer must be"):
        AdaptiveLinear(linear()).set_extra_state(state)


def test_no_bit_of_the_extra_state_can_flip_unnoticed():
    layer = AdaptiveLinear(linear(3, 2), AdaptConfig(adapt_every=NEVER))
    layer(rows(9, 2))
    before = layer.get_extra_state()
    for place in range(len(before)):
        data = before.clone()
        data[place] ^= 1 << (place % 8)
        with pytest.raises(ValueError, match="extra state"):
            layer.set_extra_state(data)


def test_extra_state_of_another_size_is_named():
    layer = AdaptiveLinear(linear(12, 16))
    with pytest.raises(ValueError, match="field sketch must have 16 features, got 17"):
        layer.set_extra_state(AdaptiveLinear(linear(12, 17)).get_extra_state())


@pytest.mark.parametrize("rank", [-1, 13])
def test_a_rank_that_cannot_be_is_not_loaded(rank):
    layer = AdaptiveLinear(linear())
    state = layer.state_dict()
    state["rank"] = torch.tensor(rank)
    with pytest.raises((ValueError, RuntimeError), match="rank"):
        AdaptiveLinear(linear()).load_state_dict(state)


def test_ranks_load_at_any_value_including_none():
    for rank in (0, 1, 12):
        layer = AdaptiveLinear(linear())
        layer.set_rank(rank)
        fresh = AdaptiveLinear(linear())
        fresh.load_state_dict(through_a_file(layer.state_dict()))
        assert fresh.current_rank() == rank
        x = rows(3)
        torch.testing.assert_close(fresh(x), layer(x))


def test_a_state_loads_onto_the_parameters_given():
    model = adapting()
    fresh = adapting(seed=1)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh[3].set_rank(4)
    model[3].set_rank(4)
    torch.testing.assert_close(fresh(images(0)), model(images(0)))


# wrapping


def test_a_layer_used_twice_is_one_adaptive_layer():
    shared = linear(16, 16)
    model = wrap_model_with_adaptive(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}))
    assert model["a"] is model["b"][0]
    assert len(list(iter_adaptive_layers(model))) == 1
    model["a"](rows())
    model["b"](rows())
    assert model["a"].steps == 2


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner = nn.Embedding(7, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.inner(self.embed(x)))


def test_tied_weights_are_left_alone_and_stay_tied():
    model = Tied()
    x = torch.arange(7)
    before = model(x)
    model = wrap_model_with_adaptive(model)
    assert isinstance(model.inner, AdaptiveLayer)
    assert type(model.head) is nn.Linear
    assert model.head.weight is model.embed.weight
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_modules_that_read_their_childrens_weights_go_on_working():
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(16, 4, batch_first=True),
            "encoder": nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0), 2
            ),
            "decoder": nn.TransformerDecoderLayer(16, 4, 32, batch_first=True, dropout=0.0),
            "own": nn.Linear(16, 16),
        }
    )

    def run(x):
        y = model["attention"](x, x, x)[0]
        return model["own"](model["decoder"](model["encoder"](y), y))

    x = torch.randn(2, 5, 16)
    for training in (True, False):
        model.train(training)
        before = run(x).detach()
        model = wrap_model_with_adaptive(model) if training else model
        with torch.set_grad_enabled(training):
            torch.testing.assert_close(run(x), before, rtol=1e-4, atol=1e-5)
    adaptive = [n for n, m in model.named_modules() if isinstance(m, AdaptiveLayer)]
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    encoded = (*(f"self_attn.{name}" for name in projections), "linear1", "linear2")
    wanted = [f"attention.{name}" for name in projections]
    wanted += [f"encoder.layers.{i}.{name}" for i in range(2) for name in encoded]
    assert {*wanted, "own"} < set(adaptive)


def test_pruned_and_subclassed_layers_are_left_alone():
    from torch.nn.utils import parametrizations, prune

    class Mine(nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    model = nn.Sequential(
        prune.l1_unstructured(nn.Linear(16, 16), "weight", amount=0.5),
        parametrizations.weight_norm(nn.Linear(16, 16)),
        Mine(16, 16),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Linear(16, 16),
    )
    kinds = [type(m) for m in model]
    wrapped = wrap_model_with_adaptive(model)
    assert [type(m) for m in wrapped][:4] == kinds[:4]
    assert isinstance(wrapped[4], AdaptiveLinear)


def test_skipped_layers_are_logged_with_the_reason(caplog):
    caplog.set_level("INFO", logger="adlrns_models")
    wrap_model_with_adaptive(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 4)))
    assert "0 stays as it is: each of its 4 groups is a 1 x 9 matrix (depthwise)" in caplog.text


def test_a_layer_alone_is_returned_wrapped():
    assert isinstance(wrap_model_with_adaptive(nn.Linear(4, 3)), AdaptiveLinear)
    assert isinstance(wrap_model_with_adaptive(nn.Conv2d(4, 3, 1)), AdaptiveConv2d)


def test_hooks_modes_and_flags_of_a_layer_survive_wrapping():
    model = nn.Sequential(linear(), linear(4, 12).eval())
    model[0].requires_grad_(False)
    calls = []
    model[0].register_forward_hook(lambda *a: calls.append("forward"))
    model[0].register_forward_pre_hook(lambda *a: calls.append("before"))
    model = wrap_model_with_adaptive(model)
    model(rows())
    assert calls == ["before", "forward"]
    assert not any(p.requires_grad for p in model[0].parameters())
    assert all(p.requires_grad for p in model[1].parameters())
    assert [m.training for m in model] == [True, False]


def test_wrapping_twice_changes_nothing_more():
    model = wrap_model_with_adaptive(nn.Sequential(linear(), nn.ReLU()))
    layer = model[0]
    with pytest.raises(ValueError, match="model must have a layer to wrap"):
        wrap_model_with_adaptive(model)
    assert model[0] is layer


def test_if_one_layer_fails_none_is_replaced():
    model = nn.Sequential(linear(), linear(4, 12))
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    kept = list(model)
    with pytest.raises(ValueError, match="weight must be finite"):
        wrap_model_with_adaptive(model)
    assert list(model) == kept


def test_r_max_bounds_the_directions_that_are_kept():
    plain = linear(12, 16)
    model = wrap_model_with_adaptive(nn.Sequential(plain), r_max=5, r_min=2)
    assert model[0].max_rank == model[0].current_rank() == 5
    assert model[0].down.shape == (5, 16)
    u, s, vh = torch.linalg.svd(plain.weight, full_matrices=False)
    x = rows(6)
    wanted = x @ (u[:, :5] * s[:5] @ vh[:5]).T + plain.bias
    torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize("kind", [AdaptiveLinear, AdaptiveConv2d])
def test_layers_take_a_sketch_or_ready_factors(kind):
    from adlrns_models import factorize
    from fd_sketch import ExactGram

    plain = linear() if kind is AdaptiveLinear else conv({})
    width = plain.weight[0].numel()
    X = synthetic_inputs("log-normal-channels", 300, width)
    sketch = ExactGram(width, center=True).partial_fit(X)
    fitted = kind(plain, sketch=sketch)
    factors = factorize(plain.weight.detach().flatten(1), plain.bias.detach(), sketch)
    ready = kind(plain, factors=factors)
    for a, b in zip(fitted.parameters(), ready.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert fitted.inner_bias.any()


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: AdaptiveLinear(nn.Conv2d(3, 3, 1)), TypeError, "linear must be a Linear"),
        (lambda: AdaptiveConv2d(nn.Linear(3, 3)), TypeError, "conv must be a Conv2d"),
        (
            lambda: AdaptiveConv2d(nn.Conv2d(4, 4, 1, groups=4)),
            ValueError,
            "groups=1, got groups=4",
        ),
        (lambda: wrap_model_with_adaptive(3), TypeError, "model must be a Module, got int"),
        (lambda: wrap_model_with_adaptive(nn.ReLU()), ValueError, "must have a layer to wrap"),
        (lambda: wrap_model_with_adaptive(nn.Linear(2, 2), epss=1), TypeError, "keyword epss"),
        (lambda: iter_adaptive_layers("x"), TypeError, "model must be a Module, got str"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_wrong_inputs_are_refused_with_adaptation_on_and_off():
    layer = AdaptiveLinear(linear())
    for training in (True, False):
        layer.train(training)
        with pytest.raises((ValueError, RuntimeError, TypeError)):
            layer(torch.randn(3, 15, dtype=double))
    assert layer.sketch.n_samples_seen == 0
    layer.train()(rows())
    assert layer.sketch.n_samples_seen > 0


def test_a_layer_says_what_it_is():
    text = repr(AdaptiveLinear(linear(), AdaptConfig(eps=0.05)))
    assert text == "AdaptiveLinear(16 -> 12, rank=12, max_rank=12, eps=0.05)"
