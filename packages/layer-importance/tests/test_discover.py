import pytest
import torch
from torch import Tensor, nn

from layer_importance import discover


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Stage(nn.Module):
    def __init__(self, into: int, width: int, depth: int) -> None:
        super().__init__()
        self.shrink = nn.Linear(into, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.shrink(x))


class Numbered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = Block(), Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(x)))


class Spatial(nn.Module):
    """Takes and returns a tensor with its height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Block()

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        return self.inner(x), height, width


class Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Stacked(), Stacked()])

    def forward(self, x: Tensor) -> Tensor:
        height, width = 2, 3
        for block in self.blocks:
            x, height, width = block(x, height, width)
        return x


class Stacked(Spatial):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 8)


class Mixture(nn.Module):
    """Each expert gets the tokens that choose it."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = torch.arange(len(x)) % 4 >= number
            y[rows] += expert(x[rows])
        return y


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(4, 8), Block(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.shared(x)
        return self.head(x)


def test_a_stem_and_a_head_are_no_part_of_the_chain() -> None:
    net = nn.Sequential(nn.Linear(4, 8), *[Block() for _ in range(3)], nn.Linear(8, 2))

    found = discover(net, torch.randn(3, 4))

    assert found.names == ["1", "2", "3"]
    assert all(unit.removable for unit in found)


def test_stages_give_way_to_the_blocks_in_them_and_stay_one_tower() -> None:
    net = nn.Sequential(Stage(4, 8, 2), Stage(8, 16, 3))

    found = discover(net, torch.randn(3, 4))

    assert {chain: len(units) for chain, units in found.chains.items()} == {
        "0.blocks": 2,
        "1.blocks": 3,
    }
    assert list(found.towers) == ["blocks"]


@pytest.mark.parametrize("depths", [(2, 1), (1, 3, 1), (3, 4, 1), (1, 1, 2)])
def test_a_stage_of_one_block_has_it_where_its_siblings_have_theirs(
    depths: tuple[int, ...],
) -> None:
    net = nn.Sequential(*[Stage(4 * 2**i, 4 * 2 ** (i + 1), n) for i, n in enumerate(depths)])

    found = discover(net, torch.randn(3, 4))

    assert [len(units) for units in found.chains.values()] == list(depths)
    assert {unit.type_name for unit in found} == {"Block"}


def test_numbered_attributes_are_a_chain() -> None:
    assert discover(Numbered(), torch.randn(2, 8)).names == ["layer1", "layer2", "layer3"]


def test_blocks_that_hand_on_more_than_their_stream_can_be_removed() -> None:
    found = discover(Places(), torch.randn(2, 6, 8))

    assert found.names == ["blocks.0", "blocks.1"]
    assert all(unit.removable for unit in found)


def test_experts_beside_each_other_are_no_chain() -> None:
    net = nn.Sequential(nn.Linear(8, 8), Mixture(), nn.Linear(8, 2))

    found = discover(net, torch.randn(8, 8))

    assert all(unit.kind == "leaf" for unit in found)
    reasons = {found.refused[f"1.experts.{number}"] for number in range(3)}
    assert reasons == {"runs beside its siblings on other parts of the input"}


def test_every_call_of_a_shared_block_is_a_unit() -> None:
    found = discover(Twice(), torch.randn(2, 4))

    assert found.names == ["shared#0", "shared#1", "shared#2"]
    assert [unit.parameters for unit in found] == [280, 0, 0]


def test_a_module_that_is_added_to_its_own_input_is_a_branch() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.ModuleList([Block(), Block()])
            self.beside = nn.ModuleList([Block(), Block()])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.inside:
                x = block(x)
            for block in self.beside:
                x = block(x).mul(0.5) + x
            return x

    found = discover(Adds(), torch.randn(2, 8))

    assert [unit.removal for unit in found] == ["identity", "identity", "zero", "zero"]
    assert all(unit.removable for unit in found)


def test_a_net_without_blocks_has_its_layers_as_units() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    found = discover(net, torch.randn(2, 4))

    assert [(unit.name, unit.removable) for unit in found] == [
        ("0", False),
        ("2", True),
        ("4", False),
    ]
    assert "changes the shape" in found["0"].reason


def test_paths_come_before_everything_else() -> None:
    net = nn.Sequential(Stage(4, 8, 2), Stage(8, 8, 3))

    found = discover(net, torch.randn(3, 4), units=["1", "0.blocks.1"])

    assert found.names == ["0.blocks.1", "1"]


def test_without_an_example_nothing_is_removable_until_it_is_seen() -> None:
    net = nn.Sequential(nn.Linear(4, 8), *[Block() for _ in range(3)], nn.Linear(8, 2))

    found = discover(net, None)

    assert found.names == ["1", "2", "3"]
    assert {unit.reason for unit in found} == {"not seen running"}
    assert len(found.removable) == 0


def test_a_forward_pass_that_meta_cannot_do_leaves_the_structure() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x) if float(x.sum()) else x

    with torch.device("meta"):
        net, x = Asks(), torch.randn(2, 8)

    found = discover(net, x)

    assert found.names == ["blocks.0", "blocks.1"]
    assert all(unit.reason.startswith("not seen running: ") for unit in found)


def test_an_error_on_real_weights_is_the_callers() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        discover(nn.Sequential(Block(), Block()), torch.randn(2, 5))


@pytest.mark.parametrize("counts, chains", [({"num_layers": 2}, 1), ({"depths": [2, 2]}, 2)])
def test_a_count_in_the_configuration_decides_between_stages_and_blocks(
    counts: dict[str, object], chains: int
) -> None:
    net = nn.Sequential(Stage(4, 8, 2), Stage(8, 8, 2))
    net.config = counts  # type: ignore[assignment]
    if counts == {"num_layers": 2}:  # blocks fit too: the classes that must not be split decide
        net._no_split_modules = ["Stage"]  # type: ignore[assignment]

    assert len(discover(net, torch.randn(3, 4)).chains) == chains


def test_classes_that_must_not_be_split_are_blocks() -> None:
    net = nn.Sequential(Stage(4, 8, 3), Stage(8, 8, 3))
    net._no_split_modules = ["Stage"]  # type: ignore[assignment]

    assert discover(net, torch.randn(3, 4)).names == ["0", "1"]
