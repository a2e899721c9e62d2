import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthGraph, GrowthRefusedError, Morpher
from neuro_morph._edit_split import SplitSteepest
from neuro_morph._splitting import splitting_of

NETS: dict[str, Any] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
        (4,),
    ),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.BatchNorm2d(3),
            nn.Sigmoid(),
            nn.Conv2d(3, 2, 2, bias=False),
            nn.Flatten(),
        ),
        (2, 5, 5),
    ),
}


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def case(name: str) -> tuple[nn.Module, GrowthGraph, list[Any]]:
    torch.manual_seed(0)
    make, shape = NETS[name]
    model = make().double().eval()
    x = torch.randn(20, *shape, dtype=torch.float64)
    y = torch.randn_like(model(x)).detach()
    graph = GrowthGraph.capture(model, x, capture="dispatch")
    return model, graph, [(x[:7], y[:7]), (x[7:], y[7:])]


def whole(batches: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_matrix_is_the_curvature_of_two_halves_that_step_apart(name: str) -> None:
    model, graph, batches = case(name)
    found = splitting_of(model, graph["0"], batches, loss_fn)
    batch = whole(batches)
    weights, bias = model[0].weight.detach(), model[0].bias.detach()
    for unit in range(3):

        def halves(step: Tensor, unit: int = unit) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            outs = []
            for sign in (1.0, -1.0):
                w = weights.clone()
                b = bias.clone()
                w[unit] = w[unit] + sign * step[:-1].reshape(w[unit].shape)
                b[unit] = b[unit] + sign * step[-1]
                held = {"weight": w, "bias": b}
                z = torch.func.functional_call(model[0], held, (batch[0],))
                outs.append(model[1:-1](z) if name == "linear" else model[1:3](z))
            mean = (outs[0] + outs[1]) / 2
            last = model[-1](mean) if name == "linear" else model[3:](mean)
            return total + (last - batch[1]).square().mean()

        zero = torch.zeros(weights[0].numel() + 1, dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(halves, zero)
        torch.testing.assert_close(found.matrices[unit], hessian)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", sorted(NETS))
def test_the_loss_falls_by_what_the_eigenvalue_says(name: str, signed: bool) -> None:
    model, graph, batches = case(name)
    found = splitting_of(model, graph["0"], batches, loss_fn)
    gains = found.gains(signed=signed)
    unit = int(gains.argmax())
    batch, epsilon = whole(batches), 1e-2
    before = float(loss_fn(model, batch).detach())
    step = epsilon * float(model[0].weight[unit].detach().norm())
    morpher = Morpher(model, example_inputs=batch[0], capture="dispatch", tolerance=1.0)
    edit = SplitSteepest("0", 1, found, epsilon=epsilon, signed=signed)
    morpher.apply(edit)
    assert len(model[0].weight) == 4
    fall = before - float(loss_fn(model, batch).detach())
    assert fall == pytest.approx(float(gains[unit]) * step**2, rel=0.05)


def test_a_larger_change_than_allowed_is_undone_and_reasons_are_named() -> None:
    model, graph, batches = case("linear")
    found = splitting_of(model, graph["0"], batches, loss_fn)
    x = whole(batches)[0]
    before = copy.deepcopy(model.state_dict())
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    with pytest.raises(GrowthRefusedError, match="the output changes"):
        morpher.apply(SplitSteepest("0", 1, found, epsilon=0.1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(GrowthRefusedError, match="units of '0' gain by being split"):
        morpher.apply(SplitSteepest("0", 4, found))
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        SplitSteepest("0", 1, found, epsilon=0.0)
    with pytest.raises(ValueError, match="by must be an integer"):
        SplitSteepest("0", 0, found)


def test_units_behind_a_relu_have_no_curvature_to_gain_from() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    batch = torch.randn(9, 3).double(), torch.randn(9, 2).double()
    graph = GrowthGraph.capture(model, batch[0], capture="dispatch")
    found = splitting_of(model, graph["0"], [batch], loss_fn)
    assert not found.matrices.any()
    assert not found.gains(signed=True).any()
    with pytest.raises(ValueError, match="at least one batch"):
        splitting_of(model, graph["0"], [], loss_fn)
