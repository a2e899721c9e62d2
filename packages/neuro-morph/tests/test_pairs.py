from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import AntisymmetricPair, GrowthGraph, GrowthRefusedError, Morpher, Widen
from neuro_morph._initial_pairs import _check


def takes_pairs(graph: GrowthGraph, group: Any) -> bool:
    if not group.growable or "free" not in graph.ways(group):
        return False
    try:
        _check(group, graph.needs(group, "free"))
    except GrowthRefusedError:
        return False
    return True


def mlp() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.randn(7, 5, dtype=torch.float64)


@pytest.mark.parametrize("by", [1, 2, 5])
def test_every_group_that_takes_pairs_grows_by_them_and_the_output_stays(
    net: tuple[nn.Module, Any], by: int
) -> None:
    model, inputs = net
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    for name in [g.id for g in morpher.graph if takes_pairs(morpher.graph, g)]:
        event = morpher.apply(Widen(name, by=by, init=AntisymmetricPair()))
        assert event.relative_change is not None
        assert event.relative_change <= 1e-12


def test_twins_have_the_same_rows_and_opposite_columns() -> None:
    model, x = mlp()
    Morpher(model, example_inputs=x).apply(Widen("0", by=4, init=AntisymmetricPair()))
    rows, columns = model[0].weight.detach()[6:], model[2].weight.detach()[:, 6:]
    assert torch.equal(rows[0::2], rows[1::2])
    assert torch.equal(columns[:, 0::2], -columns[:, 1::2])
    assert float(columns.abs().min()) > 0
    assert not torch.equal(rows[0], rows[2])


def test_the_last_of_an_odd_number_is_read_by_nothing() -> None:
    model, x = mlp()
    Morpher(model, example_inputs=x).apply(Widen("0", by=3, init=AntisymmetricPair()))
    assert float(model[2].weight.detach()[:, 8].abs().max()) == 0
    assert float(model[0].weight.detach()[8].abs().max()) > 0


def test_columns_are_as_large_as_the_old_ones_times_the_scale() -> None:
    model, x = mlp()
    before = model[2].weight.detach().square().mean().sqrt()
    Morpher(model, example_inputs=x).apply(Widen("0", by=4000, init=AntisymmetricPair(0.5)))
    after = model[2].weight.detach()[:, 6:].square().mean().sqrt()
    torch.testing.assert_close(after, 0.5 * before, rtol=0.05, atol=0.0)


def test_twins_have_opposite_row_gradients_from_the_first_step_and_part() -> None:
    model, x = mlp()
    Morpher(model, example_inputs=x).apply(Widen("0", by=2, init=AntisymmetricPair()))
    model(x).square().sum().backward()
    gradient = model[0].weight.grad[6:]
    torch.testing.assert_close(gradient[0], -gradient[1])
    assert float(gradient.abs().max()) > 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
    assert not torch.allclose(model[0].weight[6], model[0].weight[7])


def test_a_flattened_map_gives_every_place_of_twins_opposite_columns() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)]
    model, x = nn.Sequential(*layers).double(), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    Morpher(model, example_inputs=x).apply(Widen("0", by=2, init=AntisymmetricPair()))
    columns = model[4].weight.detach().reshape(4, 5, 4)
    assert torch.equal(columns[:, 3], -columns[:, 4])
    model.train()
    wide, narrow = model(x), nn.functional.relu(model[1](model[0](x)))[:, :3].flatten(1)
    kept = nn.functional.linear(narrow, columns[:, :3].reshape(4, -1), model[4].bias)
    torch.testing.assert_close(wide, kept, rtol=0.0, atol=1e-12)


def test_units_that_are_normalised_together_are_refused_by_name() -> None:
    layers = [nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)]
    model, x = nn.Sequential(*layers).double(), torch.randn(5, 4, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(GrowthRefusedError, match="'0' cannot grow by antisymmetric pairs"):
        Morpher(model, example_inputs=x).apply(Widen("0", by=2, init=AntisymmetricPair()))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_finite_number_above_zero_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a finite number above 0"):
        AntisymmetricPair(scale)
