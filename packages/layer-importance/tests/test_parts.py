from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import Classification, Subject, discover
from layer_importance._edits import removal
from layer_importance._execute.carry_out import carry_out
from layer_importance._parts import discover_parts
from layer_importance._preserve import preserved
from layer_importance._replay import Replay


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v)), None


class Before(nn.Module):
    """Norms before its branches."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.look, self.drop = Attention(), nn.Dropout(0.3)
        self.think = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.look(self.norms[0](x))[0])
        return x + 0.5 * self.think(self.norms[1](x))


class After(Before):
    """Norms after the sum."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x + self.look(x)[0])
        return self.norms[1](self.think(x).mul(0.5).add(x))


class Beside(Before):
    """Both branches read the same stream."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](x)
        return x + self.look(h)[0] + self.think(h)


class Head(nn.Module):
    def __init__(self, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(5, 8))
        self.blocks, self.head = nn.ModuleList([block() for _ in range(2)]), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("block", [Before, After, Beside])
def test_branches_are_found_by_what_is_added_to_the_stream(block: type[nn.Module]) -> None:
    found = discover_parts(Head(block), torch.randn(2, 5, 8))

    assert [(unit.name, unit.kind) for unit in found] == [
        ("blocks.0.look", "attention"),
        ("blocks.0.think", "mlp"),
        ("blocks.1.look", "attention"),
        ("blocks.1.think", "mlp"),
    ]
    assert {unit.removal for unit in found} == {"zero"}
    assert list(found.chains) == ["blocks.0", "blocks.1"]
    assert all(unit.removable for unit in found)


@pytest.mark.parametrize("block", [Before, After, Beside])
def test_a_branch_removed_while_running_is_the_block_without_it(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x, labels = Head(block).double(), torch.randn(4, 5, 8).double(), torch.arange(4) % 3
    found = discover_parts(model, x)
    subject = Subject(model, found, Classification(), [(x, labels)])

    with preserved(model, gradients=False), Replay(subject, (x, labels)) as replay:
        got = replay.run({"blocks.0.think": removal(found["blocks.0.think"])})

    with torch.no_grad():
        for parameter in model.blocks[0].think.parameters():  # type: ignore[union-attr]
            parameter.zero_()
        expected = model.eval()(x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [Before, After, Beside])
def test_branches_are_carried_out_without_their_weights(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = Head(block), torch.randn(4, 5, 8)
    found = discover_parts(model, x)
    gone = found["blocks.1.look"]

    done = carry_out(model, [gone], example=x, units=found)

    assert done.executor == "bypass"
    assert done.parameters == done.parameters_before - gone.parameters
    assert not any("1.look" in name for name in done.model.state_dict())


def test_a_branch_that_changes_the_width_is_zeros_of_its_own_width() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(x)))

    model, x = nn.Sequential(Narrow(), Narrow()), torch.randn(3, 8)
    found = discover_parts(model, x)

    done = carry_out(model, ["0.down"], example=x, units=found)

    assert found.names == ["0.down", "1.down"]
    with torch.no_grad():
        torch.testing.assert_close(done.model(x), model[1](x), rtol=0, atol=0)


def test_what_is_added_outside_of_blocks_or_to_something_else_is_no_branch() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(x))

    model, x = nn.Sequential(Gated(), Gated()), torch.randn(3, 8)
    assert len(discover(model, x)) == 2

    with pytest.raises(ValueError, match="model must have blocks that add to their stream"):
        discover_parts(model, x)
