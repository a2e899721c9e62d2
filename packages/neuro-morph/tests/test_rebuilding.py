import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    ArchitectureSpec,
    Connect,
    Deepen,
    Morpher,
    Widen,
    load_checkpoint,
    save_checkpoint,
)


class Block(nn.Module):
    """A residual block in a list."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return out


class Net(nn.Module):
    """Convolutions, then blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.num_layers = 2
        self.body = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.layers = nn.ModuleList(Block(k) for k in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).mean((2, 3))
        for layer in self.layers[: self.num_layers]:
            x = layer(x)
        out: Tensor = self.head(x)
        return out


def images() -> Tensor:
    return torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1))


EDITS: dict[str, list[Callable[[Morpher], Any]]] = {
    "identity": [lambda m: m.apply(Deepen("body", "identity"))],
    "normed": [lambda m: m.apply(Deepen("body", "identity", norm=True))],
    "residual": [lambda m: m.apply(Deepen("body.0", "residual", hidden=5))],
    "copy": [lambda m: m.apply(Deepen("layers.0", "copy"))],
    "hook": [lambda m: m.apply(Deepen("layers.0.up", "residual"))],
    "connection": [lambda m: m.apply(Connect("body.0", "head"))],
    "gate": [lambda m: m.apply(Connect("layers.0", "layers.1", adapter="identity", gate="zero"))],
    "all": [
        lambda m: m.apply(Connect("body.0", "layers.1", adapter="low_rank", rank=2)),
        lambda m: m.apply(Deepen("layers.0", "copy")),
        lambda m: m.apply(Widen("layers.0.up", by=2)),
        lambda m: m.apply(Deepen("layers", "copy")),
        lambda m: m.apply(Deepen("body", "identity")),
        lambda m: m.apply(Connect("body.0", "head")),
        lambda m: m.apply(Widen("layers.3.up", by=3)),
    ],
}


def grown(edits: list[Callable[[Morpher], Any]]) -> tuple[Net, Any, ArchitectureSpec]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(groups(model), 1e-2)
    morpher = Morpher(model, optimizer, example_inputs=images(), capture="dispatch")
    for edit in edits:
        edit(morpher)
        train(model, optimizer)
    return model, optimizer, morpher.spec


def groups(model: nn.Module) -> list[dict[str, Any]]:
    wide = [p for p in model.parameters() if p.dim() > 1]
    return [
        {"params": wide, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2]},
    ]


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        (model(images()) - 1).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("edits", sorted(EDITS))
def test_a_spec_builds_layers_and_connections_again_without_data(edits: str) -> None:
    model, _, spec = grown(EDITS[edits])
    state = io.BytesIO()
    torch.save(model.state_dict(), state)
    state.seek(0)
    spec = ArchitectureSpec.from_json(spec.to_json())
    other = spec.replay(Net())
    other.load_state_dict(torch.load(state, weights_only=True))
    x = images()
    assert torch.equal(other.eval()(x), model.eval()(x))
    assert [n for n, _ in other.named_parameters()] == [n for n, _ in model.named_parameters()]


@pytest.mark.parametrize("edits", ["all", "hook"])
def test_a_checkpoint_goes_on_training_as_if_nothing_had_happened(
    edits: str, tmp_path: Path
) -> None:
    model, optimizer, spec = grown(EDITS[edits])
    save_checkpoint(tmp_path / "grown.safetensors", model, spec, optimizer)
    other = Net()
    its = torch.optim.Adam(groups(other), 1e-2)
    load_checkpoint(tmp_path / "grown.safetensors", other, its)
    train(model, optimizer)
    train(other, its)
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_a_spec_cannot_build_is_named() -> None:
    _, _, spec = grown([lambda m: m.apply(Deepen("head", nn.Identity()))])
    with pytest.raises(ValueError, match="a layer of the class 'Identity', which it cannot build"):
        spec.replay(Net())
    _, _, spec = grown(EDITS["connection"])
    with pytest.raises(ValueError, match="the spec does not fit: the model has no module 'body.0'"):
        spec.replay(nn.Sequential(nn.Linear(2, 2)))


def test_a_grown_model_can_be_copied_before_it_is_grown_on() -> None:
    model, _, _ = grown(EDITS["all"])
    twin = copy.deepcopy(model)
    morpher = Morpher(twin, example_inputs=images(), capture="dispatch")
    morpher.apply(Widen("layers.3.up", by=3))
    x = images()
    assert torch.allclose(twin.eval()(x), model.eval()(x), atol=1e-5)
    assert model.get_submodule("layers.3.up").get_parameter("weight").shape == (11, 6)
