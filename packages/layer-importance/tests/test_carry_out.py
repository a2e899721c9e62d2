import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import ElasticDepth, Units, discover, plan
from layer_importance._bridge import Bridge
from layer_importance._execute.carry_out import carry_out
from layer_importance._execute.configure import reconfigure
from layer_importance._execute.files import RECORD, WEIGHTS, load
from layer_importance._execute.renumber import renumber
from layer_importance._execute.stand_in import Refused, StandIn, learn, makes_more


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Numbered(nn.Module):
    """Reads its blocks from attributes: nothing can be deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = Block(), Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(x)))


class Spatial(Block):
    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:  # type: ignore[override]
        return super().forward(x), height, width


class Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({"a": Spatial(), "b": Spatial(), "c": Spatial()})

    def forward(self, x: Tensor) -> Tensor:
        height, width = 3, 3
        for block in self.blocks.values():
            x, height, width = block(x, height, width)
        return x.unflatten(1, (height, width))


class Hands(Block):
    """The first makes what the others read, as a shared position bias is."""

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        bias = self.up.bias[:8] if bias is None else bias
        return super().forward(x) + bias, bias


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Hands() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        bias = None
        for block in self.blocks:
            x, bias = block(x, bias)
        return x


class Looped(nn.Module):
    def __init__(self, config: dict[str, int] | None) -> None:
        super().__init__()
        if config is not None:
            self.config = config
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.config["num_layers"] if hasattr(self, "config") else 3):
            x = self.block(x)
        return x


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), *[Block() for _ in range(4)], nn.Linear(8, 2))


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "sequential": (plain, (3, 4), "2", "compact"),
    "numbered attributes": (Numbered, (3, 8), "layer2", "bypass"),
    "a block with height and width": (Places, (2, 9, 8), "blocks.b", "bypass"),
    "a block that makes what others read": (Biased, (3, 8), "blocks.0", "mask"),
    "repetitions that a configuration counts": (
        lambda: Looped({"num_layers": 3}),
        (3, 8),
        "block#1",
        "compact",
    ),
    "repetitions that nothing counts": (lambda: Looped(None), (3, 8), "block#1", "mask"),
}


@pytest.mark.parametrize("name", NETS)
def test_the_most_thorough_way_that_holds_is_taken(name: str) -> None:
    make, shape, unit, way = NETS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(*shape)

    done = carry_out(model, [unit], example=x)

    assert done.executor == way
    assert done.checks["forward"] == done.checks["reload"] == "passed"
    assert done.checks["cache"].startswith("not applicable")
    assert list(done.attempts) == ["compact", "bypass", "mask"][: len(done.attempts)]
    assert done.removed == (unit,)
    assert unit not in done.kept


def test_compact_is_the_chain_without_its_blocks() -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(3, 4)
    parts = list(model)

    done = carry_out(model, ["1", "3"], example=x)

    expected = answer(nn.Sequential(parts[0], parts[2], parts[4], parts[5]), x)
    torch.testing.assert_close(answer(done.model, x), expected, rtol=0, atol=0)
    assert done.parameters_before - done.parameters == 2 * 280
    assert not any(key.startswith("5.") for key in done.model.state_dict())


def test_a_bypassed_unit_has_no_weights_left() -> None:
    model = Numbered()

    done = carry_out(model, ["layer2"], example=torch.randn(3, 8), executor="bypass")

    assert not any(key.startswith("layer2") for key in done.model.state_dict())
    assert done.parameters == done.parameters_before - 280


def test_a_mask_keeps_every_weight() -> None:
    done = carry_out(plain(), ["1"], example=torch.randn(3, 4), executor="mask")

    assert done.parameters == done.parameters_before


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
def test_all_ways_agree_and_the_model_handed_in_stays(way: str) -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(3, 4)
    before, first = copy.deepcopy(model.state_dict()), answer(model, x)
    expected = answer(carry_out(model, ["1", "4"], example=x).model, x)

    done = carry_out(model, ["1", "4"], example=x, executor=way)

    assert torch.equal(answer(done.model, x), expected)
    assert torch.equal(answer(model, x), first)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert done.model.training


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
def test_a_bridge_stands_in_the_units_place(way: str) -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(3, 4)
    bridge = Bridge(torch.randn(8, 8), torch.randn(8), torch.randn(8))
    parts = list(model)

    done = carry_out(model, ["2", "3"], example=x, bridges={"2": bridge}, executor=way)

    expected = answer(nn.Sequential(*parts[:2], bridge, *parts[4:]), x)
    torch.testing.assert_close(answer(done.model, x), expected)


class Branchy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


def test_a_branch_is_replaced_by_zeros() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Branchy(), Branchy()), torch.randn(3, 8)
    found = discover(model, x, units=["0.branch"])
    from dataclasses import replace

    unit = replace(found[0], removal="zero", kind="mlp")

    done = carry_out(model, [unit], example=x, units=Units((unit,)))

    assert done.executor == "bypass"
    assert done.attempts == {
        "compact": "0.branch is held by a Branchy, not by a ModuleList or Sequential"
    }
    torch.testing.assert_close(answer(done.model, x), answer(model[1], x))


class Adds(nn.Module):
    """Adds what its layers answer to what goes into them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in "abc"]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
