import errno
import json
from pathlib import Path

import pytest
import torch

from adlrns import Compressed, load
from adlrns._errors import RunError, UseError
from adlrns._export_file import is_program
from adlrns._exporters import EXPORTERS
from adlrns._manifest import FORMAT, NAME


@pytest.fixture
def folder(adlrns, place) -> Path:
    adlrns("compress", "mine:make", "--data", "mine:batches", "--out", "out")
    return place / "out"


def change(folder: Path, **fields: object) -> None:
    content = json.loads((folder / NAME).read_text()) | fields
    (folder / NAME).write_text(json.dumps(content))


def test_opens_what_was_written(folder: Path) -> None:
    saved = load(folder)
    assert isinstance(saved, Compressed)
    args, kwargs = saved.example(3)
    assert [list(x.shape) for x in args] == [[3, 12]]
    assert kwargs == {}
    assert not saved.elastic.training
    assert not saved.materialized.training


def test_says_what_it_is(folder: Path) -> None:
    saved = load(folder)
    assert repr(saved) == (
        f"<Compressed {str(folder)!r} of mine:make: 0.5 of its flops, auto, "
        f"ranks {saved.manifest.point.ranks}>"
    )


def test_takes_the_architecture_from_the_caller(folder: Path) -> None:
    change(folder, source={"kind": "factory", "spec": "moved_away:make"})
    with pytest.raises(UseError, match="no module named moved_away"):
        load(folder)
    saved = load(folder, __import__("mine").make())
    assert saved.materialized(torch.zeros(2, 12)).shape == (2, 4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"format": FORMAT + 1}, f"field format must be in 1..{FORMAT}, got {FORMAT + 1}"),
        ({"format": "1"}, "field format must be in"),
        ({"source": {"kind": "pickle", "spec": "x"}}, "field source.kind"),
        ({"budget": {"cost": "flops", "share": 2.0, "form": "auto"}}, "field budget.share"),
        ({"inputs": 3}, "field inputs"),
        ({"files": {"gone.bin": "0"}}, "gone.bin: no such file, though adlrns.json lists it"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, fields: dict[str, object], message: str) -> None:
    change(folder, **fields)
    with pytest.raises(RunError, match=message.replace("[", r"\[")):
        load(folder)


def test_a_file_listed_outside_the_folder_is_refused(folder: Path) -> None:
    change(folder, files={"../mine.py": "0"})
    with pytest.raises(RunError, match="field files"):
        load(folder)


def test_damage_is_found(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(RunError, match=r"model\.safetensors: damaged"):
        load(folder)


def test_a_field_of_a_later_version_is_passed_over(folder: Path) -> None:
    change(folder, invented_later=1)
    assert load(folder).manifest.format == FORMAT


@pytest.mark.parametrize("content", ["{", "[]", "3", '"x"', "{}"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(RunError, match=NAME):
        load(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="must be a folder written by adlrns"):
        load(tmp_path)


@pytest.mark.parametrize("target, suffix", [("torch-export", "pt2"), ("torchscript", "pt")])
def test_exports_beside_the_folder(adlrns, folder: Path, target: str, suffix: str) -> None:
    out = adlrns("export", "out", "--to", target).stdout
    assert "checked on 5 made-up samples" in out
    assert folder.with_name(f"out.{suffix}").stat().st_size > 0
    assert {p.name for p in folder.parent.iterdir()} == {
        "out", f"out.{suffix}", "mine.py", "data.npy", "data.npz", "data.csv",
    }  # fmt: skip


def test_a_program_may_have_a_long_name(adlrns, folder: Path) -> None:
    name = "n" * 245 + ".pt"
    adlrns("export", "out", "--to", "torchscript", "--out", name)
    assert folder.with_name(name).stat().st_size > 0


def test_an_error_of_writing_a_program_names_it(adlrns, folder: Path, monkeypatch) -> None:
    def full(*args: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(EXPORTERS, "torchscript", (".pt", full))
    message = adlrns.error("export", "out", "--to", "torchscript", code=1)
    assert f"{folder.with_name('out.pt')} could not be written: " in message
    assert "No space left on device" in message


def test_a_program_runs_at_any_batch_size(adlrns, folder: Path) -> None:
    adlrns("export", "out", "--to", "torch-export", "--out", "program.pt2")
    program = torch.export.load("program.pt2").module()
    saved = load(folder)
    for size in (1, 7):
        x = torch.randn(size, 12)
        torch.testing.assert_close(program(x), saved.materialized(x))


def test_onnx_agrees_with_torch(adlrns, folder: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    adlrns("export", "out", "--to", "onnx", "--out", "model.onnx")
    session = runtime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(7, 12)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(got), load(folder).materialized(x))


def test_keyword_arguments_are_exported(adlrns, place) -> None:
    adlrns("compress", "mine:named", "--data", "data.npz", "--out", "out")
    for target in ("torch-export", "onnx", "torchscript"):
        adlrns("export", "out", "--to", target)


def test_export_takes_another_factory(adlrns, folder: Path) -> None:
    change(folder, source={"kind": "factory", "spec": "moved_away:make"})
    assert "moved_away" in adlrns.error("export", "out", "--to", "torchscript")
    adlrns("export", "out", "--to", "torchscript", "--model", "mine:make")


@pytest.mark.parametrize("target, suffix", [("torch-export", "pt2"), ("torchscript", "pt")])
def test_an_earlier_export_is_replaced_and_nothing_else(
    adlrns, folder: Path, target: str, suffix: str
) -> None:
    path = folder.with_name(f"own.{suffix}")
    torch.save({"weight": torch.ones(3)}, path)
    before = path.read_bytes()
    message = adlrns.error("export", "out", "--to", target, "--out", path)
    assert "must be new or an earlier export of this kind" in message
    assert path.read_bytes() == before
    path.unlink()
    for _ in range(2):
        adlrns("export", "out", "--to", target, "--out", path)


def test_an_earlier_onnx_file_is_known(adlrns, folder: Path) -> None:
    pytest.importorskip("onnxscript")
    adlrns("export", "out", "--to", "onnx")
    assert is_program(folder.with_name("out.onnx"), ".onnx")
    assert not is_program(folder / NAME, ".onnx")


def test_an_export_goes_into_no_result_and_makes_no_folder(adlrns, folder: Path) -> None:
    message = adlrns.error("export", "out", "--to", "torchscript", "--out", "out/model.pt")
    assert "outside of result folders" in message
    message = adlrns.error("export", "out", "--to", "torchscript", "--out", "no/model.pt")
    assert f"no {folder.parent / 'no'}" in message
    assert not (folder.parent / "no").exists()
    adlrns("export", "out", "--to", "torchscript")
    adlrns("compress", "out", "--out", "out", "--budget", 0.4)


def test_export_errors(adlrns, folder: Path, tmp_path: Path, monkeypatch) -> None:
    import sys

    assert "--out must be a file" in adlrns.error("export", "out", "--to", "onnx", "--out", ".")
    assert "must be a folder written" in adlrns.error("export", "no", "--to", "onnx", code=1)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "adlrns[onnx]" in adlrns.error("export", "out", "--to", "onnx", code=1)
    assert not (tmp_path / "out.onnx").exists()
