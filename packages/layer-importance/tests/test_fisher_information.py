"""Fisher information against closed forms; a squared batch gradient fails every one of them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from layer_importance import Classification, Method, MethodScores, Moments, Task, analyze
from layer_importance._methods.fisher_information import (
    EmpiricalFisher,
    ExactFisher,
    FisherInformation,
)
from layer_importance._tasks.regression import Regression

Batches = list[tuple[Tensor, Tensor]]


def _softmax_regression(samples: int = 400, width: int = 5, classes: int = 4) -> tuple[Any, ...]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, classes, bias=False)).double()
    x = torch.randn(samples, width, dtype=torch.float64)
    labels = torch.randint(0, classes, (samples,))
    with torch.no_grad():
        p = model(x).softmax(1)
    return model, x, labels, p


def _scores(
    method: Method, model: nn.Module, x: Tensor, y: Tensor, split: int = 64, **options: Any
) -> MethodScores:
    batches = list(zip(x.split(split), y.split(split), strict=True))
    return analyze(model, batches, methods=[method], units=["0"], **options)[method.name]


def test_exact_fisher_of_softmax_regression() -> None:
    model, x, labels, p = _softmax_regression()
    each = (1 - p.square().sum(1)) * x.square().sum(1)
    found = _scores(ExactFisher(), model, x, labels)["0"]
    assert found.value == pytest.approx(float(each.mean()), rel=1e-10)
    assert found.standard_error == pytest.approx(float(each.std() / 20), rel=1e-10)
    assert found.samples == 400


def test_sampled_fisher_is_exact_but_for_its_standard_error() -> None:
    model, x, labels, p = _softmax_regression(samples=4000)
    truth = float(((1 - p.square().sum(1)) * x.square().sum(1)).mean())
    scores = _scores(FisherInformation(), model, x, labels, split=500)
    assert abs(scores["0"].value - truth) < 3 * scores["0"].standard_error
    assert scores["0"].standard_error < 0.03 * truth
    assert scores.extras["per_parameter"]["0"] == pytest.approx(scores["0"].value / 20)


def test_empirical_fisher_of_softmax_regression() -> None:
    model, x, labels, p = _softmax_regression()
    error = p - torch.nn.functional.one_hot(labels, 4)
    truth = (error.square().sum(1) * x.square().sum(1)).mean()
    scores = _scores(EmpiricalFisher(), model, x, labels)
    assert scores["0"].value == pytest.approx(float(truth), rel=1e-10)


def test_fisher_taylor_is_half_the_quadratic_form_of_the_weights() -> None:
    model, x, labels, p = _softmax_regression()
    # for z = W x the product of gradient and weights is <p - onehot, z>
    z = x @ model[0].weight.detach().T
    mean = (p * z).sum(1)
    truth = ((p * z.square()).sum(1) - mean.square()).mean() / 2
    scores = _scores(ExactFisher(), model, x, labels)
    assert scores.extras["fisher_taylor"]["0"] == pytest.approx(float(truth), rel=1e-10)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_fisher_of_a_linear_model_with_normal_noise(sigma: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).double()
    x, y = torch.randn(6000, 4, dtype=torch.float64), torch.zeros(6000, 3, dtype=torch.float64)
    scores = _scores(FisherInformation(), model, x, y, split=1000, task=Regression(sigma=sigma))
    truth = 3 * float(x.square().sum(1).mean()) / sigma**2
    assert abs(scores["0"].value - truth) < 3 * scores["0"].standard_error
    assert scores["0"].standard_error < 0.03 * truth


@pytest.mark.parametrize("method", [EmpiricalFisher, ExactFisher])
def test_batches_may_be_split_in_any_way(method: type[Method]) -> None:
    model, x, labels, _ = _softmax_regression(samples=32)
    whole, parts = (_scores(method(), model, x, labels, split)["0"] for split in (32, 8))
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-10)


def test_a_squared_batch_gradient_would_be_found_out() -> None:
    model, x, labels, _ = _softmax_regression(samples=32)

    def fake(split: int) -> float:
        found = Moments()
        for part, y in zip(x.split(split), labels.split(split), strict=True):
            loss = nn.functional.cross_entropy(model(part), y)
            (grad,) = torch.autograd.grad(loss, model.parameters())
            found.add(grad.square().sum()[None])
        return float(found.mean)

    real = _scores(EmpiricalFisher(), model, x, labels)["0"].value
    assert fake(1) == pytest.approx(real, rel=1e-10)
    assert fake(8) < 0.5 * real
    assert fake(32) < 0.5 * fake(8)


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_a_loss_times_c_gives_c_squared_times_the_trace(factor: float) -> None:
    class Scaled(Classification):
        def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
            return factor * super().loss(output, labels, batch)

    model, x, labels, _ = _softmax_regression()
    plain, scaled = (
        _scores(EmpiricalFisher(), model, x, labels, task=task)["0"].value
        for task in (Classification(), Scaled())
    )
    assert scaled == pytest.approx(factor**2 * plain, rel=1e-10)


def test_frozen_units_have_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    report = analyze(model, batches, methods=["empirical_fisher"], units=["0", "2", "4"])
    scores = report["empirical_fisher"]
    assert scores["0"].value == 0
    assert scores["2"].value > 0
    assert scores.extras["per_parameter"]["2"] == pytest.approx(scores["2"].value / 4)
    model.requires_grad_(False)
    report = analyze(model, batches, methods=["empirical_fisher"], units=["0"])
    assert "frozen" in report.reasons["empirical_fisher"]


def test_a_unit_that_does_nothing_has_none() -> None:
    class Scaled(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.layer, self.gain = nn.Linear(4, 4), gain

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gain * torch.tanh(self.layer(x))

    torch.manual_seed(0)
    model = nn.Sequential(Scaled(1.0), Scaled(0.0), Scaled(1.0), nn.Linear(4, 3))
    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    methods = ["fisher_information", "empirical_fisher", "exact_fisher"]
    report = analyze(model, batches, methods=methods, units=["0", "1", "2"])
    for method in methods:
        assert report[method]["1"].value == 0
        assert report.ranking(method)[0] == "1"


def test_empirical_fisher_vanishes_where_every_sample_fits_and_fisher_does_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).double()
    x = torch.randn(50, 4, dtype=torch.float64)
    y = model(x).detach()
    empirical, real = (
        _scores(method, model, x, y, task=Regression())["0"].value
        for method in (EmpiricalFisher(), FisherInformation())
    )
    assert empirical < 1e-20
    assert real > 1


def test_what_has_no_distribution_is_left_out_with_the_reason() -> None:
    class Distance(Task):
        name = "distance"

        def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
            return (output - labels[:, None]).abs().sum(1)

    model, x, labels, _ = _softmax_regression(samples=8)
    names = ["fisher_information", "exact_fisher", "empirical_fisher"]
    report = analyze(model, [(x, labels)], methods=names, units=["0"], task=Distance())
    assert list(report.methods) == ["empirical_fisher"]
    assert "distribution" in report.reasons["fisher_information"]
    assert "list of all answers" in report.reasons["exact_fisher"]
    numbers = torch.zeros(8, 4).double()
    report = analyze(model, [(x, numbers)], methods=names, units=["0"], task=Regression())
    assert "exact_fisher" not in report.methods


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=10)
def test_states_of_several_processes_add_up(sizes: list[int], seed: int) -> None:
    model, x, labels, _ = _softmax_regression(samples=sum(sizes))
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    whole = _scores(EmpiricalFisher(), model, x, labels)["0"]
    merged = EmpiricalFisher()
    for rows in order.split(sizes):
        part = EmpiricalFisher()
        _scores(part, model, x[rows], labels[rows])
        merged.merge(part.state())
        merged._sizes = part._sizes
    found = merged.scores()["0"]
    assert found.value == pytest.approx(whole.value, rel=1e-10)
    assert found.samples == whole.samples
    if sum(sizes) > 1:
        assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-7)


def test_sigma_must_be_positive() -> None:
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma must be a positive number"):
            Regression(sigma=sigma)


def test_regression_judges_numbers() -> None:
    task, output = Regression(sigma=2.0), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    labels = torch.tensor([[1.0, 4.0], [0.0, 0.0]])
    assert task.loss(output, labels, None).tolist() == [0.5, 0.0]
    assert task.quality(output, labels, None).tolist() == [-2.0, 0.0]
    assert task.loss(output[:, :1], labels[:, 0], None).tolist() == [0.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    drawn = task.sample(torch.zeros(20000, 1), None, generator)
    assert float(drawn.std()) == pytest.approx(2.0, rel=0.03)
    with pytest.raises(ValueError, match="labels must have the output's shape"):
        task.loss(output, labels[:, :1], None)
    with pytest.raises(TypeError, match="floating"):
        task.loss(output, labels.long(), None)
