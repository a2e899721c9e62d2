import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adlrns import load
from adlrns._batches import _sentences, open_batches
from adlrns._compress import COLUMNS
from adlrns._manifest import read_manifest
from adlrns._model_plots import elastic_cost
from adlrns._settle import counted_form

FILES = {"adlrns.json", "elastic.safetensors", "model.safetensors", "report.html", "table.csv"}
MADE = ["compress", "mine:make", "--data", "mine:batches"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_writes_a_whole_folder_and_prints_the_table(adlrns, place) -> None:
    result = adlrns(*MADE, "--out", "out")
    assert {path.name for path in (place / "out").iterdir()} == FILES
    for text in ("dense", "elastic, at the budget", "materialised, auto", "output deviation"):
        assert text in result.stdout
    assert list(rows(place / "out")[0]) == [column.key for column in COLUMNS]


@pytest.mark.parametrize("form", ["auto", "factored", "identity"])
@pytest.mark.parametrize("cost, column", [("flops", "mflops"), ("parameters", "parameters")])
def test_keeps_the_budget_in_every_form(adlrns, place, form: str, cost: str, column: str) -> None:
    adlrns(*MADE, "--out", "out", "--form", form, "--cost", cost, "--budget", 0.6)
    dense, elastic, settled = (float(row[column]) for row in rows(place / "out"))
    biases = 3 * 28 if cost == "parameters" else 0  # budgets count weights
    assert settled <= 0.6 * dense + biases
    assert elastic <= 0.6 * dense + biases
    saved = load(place / "out")
    assert {type(module).__name__ for module in saved.materialized.modules()} >= {"Linear"}
    assert saved.manifest.budget.form == form


def test_the_dense_form_keeps_the_ranks_not_the_cost(adlrns, place) -> None:
    adlrns(*MADE, "--out", "out", "--form", "dense", "--budget", 0.3)
    dense, _, settled = rows(place / "out")
    assert settled["parameters"] == dense["parameters"]
    assert float(settled["deviation"]) > 0


@pytest.mark.parametrize("form", ["dense", "factored", "identity"])
def test_the_fastest_form_is_what_the_clock_says(adlrns, place, fastest, form: str) -> None:
    fastest(form)
    result = adlrns(*MADE, "--out", "out", "--form", "fastest", "--budget", 0.5)
    assert f"materialised layers, by their form: 2 {form}" in " ".join(result.stdout.split())
    saved, x = load(place / "out"), torch.randn(5, 12)
    assert saved.manifest.budget.form == "fastest"
    dense, elastic, settled = rows(place / "out")
    assert float(elastic["share"]) <= 0.5
    assert (settled["mflops"] == dense["mflops"]) == (form == "dense")
    assert dict(saved.manifest.point.ranks) == dict(saved.elastic.set_budget(flops=0.5).ranks)
    with torch.no_grad():
        torch.testing.assert_close(saved.elastic(x), saved.materialized(x))


def test_the_fastest_form_of_a_folder_asks_for_data(adlrns, place, fastest) -> None:
    fastest("factored")
    adlrns(*MADE, "--out", "out")
    again = ("compress", "out", "--out", "two", "--form", "fastest")
    assert adlrns.error(*again).startswith("--form fastest needs --data")
    adlrns(*again, *MADE[MADE.index("--data") :][:2])
    assert load(place / "two").manifest.budget.form == "fastest"


def test_what_was_written_computes_what_was_measured(adlrns, place) -> None:
    adlrns(*MADE, "--out", "out", "--budget", 0.4)
    saved, x = load("out"), torch.randn(5, 12)
    saved.elastic.set_ranks(saved.manifest.point.ranks)
    with torch.no_grad():
        torch.testing.assert_close(saved.elastic(x), saved.materialized(x))
        saved.elastic.set_budget(flops=1.0)
        model = __import__("mine").make()
        torch.testing.assert_close(saved.elastic(x), model(x))


def test_the_whole_budget_changes_nothing(adlrns, place) -> None:
    adlrns(*MADE, "--out", "out", "--budget", 1)
    _, elastic, settled = rows(place / "out")
    assert float(elastic["deviation"]) < 1e-5
    assert float(settled["deviation"]) < 1e-5
    assert float(settled["agreement"]) == 1.0


def test_a_saved_folder_takes_another_budget_without_data(adlrns, place) -> None:
    adlrns(*MADE, "--out", "one")
    out = adlrns("compress", "one", "--out", "two", "--budget", 0.25).stdout
    assert "output deviation: not measured: give --data" in out
    assert "predicted loss: squared change of the outputs" in out
    one, two = read_manifest(place / "one"), read_manifest(place / "two")
    assert two.calibration == one.calibration
    assert two.point.cost < one.point.cost
    assert float(rows(place / "two")[2]["share"]) <= 0.25


def test_a_saved_folder_is_compared_on_data(adlrns, place) -> None:
    adlrns(*MADE, "--out", "one")
    adlrns("compress", "one", "--out", "one", "--budget", 0.25, "--data", "data.npy")
    assert 0 < float(rows(place / "one")[2]["deviation"]) < 1


def test_the_same_call_gives_the_same_models(adlrns, place) -> None:
    for name in ("one", "two"):
        adlrns(*MADE, "--out", name)
    one, two = read_manifest(place / "one"), read_manifest(place / "two")
    for name in ("elastic.safetensors", "model.safetensors", "table.csv"):
        assert one.files[name] == two.files[name], name


@pytest.mark.parametrize(
    "model, data",
    [
        ("mine:network", "mine:batches"),
        ("mine:Holder.make", "data.npy"),
        ("mine:make", "data.csv"),
        ("mine:make", "mine:pairs"),
        ("mine:named", "data.npz"),
        ("mine:named", "mine:mappings"),
    ],
)
def test_models_and_data_of_every_kind(adlrns, place, model: str, data: str) -> None:
    adlrns("compress", model, "--data", data, "--out", "out")
    row = rows(place / "out")[2]
    assert 0 <= float(row["deviation"]) < 1
    assert json.loads((place / "out" / "adlrns.json").read_text())["calibration"]["data"] == data


def test_files_are_cut_into_batches(adlrns, place) -> None:
    np.save(place / "many.npy", np.random.default_rng(0).standard_normal((50, 12)))
    arguments = ["--data", "many.npy", "--batch-size", 10, "--batches", 4, "--out", "out"]
    adlrns("compress", "mine:make", *arguments)
    assert read_manifest(place / "out").calibration.samples == 30  # the fourth was kept apart


def test_one_sample_is_enough_to_fit_and_too_little_to_compare(adlrns, place) -> None:
    np.save(place / "one.npy", np.ones((1, 12)))
    out = adlrns("compress", "mine:make", "--data", "one.npy", "--out", "out").stdout
    assert "output deviation: not measured, no batch was kept apart" in out
    assert rows(place / "out")[2]["deviation"] == ""


@pytest.mark.parametrize(
    "args, message",
    [
        (["mine:make"], "--data is needed unless MODEL is a folder written by adlrns compress"),
        (
            ["mine", "--data", "data.npy"],
            "MODEL must be module:factory, hf:PATH, timm:NAME or a folder",
        ),
        (["nowhere:x", "--data", "data.npy"], "MODEL nowhere:x: no module named nowhere"),
        (["mine:gone", "--data", "data.npy"], "MODEL mine:gone: mine has no 'gone'"),
        (["mine:number", "--data", "data.npy"], "must give a torch.nn.Module, got int"),
        (["mine:MODULE.x", "--data", "data.npy"], "mine has no 'MODULE'"),
        (
            ["mine:plain", "--data", "data.npy"],
            "mine:plain: model must have an elastic layer",
        ),
        (["hf:nowhere", "--data", "data.npy"], "hf:nowhere must be a local folder"),
        (["mine:make", "--data", "gone.npy"], "--data gone.npy: no such file"),
        (["mine:make", "--data", "x.parquet"], "--data must be module:function, a file"),
        (["mine:make", "--data", "mine:nothing"], "must hold at least one batch, got none"),
        (["mine:make", "--data", "mine:words"], "batch 0: a batch must hold tensors, got str"),
        (["mine:make", "--data", "mine:tensor"], "must return an iterable of batches, got Tensor"),
        (["mine:make", "--data", "mine:Named.forward"], "must take no arguments"),
        (["mine:make", "--data", "mine:mappings"], "--data mine:mappings does not fit mine:make"),
        (["mine:make", "--data", "mine:batches", "--batch-size", "4"], "--batch-size is for files"),
        (["mine:make", "--data", "data.npy", "--budget", "0"], "--budget must be in 0..1"),
        (
            ["mine:make", "--data", "data.npy", "--budget", "0.01"],
            "--budget: flops must be",
        ),
        (["mine:make", "--data", "mine.py", "--out", "mine.py"], "--out must be a folder"),
        (
            ["mine:make", "--data", "data.npy", "--out", "."],
            "--out must be new, empty or",
        ),
        (["mine:make", "--data", "words.txt"], "needs a tokenizer"),
    ],
)
def test_wrong_use_names_argument_and_rule(adlrns, place, args: list[str], message: str) -> None:
    (place / "words.txt").write_text("one\ntwo\n")
    assert message in adlrns.error("compress", *args)
    assert not (place / "compressed").exists()


def test_a_factory_that_fails_is_a_failure(adlrns, place) -> None:
    message = adlrns.error("compress", "mine:broken", "--data", "data.npy", code=1)
    where = "MODEL mine:broken: ZeroDivisionError: made to fail"
    assert message == f"{where} (--debug shows where)"


@pytest.mark.parametrize("data", ["mine:broken", "mine:breaking"])
def test_data_that_fail_are_a_failure(adlrns, place, data: str) -> None:
    message = adlrns.error("compress", "mine:make", "--data", data, code=1)
    assert message.startswith(f"--data {data}: ZeroDivisionError: ")
    assert message.endswith(" (--debug shows where)")


def test_a_model_that_fails_when_called_is_named(adlrns, place) -> None:
    message = adlrns.error("compress", "mine:failing", "--data", "data.npy", code=1)
    assert message.startswith("MODEL mine:failing on --data data.npy: KeyError: ")


@pytest.mark.parametrize(
    "data, message",
    [
        ("gone.npy", "no such file"),
        ("gone:batches", "no module named gone"),
        ("mine:gone", "mine has no 'gone'"),
        ("mine:torch.pi", "must be callable, got float"),
        ("what", "--data must be module:function, a file"),
    ],
)
def test_data_are_looked_for_before_the_model_is_made(
    adlrns, place, data: str, message: str
) -> None:
    assert message in adlrns.error("compress", "mine:broken", "--data", data)


def test_data_without_a_number_are_blamed_for_it(adlrns, place) -> None:
    np.save(place / "nan.npy", np.full((40, 12), np.nan))
    message = adlrns.error("compress", "mine:make", "--data", "nan.npy")
    assert message == "--data nan.npy must hold finite inputs, got none"


def test_rows_that_are_not_finite_are_told(adlrns, place) -> None:
    data = np.random.default_rng(0).standard_normal((160, 12))
    data[3, 5] = np.nan
    np.save(place / "one.npy", data)
    result = adlrns("compress", "mine:make", "--data", "one.npy", "--out", "out")
    assert "not finite, so in no statistic: 1 rows of inputs" in result.stdout


def test_a_folder_whose_factory_is_gone_says_what_to_do(adlrns, place, monkeypatch) -> None:
    adlrns(*MADE, "--out", "out")
    (place / "mine.py").rename(place / "moved.py")
    __import__("sys").modules.pop("mine")
    message = adlrns.error("compress", "out", "--out", "two")
    for text in ("out needs the factory", "no module named mine", "--model", "argument model"):
        assert text in message
    adlrns("export", "out", "--to", "torchscript", "--model", "moved:make")


@pytest.mark.parametrize("form", ["auto", "factored"])
def test_the_frontier_is_counted_in_the_form_of_the_point(adlrns, place, form: str) -> None:
    adlrns(*MADE, "--out", "out", "--form", form, "--budget", 0.6)
    saved = load("out")
    point, counted = saved.manifest.point, counted_form(form)
    assert elastic_cost(saved.elastic, point.ranks, "flops", counted) == pytest.approx(point.cost)
    best = saved.elastic.frontier("flops", counted).at(point.cost)
    assert point.loss == pytest.approx(best.loss)


def test_a_folder_with_a_strange_file_is_not_replaced(adlrns, place) -> None:
    adlrns(*MADE, "--out", "out")
    (place / "out" / "notes.txt").write_text("mine")
    message = adlrns.error(*MADE, "--out", "out")
    assert "notes.txt" in message
    assert (place / "out" / "notes.txt").read_text() == "mine"


def test_files_that_data_writes_into_the_folder_are_not_lost(adlrns, place) -> None:
    with (place / "mine.py").open("a") as file:
        file.write(
            "\n\ndef untidy():\n"
            "    import pathlib\n\n"
            "    pathlib.Path('out').mkdir(exist_ok=True)\n"
            "    pathlib.Path('out/notes.txt').write_text('mine')\n"
            "    return batches()\n"
        )
    message = adlrns.error("compress", "mine:make", "--data", "mine:untidy", "--out", "out", code=1)
    assert f"{place / 'out'} with notes.txt" in message
    assert (place / "out" / "notes.txt").read_text() == "mine"
    load(message.rpartition(" ")[2])


@pytest.mark.parametrize("out", ["data.npy/x", "x" * 300])
def test_an_impossible_folder_is_refused_before_the_model_is_opened(adlrns, place, out) -> None:
    message = adlrns.error("compress", "mine:broken", "--data", "data.npy", "--out", out)
    assert f"--out must be a folder that can be written, got {out}: " in message


@pytest.mark.parametrize("columns", [1, 12])
def test_a_byte_order_mark_is_no_data(place, columns: int) -> None:
    data = np.random.default_rng(0).standard_normal((3, columns))
    text = "\n".join(",".join(map(str, row)) for row in data)
    (place / "bom.csv").write_text(text, encoding="utf-8-sig")
    (batch,) = open_batches("bom.csv")
    torch.testing.assert_close(batch, torch.tensor(data).float())


def test_sentences_lose_their_byte_order_mark(place) -> None:
    (place / "bom.txt").write_text("one\ntwo\n", encoding="utf-8-sig")
    (place / "bom.jsonl").write_text('"one"\n{"text": "two"}\n', encoding="utf-8-sig")
    for name in ("bom.txt", "bom.jsonl"):
        assert _sentences(Path(name)) == ["one", "two"]


def test_an_object_array_is_not_unpickled(adlrns, place) -> None:
    np.save(place / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "not a readable .npy file" in adlrns.error("compress", "mine:make", "--data", "bad.npy")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("bad.npz", "no zip", "not a readable .npz file"),
        ("bad.safetensors", "short", "not a readable .safetensors file"),
        ("bad.csv", "a,b\n1,x", "must hold rows of equally many numbers"),
        ("ragged.csv", "1,2\n3", "must hold rows of equally many numbers"),
    ],
)
def test_a_damaged_file_is_named(adlrns, place, name: str, content: str, message: str) -> None:
    (place / name).write_text(content)
    assert message in adlrns.error("compress", "mine:make", "--data", name)


def test_arrays_of_different_lengths_are_refused(adlrns, place) -> None:
    np.savez(place / "odd.npz", left=np.ones((4, 12)), right=np.ones((5, 12)))
    message = adlrns.error("compress", "mine:named", "--data", "odd.npz")
    assert "equally many samples, got [4, 5]" in message


def test_without_matplotlib_the_report_says_what_would_draw_it(adlrns, place, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    adlrns(*MADE, "--out", "out")
    report = (place / "out" / "report.html").read_text()
    assert "adlrns[report]" in report
    assert "<svg" not in report


def test_threads_are_those_asked_for(adlrns, place) -> None:
    before = torch.get_num_threads()
    adlrns(*MADE, "--out", "out", "--threads", 1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
