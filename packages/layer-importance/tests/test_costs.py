import copy
import itertools
import json
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layer_importance import CompressionPlan, discover, plan
from layer_importance._costs import Costs, measure_costs


class Block(nn.Module):
    def __init__(self, width: int = 8, inner: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self, *inner: int) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Block(8, n) for n in inner)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.layers, *self.layers):
            x = layer(x)
        return x


def test_the_arithmetic_of_a_unit_is_two_operations_per_weight_and_token() -> None:
    net, x = Net(16, 32), torch.randn(5, 8)
    costs = measure_costs(net, discover(net, x), x)
    assert costs.units["flops"] == {"blocks.0": 2 * 5 * 256, "blocks.1": 2 * 5 * 512}
    assert costs.totals["flops"] == 2 * 5 * (64 + 256 + 512)


@pytest.mark.parametrize("way", ["MATH", "FLASH_ATTENTION"])
def test_attention_costs_two_products_of_tokens_with_tokens(way: str) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.o = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.q(x).chunk(3, -1)
            )
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.o(y.transpose(1, 2).flatten(2))

    net, x = nn.Sequential(Attention(), Attention()), torch.randn(3, 20, 8)
    with sdpa_kernel(getattr(SDPBackend, way)):
        costs = measure_costs(net, discover(net, x), x, kinds=["flops"])
    assert costs.units["flops"]["0"] == 2 * 3 * 20 * 8 * 32 + 4 * 3 * 20 * 20 * 8


@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3)])
def test_a_recurrent_layer_costs_its_matrices_at_every_step(
    kind: type[nn.RNNBase], gates: int
) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x)[0]

    net, x = nn.Sequential(Recurrent(), Recurrent()), torch.randn(3, 5, 6)
    costs = measure_costs(net, discover(net, x, units=["0", "1"]), x, kinds=["flops"])
    assert costs.units["flops"]["1"] == 2 * 3 * 5 * gates * 2 * 36


def test_parameters_of_a_model_without_units_are_those_of_the_model_built_without_them() -> None:
    net, x = Net(16, 32, 16), torch.randn(5, 8)
    costs = measure_costs(net, discover(net, x), x)
    smaller = Net(16, 16)
    assert costs.without(["blocks.1"])["parameters"] == sum(p.numel() for p in smaller.parameters())


def test_a_module_that_runs_twice_is_freed_only_with_both_of_its_calls() -> None:
    net, x = Repeated(), torch.randn(5, 8)
    units = discover(net, x)
    costs = measure_costs(net, units, x)
    one = sum(p.numel() for p in net.layers[0].parameters())
    calls = [u.name for u in units if u.path == "layers.0"]
    assert len(calls) == 2
    assert costs.freed("parameters", calls[:1]) == 0
    assert costs.freed("parameters", calls) == one
    assert costs.freed("flops", calls[:1]) == costs.totals["flops"] / 4


def test_parameters_that_something_else_has_too_are_never_freed() -> None:
    net, x = Net(8, 8), torch.randn(5, 8)
    net.blocks[0].up.weight = net.stem.weight
    costs = measure_costs(net, discover(net, x), x)
    whole = sum(p.numel() for p in net.blocks[0].parameters())
    assert costs.freed("parameters", ["blocks.0"]) == whole - 64
    assert costs.totals["parameters"] == sum(p.numel() for p in net.parameters())


def test_seconds_are_medians_of_what_the_clock_says() -> None:
    ticks = itertools.count()
    net, x = Net(16, 16), torch.randn(5, 8)
    costs = measure_costs(net, discover(net, x), x, repeats=3, clock=lambda: float(next(ticks)))
    assert costs.units["seconds"] == {"blocks.0": 1.0, "blocks.1": 1.0}
    assert costs.totals["seconds"] == 5.0


def test_what_training_keeps_is_counted_once_a_storage() -> None:
    net, x = Net(16, 16), torch.randn(5, 8)
    costs = measure_costs(net, discover(net, x), x)
    # the rectified middle is kept by ReLU and by the layer behind it; the input of the block is
    # the output of the stem
    assert costs.units["activations"]["blocks.0"] == 4 * 5 * (8 + 16)


