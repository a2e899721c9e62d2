import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from adlrns_models import (
    AdaptiveLinear,
    ElasticModel,
    load_materialized,
    make_elastic,
    materialize_model,
    save_materialized,
    wrap_model_with_adaptive,
)


class Conv1D(nn.Module):
    """As the transformers library has it."""

    def __init__(self, nf, nx, dtype=torch.float32):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf, dtype=dtype) / nx**0.5)
        self.bias = nn.Parameter(torch.randn(nf, dtype=dtype))

    def forward(self, x):
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view(*x.size()[:-1], self.nf)


def named(forward):
    """Another class that calls itself Conv1D."""
    made = type("Conv1D", (nn.Module,), {"forward": forward})()
    made.weight, made.bias = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
    return made


def raises(self, x):
    raise RuntimeError("not today")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_transposed_weight_is_wrapped_as_the_linear_layer_it_is(dtype):
    plain = Conv1D(12, 7, dtype).train()
    plain.weight.requires_grad_(False)
    calls = []
    plain.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(3, 5, 7, dtype=dtype)
    wanted = plain(x)
    layer = wrap_model_with_adaptive(plain, r_min=0)
    assert isinstance(layer, AdaptiveLinear)
    assert (layer.in_features, layer.out_features, layer.max_rank) == (7, 12, 7)
    tolerance = 40 * torch.finfo(dtype).eps
    torch.testing.assert_close(layer(x), wanted, rtol=tolerance, atol=tolerance)
    assert len(calls) == 2
    assert not layer.down.requires_grad
    assert layer.training


@pytest.mark.parametrize(
    "other",
    [
        named(lambda self, x: x @ self.weight),
        named(lambda self, x: x @ self.weight.T + self.bias),
        named(lambda self, x: (x @ self.weight + self.bias).relu()),
        named(raises),
        prune.identity(Conv1D(6, 6), "weight"),
    ],
)
def test_another_layer_of_that_name_stays_and_is_named(other, caplog):
    caplog.set_level("INFO", logger="adlrns_models")
    model = wrap_model_with_adaptive(nn.Sequential(other, nn.Linear(6, 6)))
    assert model[0] is other
    assert "0 stays as it is: it is called Conv1D but is not" in caplog.text


def test_the_convolution_of_torch_is_not_taken_for_it(caplog):
    caplog.set_level("INFO", logger="adlrns_models")
    kinds = [nn.Conv1d(3, 3, 1), nn.Conv3d(3, 3, 1), nn.ConvTranspose2d(3, 3, 1), nn.GRU(3, 3)]
    wrap_model_with_adaptive(nn.ModuleList([*kinds, nn.Embedding(3, 3), nn.Linear(3, 3)]))
    for i, kind in enumerate(kinds):
        assert f"{i} stays as it is: there is no adaptive {type(kind).__name__}" in caplog.text
    assert "4 stays as it is: an embedding looks rows up" in caplog.text


def test_a_weight_that_is_not_finite_is_refused_by_name():
    model = Conv1D(4, 3)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="weight must be finite"):
        wrap_model_with_adaptive(model)


def test_elastic_and_settled_models_of_it_are_saved_and_loaded(tmp_path):
    model = nn.Sequential(Conv1D(40, 24), nn.GELU(), Conv1D(8, 40))
    x = torch.randn(64, 24)
    elastic = make_elastic(model, [x])
    with torch.no_grad():
        torch.testing.assert_close(elastic(x), model(x), rtol=1e-4, atol=1e-5)
    assert [p.size[:2] for p in elastic.profiles.values()] == [(40, 24), (8, 40)]
    for share in (0.5, 1.0):
        elastic.set_budget(flops=share)
        settled = materialize_model(elastic)
        elastic.save(tmp_path)
        save_materialized(settled, tmp_path, like=model)
        with torch.no_grad():
            y = elastic(x)
            torch.testing.assert_close(settled(x), y, rtol=1e-4, atol=1e-5)
            assert torch.equal(ElasticModel.load(tmp_path, model)(x), y)
            assert torch.equal(load_materialized(tmp_path, model)(x), settled(x))
