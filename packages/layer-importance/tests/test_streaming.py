from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from layer_importance import ElasticDepth, Report, analyze
from layer_importance._streaming import analyze_streamed

METHODS = [
    "block_influence",
    "layer_correlation",
    "bridgeability",
    "information_bottleneck",
    "spectral_analysis",
    "topology_analysis",
]

OF_WEIGHTS = [
    ("spectral_analysis", "weight_rank"),
    ("spectral_analysis", "stable_rank"),
    ("spectral_analysis", "alpha"),
    ("spectral_analysis", "spikes"),
    ("spectral_analysis", "weight_norm"),
    ("topology_analysis", "neural_persistence"),
]


class Block(nn.Module):
    seen: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.down(self.up(self.norm(x)).relu()), None


class Net(nn.Module):
    """Blocks between an embedding and a head that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.register_buffer("scale", torch.arange(1.0, 9.0), persistent=False)
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * self.scale
        for block in self.blocks:
            x, _ = block(x)
        return self.head(x.mean(1))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Net, Path]:
    torch.manual_seed(0)
    net = Net()
    state = {k: v.clone() for k, v in net.state_dict().items() if k != "head.weight"}
    names = sorted(state)
    for part in range(2):
        some = {name: state[name] for name in names[part::2]}
        safetensors.torch.save_file(some, tmp_path / f"model-{part}.safetensors")
    return net, tmp_path


def _batches() -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 11, (48, 4), generator=generator)
    return list(zip(x.split(16), x[:, 0].split(16), strict=True))


def _plain(report: Report) -> dict[str, Any]:
    found = report.to_dict()
    for method in found["methods"].values():
        method.pop("seconds")
    return {key: found[key] for key in ("units", "methods", "samples", "batches", "passes")}


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_streamed_model_has_the_scores_of_one_in_memory(
    saved: tuple[Net, Path], tmp_path: Path, on_disk: bool
) -> None:
    net, folder = saved
    place = tmp_path / "activations" if on_disk else None
    streamed = analyze_streamed(Net, folder, _batches(), methods=METHODS, activations=place)
    assert list(streamed.methods) == METHODS
    whole = _plain(analyze(net, _batches(), methods=METHODS, modality=None))
    found = _plain(streamed)
    for name, column in OF_WEIGHTS:
        assert not found["methods"][name]["extras"].pop(column, {})
        assert whole["methods"][name]["extras"].pop(column)
    assert found == whole
    assert "columns that read them are left out" in streamed.notes[0]
    assert place is None or list(place.iterdir()) == []


def test_no_more_than_one_unit_is_in_memory(saved: tuple[Net, Path]) -> None:
    _, folder = saved
    whole: list[Net] = []
    resident: list[int] = []

    def build() -> Net:
        whole.append(Net())
        for block in whole[0].blocks:
            block.down.register_forward_hook(lambda *_: resident.append(_held(whole[0])))
        return whole[0]

    analyze_streamed(build, folder, _batches(), methods=["block_influence"])
    outside = 11 * 8
    block = sum(p.numel() for p in Block().parameters())
    # nothing while shapes alone are worked out
    assert [count for count in resident if count] == [outside + block] * (5 * 3)
    assert _held(whole[0]) == 0


def _held(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if not p.is_meta)


def test_methods_that_need_more_say_so(saved: tuple[Net, Path]) -> None:
    methods = ["block_influence", "skip_attribution", "layer_ablation", "neuron_activation"]
    report = analyze_streamed(Net, saved[1], _batches(), methods=methods)
    assert list(report.methods) == ["block_influence"]
    assert "needs gradients" in report.reasons["skip_attribution"]
    assert "runs the model itself" in report.reasons["layer_ablation"]
    assert "looks inside of units" in report.reasons["neuron_activation"]


def _truncated(folder: Path) -> None:
    path = folder / "model-0.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def _gone(folder: Path) -> None:
    (folder / "model-1.safetensors").unlink()


def _reshaped(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        state = safetensors.torch.load_file(path)
        wrong = {name: torch.zeros(2, 2) for name in state if name == "blocks.0.up.weight"}
        safetensors.torch.save_file(state | wrong, path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (_truncated, "model-0.safetensors is no safetensors file"),
        (_gone, "files must hold every parameter, got no "),
        (_reshaped, r"up\.weight must have shape \[32, 8\], got \[2, 2\]"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    saved: tuple[Net, Path], damage: Callable[[Path], None], message: str
) -> None:
    damage(saved[1])
    with pytest.raises(ValueError, match=message):
        analyze_streamed(Net, saved[1], _batches())


def test_what_is_not_there_is_named(saved: tuple[Net, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file .*nothing"):
        analyze_streamed(Net, [tmp_path / "nothing"], _batches())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no safetensors file"):
        analyze_streamed(Net, tmp_path / "empty", _batches())
    with pytest.raises(ValueError, match="at least one batch with a sample, got none"):
        analyze_streamed(Net, saved[1], [])


def test_modules_made_afterwards_have_weights(saved: tuple[Net, Path]) -> None:
    analyze_streamed(Net, saved[1], _batches())
    assert not any(p.is_meta for p in Net().parameters())


def test_a_model_with_gates_is_refused_by_name(tmp_path: Path) -> None:
    net = Net().eval()
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "head.weight"}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    ElasticDepth(net, ["blocks.1"], example=_batches()[0][0])
    with pytest.raises(ValueError, match=r"gates on blocks\.1: close the ElasticDepth first"):
        analyze_streamed(lambda: net, tmp_path / "model.safetensors", _batches())