def test_a_list_of_branches_loses_one_by_adding_nothing(way: str) -> None:
    model, x = Adds(), torch.randn(3, 8)
    parts = list(model.layers)

    done = carry_out(model, ["layers.1"], example=x, executor=way)

    with torch.no_grad():
        first = x + parts[0](x)
        torch.testing.assert_close(done.model(x), first + parts[2](first), rtol=0, atol=0)


class Overwrites(Block):
    """Writes into its input before it answers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
def test_a_unit_that_writes_into_its_input_is_gone_with_what_it_wrote(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Overwrites(), Overwrites(), nn.Linear(8, 2))
    x, parts = torch.randn(3, 4), list(model)

    done = carry_out(model, ["1"], example=x, executor=way)

    expected = answer(nn.Sequential(parts[0], parts[2], parts[3]), x)
    assert torch.equal(answer(done.model, x), expected)


def test_what_would_change_the_answer_is_never_called_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from layer_importance._execute import surgery

    def wrong(model: nn.Module, cut: Any) -> None:
        del model[int(cut.units[0].path) + 1]  # type: ignore[operator]

    monkeypatch.setitem(surgery.EXECUTORS, "compact", (wrong,))

    done = carry_out(plain(), ["1"], example=torch.randn(3, 4))

    assert done.executor == "bypass"
    assert done.attempts["compact"].startswith("forward differs by")


def test_weights_that_do_not_come_back_from_the_file_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("layer_importance._execute.files.fill", lambda *_, **__: None)

    with pytest.raises(ValueError, match="mask: reload differs by"):
        carry_out(plain(), ["1"], example=torch.randn(3, 4))


def test_a_way_that_fails_says_why() -> None:
    with pytest.raises(ValueError, match="compact: layer2 is held by a Numbered"):
        carry_out(Numbered(), ["layer2"], example=torch.randn(3, 8), executor="compact")


@pytest.mark.parametrize(
    "removals, words, message",
    [
        ([], {}, "removals must be a list"),
        ("1", {}, "removals must be a list"),
        (["9"], {}, "removals must be units of the model, got '9'"),
        (["1", "1"], {}, "got '1' twice"),
        (["1"], {"executor": "magic"}, "executor must be auto or one of"),
        (["1"], {"bridges": {"2": nn.Linear(8, 8)}}, "bridges must stand in for units"),
    ],
)
def test_bad_requests_are_named(removals: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        carry_out(plain(), removals, example=torch.randn(3, 4), **words)


def test_a_unit_that_cannot_go_is_refused_with_its_reason() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)

    with pytest.raises(ValueError, match="0 cannot be removed: it changes the shape"):
        carry_out(model, ["0"], example=x)


# files


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
def test_a_saved_model_is_the_same_when_it_is_loaded(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(3, 4)
    bridges = {"2": nn.Linear(8, 8)}
    done = carry_out(model, ["1", "2"], example=x, bridges=bridges, executor=way)

    done.save(tmp_path / "model")
    again = load(tmp_path / "model", plain)

    assert torch.equal(answer(again, x), answer(done.model.eval(), x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    done = carry_out(Tied(), ["blocks.1"], example=torch.arange(6).reshape(2, 3))

    done.save(tmp_path / "model")
    again = load(tmp_path / "model", Tied)

    assert isinstance(again, Tied)
    assert again.head.weight is again.embed.weight
    assert torch.equal(again.head.weight, done.model.head.weight)
    record = json.loads((tmp_path / "model" / RECORD).read_text())
    assert record["aliases"] == {"head.weight": "embed.weight"}


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    model = plain().bfloat16()
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    done = carry_out(model, ["2"], example=x)

    done.save(tmp_path / "model")
    again = load(tmp_path / "model", plain)

    assert {value.dtype for value in again.state_dict().values()} == {torch.bfloat16}
    assert torch.equal(answer(again, x), answer(done.model, x))


def test_saving_again_replaces_and_foreign_folders_stay(tmp_path: Path) -> None:
    done = carry_out(plain(), ["2"], example=torch.randn(3, 4))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")

    done.save(tmp_path / "model")
    done.save(tmp_path / "model")
    with pytest.raises(ValueError, match="folder must be new, empty or hold a compressed model"):
        done.save(tmp_path / "other")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]
    assert (tmp_path / "other" / "letter.txt").read_text() == "mine"


def damaged(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def of_the_future(folder: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"format": 99}))


def without_units(folder: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    del record["units"]
    (folder / RECORD).write_text(json.dumps(record))


def no_json(folder: Path) -> None:
    (folder / RECORD).write_text("{")


@pytest.mark.parametrize(
    "harm, message",
    [
        (damaged, "sha256 must be that in"),
        (of_the_future, "format must be 1, got 99"),
        (without_units, "must have units"),
        (no_json, "must be JSON"),
    ],
)
def test_a_file_that_is_damaged_or_foreign_is_named(
    harm: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    carry_out(plain(), ["2"], example=torch.randn(3, 4)).save(tmp_path / "model")
    harm(tmp_path / "model")

    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model", plain)


def test_another_architecture_does_not_fit(tmp_path: Path) -> None:
    carry_out(plain(), ["2"], example=torch.randn(3, 4)).save(tmp_path / "model")

    with pytest.raises(ValueError, match="does not fit the model"):
        load(tmp_path / "model", Numbered)
    with pytest.raises(ValueError, match="model must be given"):
        load(tmp_path / "model")


# parts


def test_what_a_unit_hands_on_is_told_apart_by_order() -> None:
    x = torch.randn(2, 3)

    recipe = learn((x, 7, 7), {}, (x + 1, 7, 7))

    assert recipe == {"tuple": [{"stream": True}, {"passed": ["args", 1]}, {"passed": ["args", 2]}]}
    assert StandIn(recipe)(x, 3, 5) == (x, 3, 5)


def test_tensors_that_a_unit_makes_are_not_handed_on() -> None:
    x = torch.randn(2, 3)

    recipe = learn((x,), {"mask": None}, (x + 1, None, torch.ones(2, 2), {"k": x}))

    assert makes_more(recipe)
    y = StandIn(recipe, zero=True)(x, mask=None)
    assert torch.equal(y[0], torch.zeros(2, 3))
    assert y[1:] == (None, None, {"k": x})


def test_an_answer_that_no_file_can_describe_is_refused() -> None:
    with pytest.raises(Refused, match="answers with a set"):
        learn((torch.ones(2),), {}, (torch.zeros(2), {1}))


class Indexed(nn.Module):
    def __init__(self, **numbers: int) -> None:
        super().__init__()
        self.inner = nn.Identity()
        for name, value in numbers.items():
            setattr(self.inner, name, value)


@pytest.mark.parametrize(
    "numbers, kept, expected",
    [
        ([0, 1, 2, 3], [1, 3], [0, 1]),
        ([1, 2, 3, 4], [0, 3], [1, 2]),
        ([0, 2, 4, 6], [1, 2], [0, 2]),
        ([None, 0, None, 1, 2], [0, 3, 4], [None, 0, 1]),
        ([None, 1, None, 3], [2, 3], [None, 1]),
        ([5, 5, 5], [0, 2], [5, 5]),
    ],
)
def test_numbers_follow_their_blocks(
    numbers: list[int | None], kept: list[int], expected: list[int | None]
) -> None:
    blocks = [Indexed(**({} if n is None else {"layer_idx": n, "width": 7})) for n in numbers]

    renumber(blocks, kept)

    assert [getattr(blocks[place].inner, "layer_idx", None) for place in kept] == expected
    assert {getattr(block.inner, "width", 7) for block in blocks} == {7}


class Config:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


def test_everything_that_speaks_of_depth_is_changed_and_nothing_else() -> None:
    model = nn.Module()
    model.decoder = nn.Module()
    model.decoder.layers = nn.ModuleList([Block() for _ in range(4)])
    model.config = Config(
        decoder_layers=4,
        encoder_layers=4,
        hidden_size=4,
        layer_types=["full", "slide", "full", "slide"],
        cross_attention_layers=[1, 3],
        hybrid_pattern="M*M*",
        num_heads=4,
    )

    reconfigure(model, "decoder.layers", 4, [0, 3])

    assert model.config.to_dict() == {
        "decoder_layers": 2,
        "encoder_layers": 4,
        "hidden_size": 4,
        "layer_types": ["full", "slide"],
        "cross_attention_layers": [1],
        "hybrid_pattern": "M*",
        "num_heads": 4,
    }


def test_a_module_that_holds_the_configurations_list_gets_the_new_one() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([Block() for _ in range(4)])
    model.config = Config(cross_attention_layers=[1, 3, 8], num_layers=4)
    model.where, model.num_layers = model.config.cross_attention_layers, 4

    reconfigure(model, "layers", 4, [0, 2, 3])

    assert model.where == model.config.cross_attention_layers == [2, 7]
    assert model.num_layers == model.config.num_layers == 3


def test_of_a_list_of_stages_only_the_chains_own_changes() -> None:
    model = nn.Module()
    model.stages = nn.ModuleList([nn.ModuleList([Block() for _ in range(3)]) for _ in range(3)])
    model.config = {"depths": [3, 3, 3]}

    reconfigure(model, "stages.1", 3, [0, 2])

    assert model.config == {"depths": [3, 2, 3]}


# what the first trials of it broke


class Counting(Block):
    """Says how many of something there are."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
        return super().forward(x), x.shape[self.axis]