def test_measuring_leaves_the_model_as_it_was() -> None:
    net, x = Net(16, 16).train(), torch.randn(5, 8)
    net.stem.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    measure_costs(net, discover(net, x), x)
    assert net.training
    assert not net.stem.weight.requires_grad
    assert net.stem.weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all("forward" not in module.__dict__ for module in net.modules())


def test_costs_come_back_from_plain_data() -> None:
    net, x = Repeated(), torch.randn(5, 8)
    costs = measure_costs(net, discover(net, x), x)
    assert Costs.from_dict(costs.to_dict()) == costs


@pytest.mark.parametrize("wrong", [{"kinds": ["energy"]}, {"repeats": 0}])
def test_what_cannot_be_measured_is_refused(wrong: dict[str, object]) -> None:
    net, x = Net(16, 16), torch.randn(5, 8)
    with pytest.raises(ValueError, match="must be"):
        measure_costs(net, discover(net, x), x, **wrong)  # type: ignore[arg-type]


@torch.library.custom_op("layer_importance_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


class Unusual(nn.Module):
    """A square block whose input goes through an operation."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.linear, self.operation = nn.Linear(4, 4, bias=False), operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(self.operation(x))
        return out


@pytest.mark.parametrize(
    "operation, name",
    [
        (twice, "layer_importance_tests.twice"),
        (lambda x: torch.fft.fft(x).real, "aten._fft_r2c"),
        (torch.linalg.matrix_exp, "aten.linalg_matrix_exp"),
        (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
    ],
)
def test_what_cannot_be_counted_is_named_and_not_taken_for_free(operation: Any, name: str) -> None:
    x = torch.randn(4, 4)
    net = nn.Sequential(Unusual(torch.tanh), Unusual(operation), Unusual(torch.relu))
    costs = measure_costs(net, discover(net, x, units=["0", "1", "2"]), x, kinds=["flops"])
    assert math.isnan(costs.totals["flops"])
    assert math.isnan(costs.units["flops"]["1"])
    assert costs.units["flops"]["0"] == costs.units["flops"]["2"] == 2 * 4 * 16
    assert costs.notes == (f"flops are not known: there is no formula for {name}",)
    again = Costs.from_dict(json.loads(json.dumps(costs.to_dict(), allow_nan=False)))
    assert again.to_dict() == costs.to_dict()


@pytest.mark.parametrize(
    "operation, more",
    [
        (lambda x: x * torch.mv(x, x[0])[:, None], 2 * 16),
        (lambda x: x * torch.dot(x[0], x[1]), 2 * 4),
        (lambda x: x * torch.addmv(x[0], x, x[1])[:, None], 2 * 16),
        (lambda x: torch.einsum("ij,kj->ik", x, x), 2 * 64),
        (lambda x: x.softmax(1).cumsum(1).sort(1).values + x.norm(dim=1, keepdim=True), 0),
    ],
)
def test_products_with_vectors_count_and_moves_of_data_are_free(operation: Any, more: int) -> None:
    x, net = torch.randn(4, 4), nn.Sequential(Unusual(operation))
    costs = measure_costs(net, discover(net, x, units=["0"]), x, kinds=["flops"])
    assert costs.totals["flops"] == 2 * 4 * 16 + more
    assert costs.notes == ()


def test_no_plan_is_made_for_flops_that_nobody_can_count() -> None:
    net = nn.Sequential(*(Unusual(twice) for _ in range(3)))
    data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 3])) for _ in range(2)]
    with pytest.raises(ValueError, match=r"flops cannot be planned for: .* no formula for layer_"):
        plan(net, data, flops=10.0)


def test_a_plan_for_seconds_does_without_them_and_says_so() -> None:
    def slow(x: Tensor) -> Tensor:
        time.sleep(0.005)
        out: Tensor = twice(x)
        return out

    net = nn.Sequential(*(Unusual(slow) for _ in range(3)))
    data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 3])) for _ in range(2)]
    units = discover(net, data[0], units=["0", "1", "2"])
    found = plan(net, data, latency_s=0.012, keep_types=False, among=units)
    assert "flops" not in found.before
    assert any("there is no formula for layer_importance_tests.twice" in n for n in found.notes)
    assert CompressionPlan.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
