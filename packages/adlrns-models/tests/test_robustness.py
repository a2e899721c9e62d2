"""What once went wrong, or nearly: each a way in which real programs use layers."""

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import prune

from adlrns_models import (
    AdaptConfig,
    AdaptiveConv2d,
    AdaptiveLinear,
    factorize,
    make_elastic,
    materialize_model,
    wrap_model_with_adaptive,
)
from adlrns_models._realign import realign
from fd_sketch import ExactGram


def layer(n=16, m=16, **options):
    torch.manual_seed(0)
    return AdaptiveLinear(nn.Linear(n, m), AdaptConfig(r_min=1, **options))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def test_a_dense_weight_put_together_under_autocast_serves_float32_too():
    elastic, x = make_elastic(network(), [torch.randn(32, 8)]), torch.randn(3, 8)
    with torch.no_grad():
        want = elastic(x)
        elastic.set_budget(flops=1.0)
        with torch.autocast("cpu", torch.bfloat16):
            elastic(x)
        torch.testing.assert_close(elastic(x), want)


@pytest.mark.parametrize("rank", [4, 16])
def test_changes_through_data_are_seen_at_once(rank):
    changed, x = layer().eval(), torch.randn(3, 16)
    changed.set_rank(rank)
    with torch.no_grad():
        changed(x)
        changed.up.data.mul_(2)
        got = changed(x)
    torch.testing.assert_close(got, changed(x).detach())


def test_replaced_parameters_are_seen_at_once():
    changed, x = layer().eval(), torch.randn(3, 16)
    changed._serve()
    with torch.no_grad():
        for _ in range(20):  # memory of the old one may be given to the new one
            changed(x)
            changed.up = nn.Parameter(torch.randn(16, 16))
            want = (x @ changed.down.T + changed.inner_bias) @ changed.up.T + changed.outer_bias
            torch.testing.assert_close(changed(x), want)


def test_what_is_made_in_inference_mode_trains_and_runs_outside():
    model, x = network(), torch.randn(32, 8)
    with torch.inference_mode():
        elastic = make_elastic(model, [x])
        wrapped = wrap_model_with_adaptive(network(), adapt_every=1, r_min=1)
        wrapped(x)
    elastic.set_budget(flops=0.5)
    elastic(x).sum().backward()
    for _ in range(3):
        wrapped(x).sum().backward()


