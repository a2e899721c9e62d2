"""Batch norms re-estimated for the layers before them."""

import pytest
import torch
from torch import nn

from adlrns_models import make_elastic, reestimate_norms

F64 = torch.float64


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * 16, 6), nn.BatchNorm1d(6, momentum=0.3),
    ).double()  # fmt: skip


def images(*sizes, shift=0.0):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 6, 6, generator=generator, dtype=F64) + shift for n in sizes]


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_statistics_are_those_of_all_rows_together(shift):
    model, batches = network(), images(8, 3, 21, shift=shift)
    assert reestimate_norms(model, batches) == ["1", "6"]
    rows = model[0](torch.cat(batches)).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, rows.mean(1))
    torch.testing.assert_close(model[1].running_var, rows.var(1), rtol=1e-6, atol=0)
    assert int(model[1].num_batches_tracked) == 3


def test_a_second_norm_sees_the_first_at_work():
    model, (x,) = network(), images(32)
    reestimate_norms(model, [x])
    with torch.no_grad():
        for part in (model[1], model[3]):
            part.train(part is model[1])
        rows = model[:6](x)
    torch.testing.assert_close(model[6].running_mean, rows.mean(0))
    torch.testing.assert_close(model[6].running_var, rows.var(0))


def test_everything_else_stays():
    model = network().train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    before = {n: v.clone() for n, v in model.state_dict().items()}
    random = torch.get_rng_state()
    reestimate_norms(model, images(8, 8))
    assert [part.training for part in model.modules()] == modes
    assert (model[1].momentum, model[6].momentum) == (0.1, 0.3)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_pre_hooks for part in model.modules())
    for name, value in model.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("batches", [[], [torch.randn(1, 3, 6, 6)], [*images(8), "broken"]])
def test_an_error_changes_nothing(batches):
    model = network().train()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)):
        reestimate_norms(model, batches)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.training
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_named_and_changes_nothing(value):
    model, batches = network(), images(8, 8, 8)
    batches[1][3, 0, 2, 2] = value
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"batches\[1\] must give norm '1' finite values, got nan"):
        reestimate_norms(model, batches)
    for name, now in model.state_dict().items():
        assert torch.equal(now, before[name])


def test_a_batch_of_one_value_a_feature_is_named():
    with pytest.raises(ValueError, match=r"batches\[1\] must give norm '6' at least 2 values"):
        reestimate_norms(network(), images(8, 1))


def test_norms_without_statistics_and_norms_out_of_reach_are_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4))
    assert reestimate_norms(model, [torch.randn(8, 4)]) == []
    model = nn.ModuleDict({"a": nn.BatchNorm1d(4), "b": nn.BatchNorm1d(4)})
    found = reestimate_norms(model, [torch.randn(8, 4)], forward=lambda m, x: m["a"](x))
    assert found == ["a"]
    assert int(model["b"].num_batches_tracked) == 0


def test_bare_tensors_and_other_things_are_refused():
    with pytest.raises(TypeError, match="batches must be an iterable of batches"):
        reestimate_norms(network(), images(8)[0])
    with pytest.raises(TypeError, match="model must be a Module"):
        reestimate_norms("model", images(8))


def test_a_truncated_network_is_nearer_to_the_whole_one_afterwards(digits, digits_cnn):
    x, _, unseen, _ = digits
    elastic = make_elastic(digits_cnn, x[:512].split(64)).eval()
    elastic.set_budget(flops=0.12)

    def off():
        with torch.no_grad():
            wanted = digits_cnn(unseen)
            return float((elastic(unseen) - wanted).square().sum() / wanted.square().sum())

    before = off()
    assert reestimate_norms(elastic, x[:1024].split(256)) == ["network.4"]
    assert off() < before
