"""What methods of one sweep share changes none of their values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import Method, Report, analyze
from layer_importance._methods import BUILT_IN
from layer_importance._methods.fisher_information import EmpiricalFisher, FisherInformation
from layer_importance._methods.snip import Snip

N = 41


class Transformer(nn.Module):
    """A block of every kind of product: wide and narrow layers, norms, an embedding."""

    def __init__(self, width: int = 6, wide: int = 24) -> None:
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, wide, batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm, self.again = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.again(F.relu(self.norm(self.conv(x))))


class Images(nn.Module):
    """`between` changes the stream on its way from one unit to the next."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.head, self.between = nn.Linear(4, 4), between

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.between(block(x))
        return self.head(x.mean((2, 3)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.layer(x).tanh())


class Shared(nn.Module):
    """Layers that are called twice, one of whose weights somebody outside uses, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 4)
        self.blocks = nn.ModuleList(Twice() for _ in range(2))
        self.behind = nn.Linear(6, 6)
        self.behind.weight = self.blocks[1].layer.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.behind(x.mean(1)))


def _tokens() -> Tensor:
    return torch.randn(N, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _maps() -> Tensor:
    return torch.randn(N, 3, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "a transformer": (Transformer, _tokens),
    "one that is wide": (lambda: Transformer(12, 96), _tokens),
    "a convolutional net": (Images, _maps),
    "shared weights": (Shared, _tokens),
}


def _analysis(
    name: str, methods: list[Method], dtype: torch.dtype = torch.float64, batches: int = 1
) -> Report:
    make, data = NETS[name]
    torch.manual_seed(0)
    model = make().to(dtype).eval()
    parts = data().to(dtype).chunk(batches), (torch.arange(N) % 4).chunk(batches)
    paths = [path for path, _ in model.named_modules() if path.rpartition(".")[0] == "blocks"]
    return analyze(model, list(zip(*parts, strict=True)), methods=methods, units=paths)


def _assert_same(a: Report, b: Report, method: str, tolerance: float = 1e-9) -> None:
    assert list(a[method])
    for unit, score in a[method].items():
        assert score.value == pytest.approx(b[method][unit].value, rel=tolerance, abs=1e-12)
    for column, values in a[method].extras.items():
        right: Any = b[method].extras[column]
        assert values == pytest.approx(right, rel=tolerance, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", NETS)
def test_summed_gradients_from_single_samples_are_those_of_the_backward_pass(name: str) -> None:
    _assert_same(
        _analysis(name, [Snip(), EmpiricalFisher()]), _analysis(name, [Snip()]), "snip", 1e-10
    )


def test_they_are_so_in_parts_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = _analysis("a transformer", [Snip()])
    monkeypatch.setattr("layer_importance._per_sample.evaluate.LIMIT", 300)
    both = _analysis("a transformer", [Snip(), EmpiricalFisher(), FisherInformation()])
    _assert_same(both, alone, "snip", 1e-10)


def test_no_gradient_of_a_parameter_is_computed_twice() -> None:
    model, (x, labels) = Transformer().double(), (_tokens(), torch.arange(N) % 4)
    required: list[bool] = []

    class Looks(Snip):
        def batch(self, event: Any) -> None:
            layer = model.blocks[0].linear1
            required.append(layer.weight.requires_grad)
            assert layer.weight.grad is not None
            super().batch(event)

    paths = ["blocks.0", "blocks.1"]
    analyze(model, [(x, labels)], methods=[Looks(), EmpiricalFisher()], units=paths)
    analyze(model, [(x, labels)], methods=[Looks()], units=paths)
    assert required == [False, True]


@pytest.mark.parametrize("name", NETS)
def test_what_one_pass_keeps_for_the_next_changes_nothing(name: str) -> None:
    both = _analysis(name, [EmpiricalFisher(), FisherInformation()])
    for method in (EmpiricalFisher, FisherInformation):
        _assert_same(both, _analysis(name, [method()]), method.name, 1e-12)


FORWARD = [m for m in BUILT_IN if m.needs <= {"data", "labels"} and hasattr(m, "state")]


@pytest.mark.parametrize("name", ["a transformer", "a convolutional net"])
def test_every_method_says_with_others_what_it_says_alone(name: str) -> None:
    together = _analysis(name, [method() for method in FORWARD], batches=2)
    assert len(together.methods) > 6
    for method in FORWARD:
        if method.name in together.methods:
            alone = _analysis(name, [method()], batches=2)
            _assert_same(together, alone, method.name)


def test_a_stream_that_is_written_into_between_units_is_looked_at_again() -> None:
    def sometimes(x: Tensor) -> Tensor:
        return x.mul_(-2).add_(0.3) if len(x) > 5 else x * -2 + 0.3

    found = []
    for change in (sometimes, lambda x: x * -2 + 0.3):
        torch.manual_seed(0)
        model = Images(change).double().eval()
        paths = [f"blocks.{i}" for i in range(3)]
        methods = ["block_influence", "layer_correlation", "neuron_activation"]
        batch = _maps(), torch.arange(N) % 4
        found.append(analyze(model, [batch], methods=methods, units=paths))
    for name in found[0].methods:
        _assert_same(found[0], found[1], name, 1e-12)
