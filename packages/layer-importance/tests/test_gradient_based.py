"""Gradients of parameters against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Classification, analyze
from layer_importance._methods.gradient_based import GradientBased
from layer_importance._methods.snip import Snip
from layer_importance._tasks.regression import Regression


def _linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).double()
    return model, torch.randn(40, 4).double(), torch.randn(40, 3).double()


def _batches(x: Tensor, y: Tensor, split: int = 16) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(split), y.split(split), strict=True))


def test_gradients_of_a_linear_map_under_squared_error() -> None:
    model, x, y = _linear()
    error = model(x).detach() - y
    report = analyze(
        model, _batches(x, y), methods=["gradient_based", "snip"], units=["0"], task=Regression()
    )
    norms = error.norm(dim=1) * x.norm(dim=1)
    found = report["gradient_based"]
    assert found["0"].value == pytest.approx(float(norms.mean()), rel=1e-10)
    assert found["0"].standard_error == pytest.approx(float(norms.std() / 40**0.5), rel=1e-10)
    products = (error * (x @ model[0].weight.T.detach())).sum(1)
    assert found.extras["taylor"]["0"] == pytest.approx(float(products.abs().mean()), rel=1e-10)
    assert found.extras["taylor_signed"]["0"] == pytest.approx(float(products.mean()), rel=1e-10)
    mean = error.T @ x / 40
    snip, theta = report["snip"], model[0].weight.detach()
    assert snip["0"].value == pytest.approx(float((mean * theta).abs().sum()), rel=1e-10)
    assert snip.extras["taylor"]["0"] == pytest.approx(abs(float(products.mean())), rel=1e-10)
    assert snip.extras["gradient_norm"]["0"] == pytest.approx(float(mean.norm()), rel=1e-10)
    assert math.isnan(snip["0"].standard_error)


def test_products_are_the_same_for_every_layer_of_a_homogeneous_chain() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for wide, high in ((5, 9), (9, 7), (7, 4)):
        layers += [nn.Linear(wide, high, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    x, y = torch.randn(20, 5).double(), torch.arange(20) % 4
    names = ["0", "2", "4"]
    found = analyze(model, _batches(x, y), methods=["gradient_based", "snip"], units=names)
    for method, column in (("gradient_based", "taylor"), ("snip", "taylor")):
        values = [found[method].extras[column][name] for name in names]
        assert values == pytest.approx([values[0]] * 3, rel=1e-10)
        assert values[0] > 0


@pytest.mark.parametrize("method", [GradientBased, Snip])
def test_batches_may_be_split_and_merged_in_any_way(method: Any) -> None:
    model, x, y = _linear()
    whole, merged = method(), method()
    options: dict[str, Any] = {"units": ["0"], "task": Regression()}
    (right,) = analyze(model, [(x, y)], methods=[whole], **options).methods.values()
    (found,) = analyze(model, _batches(x, y, 7), methods=[method()], **options).methods.values()
    analyze(model, _batches(x[:7], y[:7]), methods=[merged], **options)
    other = method()
    analyze(model, _batches(x[7:], y[7:]), methods=[other], **options)
    merged.merge(other.state())
    for scores in (found, merged.scores()):
        assert scores["0"].value == pytest.approx(right["0"].value, rel=1e-10)
        assert scores["0"].samples == 40
        for column, values in right.extras.items():
            assert scores.extras[column]["0"] == pytest.approx(values["0"], rel=1e-10)


def test_a_loss_times_c_gives_c_times_the_gradient() -> None:
    class Scaled(Classification):
        def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
            return 3 * super().loss(output, labels, batch)

    model, x, _ = _linear()
    y = torch.arange(40) % 3
    plain, scaled = (
        analyze(model, [(x, y)], methods=["gradient_based", "snip"], units=["0"], task=task)
        for task in (Classification(), Scaled())
    )
    for method in ("gradient_based", "snip"):
        assert scaled[method]["0"].value == pytest.approx(3 * plain[method]["0"].value, rel=1e-10)


def test_gradients_of_samples_that_cancel_still_count() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.zero_()
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).double()
    y = torch.tensor([[1.0], [-1.0]]).double()
    report = analyze(
        model, [(x, y)], methods=["gradient_based", "snip"], units=["0"], task=Regression()
    )
    assert report["gradient_based"]["0"].value == pytest.approx(5**0.5)
    assert report["snip"].extras["gradient_norm"]["0"] == 0


def test_calls_of_a_shared_module_have_no_gradient_of_their_own_sum() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model = nn.Sequential(block, block, nn.Linear(4, 3))
    batch = (torch.randn(6, 4), torch.arange(6) % 3)
    report = analyze(model, [batch], methods=["gradient_based", "snip"], units=["0"])
    assert list(report["gradient_based"].scores) == ["0#0", "0#1"]
    assert report["snip"].scores == {}
    assert "other units" in report["snip"].missing["0#1"]