class Counted(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.b0, self.b1, self.b2 = Counting(axis), Counting(axis), Counting(axis)

    def forward(self, x: Tensor) -> Tensor:
        count = 1
        for block in (self.b0, self.b1, self.b2):
            x, count = block(x)
        return x / count


@pytest.mark.parametrize("axis", [0, 1])
def test_a_value_that_follows_from_the_example_is_not_frozen(axis: int) -> None:
    model, x, other = Counted(axis), torch.randn(2, 5, 8), torch.randn(3, 9, 8)

    done = carry_out(model, ["b2"], example=x)

    assert done.executor == "mask"
    assert "b2 answers with a plain value that changes with its input" in done.attempts["bypass"]
    with torch.no_grad():
        expected = model.b1(model.b0(other)[0])[0] / other.shape[axis]
    torch.testing.assert_close(answer(done.model, other), expected)
    with pytest.raises(ValueError, match="b2 cannot be passed by: it answers with a plain value"):
        ElasticDepth(model, ["b2"], example=x)


def test_a_value_that_never_changes_is_kept() -> None:
    done = carry_out(Counted(2), ["b2"], example=torch.randn(2, 5, 8))

    assert done.executor == "bypass"


def test_a_plan_is_carried_out_with_its_bridges() -> None:
    torch.manual_seed(0)
    model = plain()
    with torch.no_grad():  # a block that is linear where its inputs are: a bridge can be it
        model[2].up.bias.fill_(30.0)
    data = [(x, answer(model, x).softmax(1)) for x in torch.randn(8, 16, 4)]
    small = plan(model, data, units=3, keep=["1", "3", "4"])
    assert list(small.bridges) == ["2"]

    done = carry_out(model, small, example=data[0])

    expected = carry_out(model, small.removals, example=data[0], bridges=small.bridges)
    assert torch.equal(answer(done.model, data[0][0]), answer(expected.model, data[0][0]))
    assert any("carry_out(model, plan) puts them in" in note for note in small.notes)
    with pytest.raises(ValueError, match="bridges must not be given beside a plan"):
        carry_out(model, small, example=data[0], bridges=small.bridges)


def test_a_plan_that_keeps_everything_is_no_removal() -> None:
    model = plain()
    data = [(x, answer(model, x).softmax(1)) for x in torch.randn(8, 16, 4)]
    nothing = plan(model, data, units=4)

    with pytest.raises(ValueError, match="removals must be a plan that removes a unit"):
        carry_out(model, nothing, example=data[0])


@pytest.mark.parametrize("word", ["old", "model"])
def test_an_interrupt_while_a_model_is_replaced_leaves_one(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = carry_out(plain(), ["2"], example=torch.randn(3, 4))
    done.save(tmp_path / "model")
    moved, times = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        found = moved(self, target)
        if not times and (f".{word}." in target.name or word == target.name):
            times.append(target)
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        done.save(tmp_path / "model")

    assert times
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    load(tmp_path / "model", plain)


def test_a_model_is_not_saved_onto_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ValueError, match="folder must be a folder, got the file"):
        carry_out(plain(), ["2"], example=torch.randn(3, 4)).save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


class Projected(nn.Module):
    """Holds a random matrix and places that are not in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(8, 8), persistent=False)
        self.register_buffer("places", torch.arange(3).expand(2, 3), persistent=False)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.matrix + self.places.sum()
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
def test_buffers_that_are_not_in_the_state_are_saved_too(way: str, tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    done = carry_out(Projected(), ["blocks.1"], example=x, executor=way)

    done.save(tmp_path / "model")
    again = load(tmp_path / "model", Projected)

    assert torch.equal(answer(again, x), answer(done.model, x))
    assert list(again.state_dict()) == list(done.model.state_dict())


def test_buffers_that_do_not_come_back_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layer_importance._execute.state._set_buffer", lambda *_: None)

    with pytest.raises(ValueError, match="mask: reload differs by"):
        carry_out(Projected(), ["blocks.1"], example=torch.randn(3, 8))


class Lazy(Block):
    """Makes a buffer of its state when it is first called."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.full((8,), 0.5))
        out: Tensor = super().forward(x) * self.scale
        return out


@pytest.mark.parametrize("way", ["compact", "bypass", "mask"])
@pytest.mark.parametrize("called", [False, True])
def test_buffers_that_the_first_call_makes_are_saved_and_made_again(
    way: str, called: bool, tmp_path: Path
) -> None:
    def build() -> nn.Module:
        return nn.Sequential(*(Lazy() for _ in range(3)))

    torch.manual_seed(0)
    net, x = build(), torch.randn(4, 8)
    if called:
        net(x)
        for block in net:
            block.scale.fill_(0.25)
    done = carry_out(net, ["1"], example=x, executor=way)
    assert done.checks["reload"] == "passed"
    done.save(tmp_path / "small")
    again = load(tmp_path / "small", build)
    assert torch.equal(answer(again, x), answer(done.model, x))
    assert hasattr(net[0], "scale") == called  # it is left as it was
