"""Architectures of timm, made from their names: nothing is downloaded."""

import copy
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from adlrns import load
from adlrns._cli import app
from adlrns_models import (
    AdaptiveLayer,
    DynamicConv2d,
    DynamicLinear,
    ElasticModel,
    iter_adaptive_layers,
    iter_dynamic_layers,
    make_elastic,
    materialize_model,
    rank_budget,
    rank_penalty,
    record,
    wrap_model_with_adaptive,
)

ROOT = Path(__file__).resolve().parent.parent
# what they need of torchvision gives a warning of its own where its images cannot be read
pytestmark = pytest.mark.filterwarnings("ignore:Failed to load image Python extension:UserWarning")

# name: fewer blocks where all are alike, how many layers are wrapped, and how many are not, by
# kind of reason
ARCHITECTURES: dict[str, tuple[dict[str, Any], int, dict[str, int]]] = {
    "resnet18": ({}, 21, {}),
    "convnext_atto": ({}, 29, {"depthwise": 12}),
    "vit_tiny_patch16_224": ({"depth": 3}, 14, {}),
    "mobilenetv3_small_100": ({}, 42, {"depthwise": 11, "Linear": 1}),
    "efficientnet_b0": ({}, 66, {"depthwise": 16}),
    "swin_tiny_patch4_window7_224": ({"depths": (1, 1, 1, 1)}, 21, {}),
    "mixer_s16_224": ({}, 34, {}),
    "densenet121": ({}, 121, {}),
    "regnetx_002": ({}, 45, {}),
}
named = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """The benchmark beside, which builds them."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed; python noxfile.py -s timm has it")
    file = ROOT / "packages" / "adlrns-models" / "benchmarks" / "bench_timm.py"
    spec = importlib.util.spec_from_file_location("bench_timm", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_timm()
    return module


@pytest.fixture(scope="module")
def made(bench: ModuleType) -> Any:
    """Returns a model of one's own, a batch, and what the model answers."""
    known: dict[str, tuple[nn.Module, Tensor]] = {}

    def make(name: str) -> tuple[nn.Module, Tensor, Tensor]:
        if name not in known:
            known[name] = bench.build(name, **ARCHITECTURES[name][0])
        model, x = (part.double() for part in known[name])  # for laws to show above the rounding
        return copy.deepcopy(model), x, bench.answer(model, x)

    return make


def assert_close(y: Tensor, wanted: Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(y, wanted, rtol=0, atol=rtol * float(wanted.abs().max()))


@named
def test_every_layer_is_wrapped_or_named_with_its_reason(
    bench: ModuleType, made: Any, name: str
) -> None:
    model, x, wanted = made(name)
    _, count, stay = ARCHITECTURES[name]
    elastic = make_elastic(model, [x])
    assert len(elastic.layers()) == count
    assert bench.kinds(elastic.info["skipped"]) == stay
    assert bench.unnamed(model, elastic) == []
    wrapped = wrap_model_with_adaptive(model, r_max=2**20, r_min=1).eval()
    assert len(list(iter_adaptive_layers(wrapped))) == count
    assert_close(bench.answer(wrapped, x), wanted)


@named
def test_an_elastic_model_keeps_budgets_and_round_trips(
    bench: ModuleType, made: Any, name: str, tmp_path: Path
) -> None:
    model, x, wanted = made(name)
    elastic = make_elastic(model, [x])
    assert_close(bench.answer(elastic, x), wanted)
    point = elastic.set_budget(flops=0.5)
    assert point.cost <= 0.5 * elastic.full_cost()
    y = bench.answer(elastic, x)
    assert y.isfinite().all()
    assert not torch.equal(y, wanted)
    other = copy.deepcopy(elastic)
    other.set_budget(flops=0.9)
    other.load_state_dict(elastic.state_dict())
    assert torch.equal(bench.answer(other, x), y)
    elastic.save(tmp_path)
    assert torch.equal(bench.answer(ElasticModel.load(tmp_path, model), x), y)
    settled = materialize_model(elastic)
    assert not any(isinstance(module, AdaptiveLayer) for module in settled.modules())
    assert_close(bench.answer(settled, x), y)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_compiled_at_one_point_it_answers_the_same(bench: ModuleType, made: Any, name: str) -> None:
    model, x, _ = made(name)
    elastic = make_elastic(model, [x])
    elastic.set_budget(flops=0.5)
    y = bench.answer(elastic, x)
    elastic.compile(backend="aot_eager")
    assert_close(bench.answer(elastic, x), y)
    torch._dynamo.reset()


def dynamic(model: nn.Module) -> nn.Module:
    """Every plain linear layer and convolution of one group decides its rank at each call."""
    for name, module in list(model.named_modules()):
        parent, child = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if type(module) is nn.Linear:
            setattr(parent, child, DynamicLinear.from_linear(module, r_min=1))
        elif type(module) is nn.Conv2d and module.groups == 1:
            setattr(parent, child, DynamicConv2d.from_conv(module, r_min=1))
    return model


@named
def test_dynamic_layers_stand_in_and_keep_a_budget(bench: ModuleType, made: Any, name: str) -> None:
    model, x, wanted = made(name)
    layers = list(iter_dynamic_layers(model := dynamic(model)))
    assert layers
    for layer in layers:
        layer.force_rank(layer.max_rank)
    assert_close(bench.answer(model, x), wanted)
    for layer in layers:
        layer.force_rank(None)
    with torch.no_grad(), rank_budget(model, 0.5, "flops"), record(model) as ran:
        assert model(x).isfinite().all()
    assert 0 < float(rank_penalty(ran, alpha=1.0, beta=0.0)) <= 0.5


def adlrns(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    numpy = pytest.importorskip("numpy")
    images = numpy.random.default_rng(0).standard_normal((24, 3, 64, 64), dtype="float32")
    numpy.save(tmp_path / "images.npy", images)
    return tmp_path / "images.npy"


def test_the_command_compresses_a_name(bench: ModuleType, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    said = adlrns("compress", "timm:test_resnet", "--data", data, "--out", out)
    assert "weights as training begins with them" in said
    x = torch.randn(2, 3, 64, 64)
    assert bench.answer(load(out).materialized, x).shape == (2, 1000)
    adlrns("compress", out, "--budget", 0.3, "--out", tmp_path / "again")
    adlrns("export", out, "--to", "torch-export")
    assert "near are resnet18" in adlrns("compress", "timm:resnet1", "--data", data, code=2)
    told = adlrns("compress", "timm:resnet18.a1_in1k", "--data", data, code=2)
    assert "names trained weights, and none are fetched" in " ".join(told.split())


def test_the_command_opens_a_folder_that_timm_wrote(
    bench: ModuleType, tmp_path: Path, data: Path
) -> None:
    timm = bench.import_timm()
    torch.manual_seed(3)
    model = timm.create_model("test_vit", img_size=64, num_classes=7).eval()
    timm.models.save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    out, x = tmp_path / "out", torch.randn(2, 3, 64, 64)
    options = ("--data", data, "--budget", 1, "--form", "dense", "--out", out)
    adlrns("compress", f"timm:{tmp_path / 'vit'}", *options)
    assert_close(bench.answer(load(out).materialized, x), bench.answer(model, x), rtol=1e-4)
