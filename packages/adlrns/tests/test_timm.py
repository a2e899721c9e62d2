"""`MODEL` of the kind `timm:NAME`, with as much of timm as is called; timm itself has tests
beside all packages."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adlrns import load
from adlrns._manifest import read_manifest

NAMES = ["small_net", "small_vit", "other"]


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(12, width), nn.Dropout(), nn.ReLU(), nn.Linear(width, 4))


@pytest.fixture(autouse=True)
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def create_model(name: str, *, pretrained: bool) -> nn.Module:
        assert not pretrained
        source, _, folder = name.rpartition(":")
        if not source:
            return network(24)
        assert source == "local-dir"
        return network(json.loads((Path(folder) / "config.json").read_text())["width"])

    module = ModuleType("timm")
    module.create_model = create_model
    module.is_model = lambda name: name.partition(".")[0] in NAMES
    module.list_models = lambda: NAMES
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@pytest.fixture
def folder(place: Path) -> Path:
    """An architecture and its weights, as timm writes them."""
    torch.manual_seed(1)
    (place / "trained").mkdir()
    (place / "trained" / "config.json").write_text('{"architecture": "small_net", "width": 20}')
    save_file(network(20).state_dict(), place / "trained" / "model.safetensors")
    return place / "trained"


def compress(adlrns, model: object, *options: object):
    return adlrns("compress", model, "--data", "data.npy", *options)


def test_a_name_gives_the_same_untrained_network_every_time(adlrns, place) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    said = compress(adlrns, "timm:small_net", "--out", "one").stderr
    assert "timm:small_net by its name has weights as training begins with them" in said
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    compress(adlrns, "timm:small_net", "--out", "two")
    first, second = (load(place / name).elastic.state_dict() for name in ("one", "two"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not load(place / "one").plain.training


def test_a_folder_gives_its_weights_and_the_result_opens_without_it(adlrns, place, folder) -> None:
    told = compress(adlrns, f"timm:{folder}", "--budget", 1, "--form", "dense", "--out", "out")
    assert "as training begins" not in told.stderr
    torch.manual_seed(1)
    original = network(20).eval()
    shutil.rmtree(folder)
    saved = load(place / "out")
    x = torch.randn(5, 12)
    with torch.no_grad():
        torch.testing.assert_close(saved.materialized(x), original(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(saved.elastic(x), original(x), rtol=1e-4, atol=1e-5)
    assert set(read_manifest(place / "out").files) >= {"timm/config.json"}


@pytest.mark.parametrize("by_name", [True, False])
def test_a_result_is_compressed_again_and_exported(adlrns, place, folder, by_name: bool) -> None:
    compress(adlrns, "timm:small_net" if by_name else f"timm:{folder}", "--out", "out")
    shutil.rmtree(folder)
    compress(adlrns, "out", "--budget", 0.3, "--out", "out2")
    adlrns("compress", "out2", "--budget", 0.6, "--out", "out2")
    assert load(place / "out2").manifest.source.kind == "timm"
    assert (place / "out2" / "timm").exists() is not by_name
    adlrns("export", "out2", "--to", "torch-export")


@pytest.mark.parametrize(
    "name, message",
    [
        ("smal_net", "neither a local folder nor a model of timm; near are small_net"),
        ("zzz", "MODEL timm:zzz is neither a local folder nor a model of timm"),
        ("small_net.in1k", "names trained weights, and none are fetched"),
        ("small_net.in1k", "or timm:small_net for the architecture alone"),
        ("", "MODEL must be module:factory, hf:PATH, timm:NAME or a folder"),
        (".", "MODEL timm:. must be a local folder with a config.json"),
    ],
)
def test_a_name_that_is_none_is_told_what_is(adlrns, place, name: str, message: str) -> None:
    assert message in adlrns.error("compress", f"timm:{name}", "--data", "data.npy")
    assert not (place / "compressed").exists()


def test_weights_that_would_be_unpickled_are_refused(adlrns, place, folder) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = adlrns.error("compress", f"timm:{folder}", "--data", "data.npy")
    assert "must be a local folder with a model.safetensors" in message


def test_weights_of_another_architecture_are_named(adlrns, place, folder) -> None:
    (folder / "config.json").write_text('{"architecture": "small_net", "width": 21}')
    message = adlrns.error("compress", f"timm:{folder}", "--data", "data.npy")
    assert "model.safetensors must hold the weights that config.json describes" in message
    assert "size mismatch" in message


def test_a_result_reads_no_configuration_but_its_own(adlrns, place, folder) -> None:
    compress(adlrns, f"timm:{folder}", "--out", "out")
    (place / "out" / "timm" / "config.json").write_text('{"architecture": "x", "width": 3}')
    message = adlrns.error("compress", "out", "--out", "out2", code=1)
    assert "damaged: its SHA-256 is not the one that adlrns.json lists" in message


def test_without_timm_the_extra_is_named(adlrns, place, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = adlrns.error("compress", "timm:small_net", "--data", "data.npy", code=1)
    assert "needs timm, which is not installed: pip install 'adlrns[timm]'" in message


def test_a_torchvision_of_another_torch_is_named(adlrns, place, monkeypatch) -> None:
    def broken(*modules: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("adlrns._source_timm.need", broken)
    message = adlrns.error("compress", "timm:small_net", "--data", "data.npy", code=1)
    assert f"timm needs a torchvision built for torch {torch.__version__}" in message
    assert "operator torchvision::nms does not exist" in message