def test_is_called_by_keyword_as_the_layers_it_replaces():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(input=self.conv(input=x).mean((2, 3)))

    model, x = Named(), torch.randn(16, 2, 5, 5)
    torch.testing.assert_close(make_elastic(model, [x])(x), model(x), rtol=1e-4, atol=1e-5)
    want = model(x)
    torch.testing.assert_close(wrap_model_with_adaptive(model)(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight, bias", [(True, False), (False, True)])
def test_weight_and_bias_keep_their_own_flags(weight, bias):
    linear = nn.Linear(8, 6)
    linear.weight.requires_grad_(weight)
    linear.bias.requires_grad_(bias)
    adaptive = AdaptiveLinear(linear)
    adaptive.set_rank(2)
    assert adaptive.down.requires_grad is adaptive.up.requires_grad is weight
    assert adaptive.outer_bias.requires_grad is bias
    settled = materialize_model(adaptive, "factored")
    assert (settled[1].weight.requires_grad, settled[1].bias.requires_grad) == (weight, bias)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_pruned_layers_are_left_alone(part):
    model = network()
    prune.l1_unstructured(model[0], part, 0.5)
    wrap_model_with_adaptive(model)
    assert type(model[0]) is nn.Linear
    assert isinstance(model[2], AdaptiveLinear)
    model(torch.randn(2, 8))


def test_layers_without_real_values_are_left_alone():
    model = nn.Sequential(
        nn.Linear(8, 8, dtype=torch.cfloat), nn.Linear(8, 8, device="meta"), nn.Linear(8, 8)
    )
    wrap_model_with_adaptive(model)
    assert [type(child) for child in model] == [nn.Linear, nn.Linear, AdaptiveLinear]


def test_huge_activations_do_not_drop_the_rank():
    adaptive = layer(adapt_every=1, adapt_cooldown=0, eps=0.05).train()
    x = torch.randn(64, 16)
    adaptive(x)
    want = adaptive.current_rank()
    huge = layer(adapt_every=1, adapt_cooldown=0, eps=0.05).train()
    huge(x * 1e18)
    assert huge.current_rank() == want


def test_transforms_of_torch_func_go_through():
    adaptive = layer(adapt_every=1).train()
    x = torch.randn(5, 16)
    slope = torch.func.vmap(torch.func.jacrev(adaptive))(x)
    assert slope.shape == (5, 16, 16)
    torch.testing.assert_close(slope[0], adaptive.weight)
    assert adaptive.steps == 0


def test_a_graph_made_without_watching_finds_its_factors():
    adaptive, x = layer(adapt_every=1).train(), torch.randn(32, 16)
    with adaptive.adapt_disabled():
        first = adaptive(x).square().sum()
    second = adaptive(x).square().sum()  # would re-fit the factors if nothing waited
    (first + second).backward()


def test_ranks_are_set_even_if_a_callback_fails():
    elastic = make_elastic(network(), [torch.randn(32, 8)])

    def fail(old, new):
        raise RuntimeError(f"{old} to {new}")

    next(iter(elastic.layers().values()))._on_rank_change = fail
    want = dict.fromkeys(elastic.ranks(), 2)
    with pytest.raises(RuntimeError, match="to 2"):
        elastic.set_ranks(want)
    assert elastic.ranks() == want


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_waiting_gradients_are_carried_exactly(kind, frozen):
    torch.manual_seed(0)
    config = AdaptConfig(r_min=1, adapt_every=10**6)
    if kind == "linear":
        made, x = AdaptiveLinear(nn.Linear(8, 6).double(), config), torch.randn(40, 8).double() + 1
    else:
        made = AdaptiveConv2d(nn.Conv2d(2, 5, 3, padding=1).double(), config)
        x = torch.randn(6, 2, 5, 5).double() + 1
    made.train().outer_bias.requires_grad_(not frozen)
    made(x)

    def gradients():
        made.zero_grad()
        with made.adapt_disabled():
            made(x).pow(3).sum().backward()
        return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}

    gradients()
    realign(made)
    carried = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    for name, want in gradients().items():
        torch.testing.assert_close(carried[name], want, rtol=1e-9, atol=1e-9)


def test_a_sketch_of_numpy_rows_will_do():
    rows = np.random.default_rng(0).standard_normal((50, 8))
    weight = torch.randn(6, 8)
    got = factorize(weight, sketch=ExactGram(8, center=True).partial_fit(rows))
    want = factorize(weight, sketch=ExactGram(8, center=True).partial_fit(torch.tensor(rows)))
    torch.testing.assert_close(got.down, want.down)


@pytest.mark.parametrize("forwards", [1, 2, 3])
def test_checkpointed_forwards_are_computed_again_at_their_rank(forwards):
    adaptive = layer(32, 32, adapt_every=2, adapt_cooldown=0, grow_step=3, shrink_step=3).train()
    for _ in range(12):
        x = torch.randn(8, 32)
        outputs = [
            torch.utils.checkpoint.checkpoint(adaptive, x + i, use_reentrant=False)
            for i in range(forwards)
        ]
        torch.stack([y.square().sum() for y in outputs]).sum().backward()
    assert adaptive.current_rank() < 32  # it did adapt


def test_a_linked_file_is_replaced_behind_its_link(tmp_path):
    elastic = make_elastic(network(), [torch.randn(32, 8)])
    elastic.save(tmp_path / "real")
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "elastic.safetensors"
    link.symlink_to(tmp_path / "real" / "elastic.safetensors")
    elastic.set_budget(flops=0.5)
    elastic.save(tmp_path / "link")
    assert link.is_symlink()
    assert type(elastic).load(tmp_path / "real", network()).ranks() == elastic.ranks()
