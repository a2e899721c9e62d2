import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    Connect,
    Deepen,
    ExampleInputs,
    GrowthRefusedError,
    Morpher,
    MorphogenesisEvent,
    Widen,
)
from neuro_morph._visits import visits_of


class Plain(nn.Module):
    """Convolutions without shortcuts, normalised, on images."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), activation())
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.body(x)).mean((2, 3)))
        return out


class Basic(nn.Module):
    """A residual block of convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.first, self.second = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(self.two(torch.relu(self.first(self.one(x)))))
        return torch.relu(x + branch)


class PreNorm(nn.Module):
    """A transformer block that is told its number and returns more than one tensor."""

    def __init__(self, width: int, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.norm, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.norm(x)
        attended, weights = self.attention(h, h, h, attn_mask=mask, average_attn_weights=False)
        x = x + attended
        return x + self.down(nn.functional.gelu(self.up(self.after(x)))), weights


class Stack(nn.Module):
    """Transformer blocks in a list that is run as far as a number says."""

    def __init__(self, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.num_layers = layers
        self.layers = nn.ModuleList(PreNorm(width, k) for k in range(layers))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[: self.num_layers]:
            x, _ = layer(x, mask=None)
        out: Tensor = self.head(x)
        return out


class Unrolled(Stack):
    """The same, which names its blocks one by one."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers[1](self.layers[0](x)[0])[0])
        return out


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=generator)


def tokens() -> Tensor:
    return torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rough(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns the model in float64 with nothing at its first value, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.3
            tensor.data = noise.abs() + 0.5 if "var" in name else noise
    return model.eval()


def deepen(model: nn.Module, inputs: Any, *args: Any, **settings: Any) -> MorphogenesisEvent:
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    return morpher.apply(Deepen(*args, **settings))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str, tuple[str, ...]]] = {
    "sequential": (Plain, images, "body.2", ("identity", "residual")),
    "pool": (Plain, images, "pool", ("identity", "residual")),
    "silu": (lambda: Plain(nn.SiLU), images, "body.2", ("residual",)),
    "resnet": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Basic(4), Basic(4)),
        images,
        "2",
        ("copy", "identity", "residual"),
    ),
    "transformer": (Stack, tokens, "layers.0", ("copy", "residual")),
    "last layer": (Stack, tokens, "layers.1", ("copy", "residual")),
    "unrolled": (Unrolled, tokens, "layers.0", ("copy", "residual")),
    "inside": (Stack, tokens, "layers.0.up", ("residual",)),
    "root": (Stack, tokens, "", ("residual",)),
}
ROWS = [(net, block) for net, row in NETS.items() for block in row[3]]


@pytest.mark.parametrize("net, block", ROWS)
def test_a_deeper_net_computes_what_it_did_and_its_new_layers_learn(net: str, block: str) -> None:
    make, inputs, after, _ = NETS[net]
    model, x = rough(make()), inputs()
    old = {id(p) for p in model.parameters()}
    event = deepen(model, x, after, block)
    assert event.relative_change is not None
    assert event.relative_change <= 1e-12
    new = [(n, p) for n, p in model.named_parameters() if id(p) not in old]
    assert event.parameters_added == sum(p.numel() for _, p in new) > 0
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        moved = {n for n, p in new if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    idle = {"attention.in_proj_bias"}  # a key's bias moves every score alike
    assert {n for n, _ in new} - moved <= {n for n, _ in new if n.endswith(tuple(idle))}


@pytest.mark.parametrize("net", sorted(NETS))
def test_a_layer_that_fails_the_check_leaves_everything_bit_for_bit(net: str) -> None:
    make, inputs, after, _ = NETS[net]
    model, x = rough(make()), inputs()
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before, groups = structure(model), copy.deepcopy(optimizer.state_dict())
    numbers = torch.get_rng_state()
    morpher = Morpher(model, optimizer, example_inputs=x, capture="dispatch")
    morpher.tolerance = -1.0  # nothing is within it
    with pytest.raises(GrowthRefusedError, match="the output changes by"):
        morpher.apply(Deepen(after, "residual"))
    assert structure(model) == before
    assert torch.equal(numbers, torch.get_rng_state())
    assert optimizer.state_dict()["param_groups"] == groups["param_groups"]


def structure(model: nn.Module) -> list[Any]:
    tensors = {n: (id(t), t.detach().numpy().tobytes()) for n, t in model.state_dict().items()}
    modules = [
        (n, id(m), m.training, list(m._modules), list(m._forward_hooks), list(m._forward_pre_hooks))
        for n, m in model.named_modules()
    ]
    numbers = [(n, k, v) for n, m in model.named_modules() for k, v in integers(m)]
    return [{n: t[1] for n, t in tensors.items()}, modules, numbers]


def integers(module: nn.Module) -> list[tuple[str, int]]:
    return sorted((k, v) for k, v in vars(module).items() if type(v) is int)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU])
def test_an_identity_behind_what_is_no_relu_is_refused_by_name(activation: type[nn.Module]) -> None:
    model = rough(Plain(activation))
    name = activation.__name__.lower()
    with pytest.raises(
        GrowthRefusedError, match=f"must come from a ReLU, but it is made by {name}"
    ):
        deepen(model, images(), "body.2", "identity")
    assert not any("grown" in n or "_1" in n for n, _ in model.named_modules())


def test_a_post_norm_block_cannot_be_copied_and_says_why() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 10, batch_first=True)
    model = rough(nn.Sequential(nn.Linear(8, 8), layer, nn.Linear(8, 2)))
    with pytest.raises(GrowthRefusedError, match="its output is made by native_layer_norm"):
        deepen(model, tokens(), "1", "copy")
    assert deepen(model, tokens(), "1").relative_change == 0.0


SEEN: Any = (
    lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
    lambda: torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    "2",
)
NORMED = [
    *[(net, block, None) for net, block in ROWS],
    *[(net, "auto", norm) for net in ("sequential", "seen") for norm in (None, True, False)],
    *[("seen", block, False) for block in ("identity", "residual")],
    *[("resnet", block, True) for block in ("copy", "residual")],
]


@pytest.mark.parametrize("net, block, norm", NORMED)
def test_a_deeper_net_goes_on_training_as_it_did_whatever_it_was_shown(
    net: str, block: str, norm: bool | None
) -> None:
    make, inputs, after = SEEN if net == "seen" else NETS[net][:3]
    model, x = rough(make()).train(), inputs()
    twin = copy.deepcopy(model)
    assert deepen(model, x[:2], after, block, norm=norm).note is None
    generator = torch.Generator().manual_seed(5)
    for _ in range(10):
        batch = 2 * torch.randn(x.shape, generator=generator, dtype=torch.float64) + 1
        want, found = twin(batch), model(batch)
        assert float((want - found).detach().abs().max()) <= 1e-12
    assert torch.allclose(twin.eval()(x), model.eval()(x), rtol=0, atol=1e-12)


def test_an_identity_with_batch_normalisation_gives_what_it_gets_in_evaluation_mode() -> None:
    model = rough(Plain())
    x = images()
    wanted = visits_of(model, ExampleInputs.of(x), ["body.2"])["body.2"].values
    event = deepen(model, x, "body.2", "identity", norm=True)
    assert event.note is not None
    assert "in training mode the output changes" in event.note
    assert "192 values of each feature" in event.note
    block = model.get_submodule("body.2_1")
    norm: Any = block.get_submodule("1")
    assert wanted is not None
    assert torch.allclose(norm.running_mean, wanted.mean((0, 2, 3)))
    assert torch.allclose(norm.weight, (norm.running_var + norm.eps).sqrt())
    assert float((block(wanted) - wanted).detach().abs().max()) <= 1e-14


def test_a_list_of_layers_grows_with_the_numbers_that_go_with_it() -> None:
    model = rough(Stack())
    deepen(model, tokens(), "layers.0", "copy")
    layers: Any = model.get_submodule("layers")
    assert len(layers) == model.num_layers == 3
    assert [layer.layer_idx for layer in layers] == [0, 1, 2]
    fresh = Stack(layers=3).double()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(tokens()), model(tokens()))


def test_a_language_model_with_a_copied_layer_generates_the_same_with_and_without_cache() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=20, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).double().eval()
    ids = {"input_ids": torch.arange(3, 11).reshape(2, 4), "attention_mask": torch.ones(2, 4)}
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    want = model.generate(**ids, **settings)
    morpher = Morpher(model, example_inputs=ids, capture="dispatch", outputs=("logits",))
    morpher.apply(Deepen("model.layers.0", "copy"))
    assert config.num_hidden_layers == 3
    assert torch.equal(model.generate(**ids, **settings), want)
    for parameter in model.model.layers[1].parameters():
        parameter.data.normal_(0, 0.3)
    cached = model.generate(**ids, **settings)
    assert torch.equal(cached, model.generate(**ids, **settings, use_cache=False))
    assert not torch.equal(cached, want)


def test_where_layers_are_called_by_name_the_new_one_follows_by_a_hook() -> None:
    model = rough(Unrolled())
    deepen(model, tokens(), "layers.0", "copy")
    assert len(model.get_submodule("layers")) == 2  # type: ignore[arg-type]
    twin = copy.deepcopy(model)
    for parameter in twin.get_submodule("grown").parameters():
        parameter.data.normal_()
    assert not torch.allclose(twin(tokens()), model(tokens()))
    assert torch.equal(model(tokens()), torch.compile(model, backend="eager")(tokens()))


def test_a_block_is_copied_without_what_was_grown_at_it() -> None:
    model, x = rough(Unrolled()), tokens()
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    morpher.apply(Deepen("layers.1", "copy"))
    morpher.apply(Connect("layers.0", "layers.1"))
    morpher.apply(Deepen("layers.1", "copy"))
    parts: Any = model.get_submodule("grown")
    assert parts.names() == ["block_0", "edge_0", "block_1"]
    assert not [k for part in parts.children() for k in part.modules() if k._forward_hooks]
    morpher.apply(Deepen("layers.0.up", "residual"))
    assert morpher.apply(Deepen("layers.0", "copy")).relative_change == 0.0
    assert not any("grown" in name for name, _ in parts.named_modules())


def test_new_parameters_join_the_groups_of_their_neighbours() -> None:
    model = rough(Plain())
    decay: list[Any] = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    morpher = Morpher(model, optimizer, example_inputs=images(), capture="dispatch")
    morpher.apply(Deepen("body", "identity"))
    for group, wide in zip(optimizer.param_groups, (True, False), strict=True):
        assert all((p.dim() > 1) is wide for p in group["params"])
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_a_snapshot_takes_a_layer_out_again_after_training() -> None:
    model = rough(Unrolled())
    x, optimizer = tokens(), torch.optim.Adam(model.parameters())
    morpher = Morpher(model, optimizer, example_inputs=x, capture="dispatch")
    before, taken, want = structure(model), morpher.snapshot(), model(x)
    morpher.apply(Deepen("layers.0", "copy"))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    taken.restore()
    assert structure(model) == before
    assert torch.equal(model(x), want)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_numbers_of_layers_in_configurations_follow_and_come_back() -> None:
    model = rough(Configured(Options(2, ["full", "sliding"])))
    x = tokens()
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    taken, config = morpher.snapshot(), vars(model)["config"]
    want = model(x)
    morpher.apply(Deepen("layers", "copy"))
    assert vars(config) == {"num_hidden_layers": 3, "layer_types": ["full", "sliding", "sliding"]}
    assert torch.equal(model(x), want)
    taken.restore()
    assert vars(config) == {"num_hidden_layers": 2, "layer_types": ["full", "sliding"]}
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    morpher.tolerance = -1.0  # nothing is within it
    with pytest.raises(GrowthRefusedError, match="the output changes by"):
        morpher.apply(Deepen("layers", "copy"))
    assert vars(config) == {"num_hidden_layers": 2, "layer_types": ["full", "sliding"]}


class Options:
    """Numbers of layers, as models of libraries hold them."""

    def __init__(self, num_hidden_layers: int, layer_types: list[str]) -> None:
        self.num_hidden_layers, self.layer_types = num_hidden_layers, layer_types


class Configured(Stack):
    """Blocks that are run as far as a configuration says."""

    def __init__(self, config: Options) -> None:
        super().__init__(layers=config.num_hidden_layers)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        for layer, _ in zip(self.layers, self.config.layer_types, strict=True):
            x, _ = layer(x)
        out: Tensor = self.head(x)
        return out


def test_what_was_deepened_can_be_widened() -> None:
    model = rough(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    x = torch.randn(3, 4).double()
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    morpher.apply(Deepen("1", "residual", hidden=6))
    want = model(x)
    for group in [g.id for g in morpher.graph if g.growable]:
        morpher.apply(Widen(group, by=2))
    assert float((model(x) - want).detach().abs().max()) <= 1e-12
    assert {tuple(p.shape) for p in model.parameters() if p.dim() > 1} == {
        (7, 4),
        (8, 7),
        (7, 8),
        (2, 7),
    }


def test_a_deepened_net_learns_what_the_shallow_one_cannot() -> None:
    torch.manual_seed(0)
    x = torch.rand(256, 1, dtype=torch.float64) * 2 - 1
    target = (4 * x * torch.pi).sin()
    model = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    train(model, optimizer, x, target, 300)
    ungrown = copy.deepcopy(model)
    kept = torch.optim.Adam(ungrown.parameters(), 0.02)
    kept.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    without = train(ungrown, kept, x, target, 500)
    morpher = Morpher(model, optimizer, example_inputs=x[:4], capture="dispatch")
    morpher.apply(Deepen("1", "identity"))
    morpher.apply(Deepen("1", "residual", hidden=8))
    assert train(model, optimizer, x, target, 500) < 0.7 * without


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor, steps: int
) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_a_module_of_ones_own_is_put_in_if_it_begins_as_the_identity() -> None:
    model, x = rough(Plain()), images()
    assert deepen(model, x, "body.2", nn.Identity()).parameters_added == 0
    with pytest.raises(GrowthRefusedError, match="the output changes by"):
        deepen(model, x, "body.2", nn.Conv2d(4, 4, 1).double())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"block": "tower"}, "block must be a module or one of"),
        ({"kernel": 2}, "kernel must be odd and at least 1, got 2"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"activation": "cube"}, "activation must be one of 'relu'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Deepen("0", **settings)


def test_a_module_that_is_not_there_or_not_run_is_named() -> None:
    model = rough(Plain())
    with pytest.raises(ValueError, match="after must be the path of a module"):
        deepen(model, images(), "nothing")
    model.idle = nn.Linear(2, 2).double()
    with pytest.raises(GrowthRefusedError, match="'idle' is not called by the model"):
        deepen(model, images(), "idle")
    shared = nn.Linear(3, 3).double()
    with pytest.raises(GrowthRefusedError, match="'0' is called 2 times"):
        deepen(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 3).double(), "0")
