"""Buffers that the example inputs do not reach: what may be as long as a layer is wide."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthGraph, GrowthRefusedError, Morpher, Widen

X = torch.randn(5, 4)


class Branching(nn.Module):
    """Two layers with a table between them that only large batches meet."""

    def __init__(self, table: Tensor, again: bool = False) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("table", table)
        self.register_buffer("first", table.clone() if again else None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        if self.first is not None:
            h = h + self.first.sum()
        return self.c(h * self.table if len(x) > 40 else h)


class Beside(Branching):
    """The same with a norm that only training meets."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__(torch.ones(1))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        return self.c(self.norm(h) if self.training else h)


@pytest.mark.parametrize("capture", ["dispatch", "export"])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (8, 3)])
def test_a_buffer_that_was_not_used_keeps_what_it_may_belong_to_from_growing(
    shape: tuple[int, ...], capture: str
) -> None:
    morpher = Morpher(Branching(torch.ones(shape)), example_inputs=X, capture=capture)
    assert "'table' was not used" in str(morpher.graph["a"].reason)
    with pytest.raises(GrowthRefusedError, match="was not used"):
        morpher.apply(Widen("a", by=2))
    graph = GrowthGraph.capture(morpher.model, X, capture=capture, unused=["table"])
    assert graph["a"].growable


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "of another size": lambda: Branching(torch.ones(5)),
    "of indices": lambda: Branching(torch.arange(8)),
    "a mask": lambda: Branching(torch.ones(8, dtype=torch.bool)),
    "a table that is there twice": lambda: Branching(torch.arange(8.0), again=True),
    "what a norm keeps": lambda: Beside(nn.BatchNorm1d(8, affine=False)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_buffers_that_were_not_used_do_not(name: str) -> None:
    assert GrowthGraph.capture(OTHERS[name](), X, capture="dispatch")["a"].growable
