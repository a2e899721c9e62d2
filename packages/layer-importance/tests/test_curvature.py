"""Hessian trace, GraSP and SynFlow against closed forms."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from layer_importance import Task, analyze
from layer_importance._methods.grasp import Grasp
from layer_importance._methods.hessian_trace import HessianTrace
from layer_importance._methods.synflow import SynFlow


class Weights(nn.Module):
    """Numbers that answer every input alike."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w


class Bowl(Task):
    """``(w - c)^T A (w - c) / 2`` for each sample's own ``A`` and ``c``."""

    name = "bowl"

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        matrices, centres = labels[..., :-1], labels[..., -1]
        step = output - centres
        return (step[:, None] @ matrices @ step[..., None]).flatten() / 2


def _bowl(width: int = 6, samples: int = 10) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    half = torch.randn(samples, width, width, dtype=torch.float64)
    matrices, centres = half @ half.mT, torch.randn(samples, width, dtype=torch.float64)
    model = nn.Sequential(Weights(torch.randn(width, dtype=torch.float64)))
    labels = torch.cat([matrices, centres[..., None]], 2)
    return model, torch.zeros(samples, width, dtype=torch.float64), labels, matrices


def _batches(x: Tensor, y: Tensor, split: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(split), y.split(split), strict=True))


def _score(method: Any, model: nn.Module, x: Tensor, y: Tensor, split: int = 4, **more: Any) -> Any:
    options = {"units": ["0"], **more}
    return analyze(model, _batches(x, y, split), methods=[method], **options)[method.name]


def test_hessian_trace_of_a_bowl() -> None:
    model, x, labels, matrices = _bowl()
    truth = float(matrices.mean(0).trace())
    found = _score(HessianTrace(probes=150), model, x, labels, task=Bowl())
    assert abs(found["0"].value - truth) < 3 * found["0"].standard_error
    assert found["0"].standard_error < 0.1 * truth
    assert found.extras["per_parameter"]["0"] == pytest.approx(found["0"].value / 6)


def test_hessian_trace_of_a_round_bowl_is_exact() -> None:
    model, x, labels, _ = _bowl()
    labels[..., :-1] = 3 * torch.eye(6)
    found = _score(HessianTrace(probes=2), model, x, labels, task=Bowl())["0"]
    assert found.value == pytest.approx(18, rel=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-10)


def test_hessian_trace_of_softmax_regression() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False)).double()
    x, y = torch.randn(50, 5).double(), torch.randint(0, 4, (50,))
    p = model(x).softmax(1).detach()
    truth = float(((1 - p.square().sum(1)) * x.square().sum(1)).mean())
    found = _score(HessianTrace(probes=150), model, x, y, split=20)["0"]
    assert abs(found.value - truth) < 3 * found.standard_error
    assert found.standard_error < 0.15 * truth


@pytest.mark.parametrize("method", [HessianTrace, Grasp])
def test_batches_may_be_split_in_any_way(method: Any) -> None:
    model, x, labels, _ = _bowl()
    whole = _score(method(), model, x, labels, 10, task=Bowl())["0"].value
    assert _score(method(), model, x, labels, 3, task=Bowl())["0"].value == pytest.approx(whole)


def test_grasp_of_a_bowl() -> None:
    model, x, labels, matrices = _bowl()
    w = model[0].w.detach()
    steps = w - labels[..., -1]
    gradient = (matrices @ steps[..., None]).mean(0).flatten()
    truth = -float(w @ matrices.mean(0) @ gradient)
    found = _score(Grasp(), model, x, labels, task=Bowl())
    assert found["0"].value == pytest.approx(truth, rel=1e-10)
    assert found.direction == "diagnostic"


class Mixed(nn.Module):
    """Attention, a smooth branch, and one that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.TransformerEncoderLayer(4, 2, 4, 0.0, "gelu", batch_first=True)
        self.b = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
        self.idle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head((x + self.b(x) + 0 * self.idle(x)).mean(1))


def test_blocks_of_a_net_have_the_traces_that_its_whole_hessian_has() -> None:
    torch.manual_seed(0)
    model = Mixed().double()
    x, y = torch.randn(4, 3, 4).double(), torch.tensor([0, 1, 2, 0])
    method = HessianTrace(probes=150)
    report = analyze(model, [(x, y)], methods=[method, Grasp()], units=["a", "b", "idle"])
    model.eval().requires_grad_(False)
    for name in ("b", "idle"):
        own = {f"{name}.{n}": p.detach() for n, p in model.get_submodule(name).named_parameters()}

        def loss(p: dict[str, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, p, (x,)), y)

        found = jacrev(jacrev(loss))(own)
        truth = sum(float(found[n][n].reshape(p.numel(), -1).trace()) for n, p in own.items())
        score = report["hessian_trace"][name]
        assert abs(score.value - truth) <= 3 * score.standard_error + 1e-12
    assert report["hessian_trace"]["idle"].value == 0
    assert report["grasp"]["idle"].value == 0
    assert report["hessian_trace"]["a"].value != 0


def test_synaptic_flow_is_the_same_for_every_layer_of_a_homogeneous_chain() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for wide, high in ((5, 9), (9, 7), (7, 4)):
        layers += [nn.Linear(wide, high, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers)
    before = copy.deepcopy(model.state_dict())
    names = ["0", "2", "4"]
    report = analyze(
        model, [(torch.randn(3, 5), torch.arange(3))], methods=[SynFlow()], units=names
    )
    sizes = [model[int(name)].weight.detach().double().abs() for name in names]
    flow = float((sizes[2] @ sizes[1] @ sizes[0]).sum())
    values = [report["synflow"][name].value for name in names]
    assert values == pytest.approx([flow] * 3, rel=1e-12)
    assert report["synflow"]["0"].standard_error == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_flows_through_a_branch_of_zeros() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(x)))

    torch.manual_seed(0)
    model = nn.Sequential(Branch(), Branch(), Branch(), nn.Linear(4, 3))
    nn.init.zeros_(model[1].down.weight)
    batch = (torch.randn(5, 4), torch.arange(5) % 3)
    report = analyze(model, [batch], methods=["synflow", "snip"], units=["0", "1", "2"])
    assert report["synflow"]["1"].value == 0
    assert report.ranking("synflow")[0] == "1"
    assert report["snip"]["1"].value == 0


def test_what_a_method_cannot_run_on_it_says() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    batch = (torch.randint(0, 5, (4, 3)), torch.arange(4) % 3)
    report = analyze(model, [batch], methods=["synflow"], units=["2"])
    assert "reads ids" in report.reasons["synflow"]
    with pytest.raises(ValueError, match="probes must be at least 2, got 1"):
        HessianTrace(probes=1)
