import csv
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from adlrns import _experiment_nets as nets
from adlrns._ablate_events import FRAMES, counted, eventful, frames
from adlrns._ablate_factors import evenly, refactored, sketches_of
from adlrns._config_file import read_config
from adlrns._datasets import Task, tensors
from adlrns._energy import EnergyReader
from adlrns._errors import RunError, UseError
from adlrns._experiment_nets import Candidate, weights_at
from adlrns._experiment_rows import _energy, interleaved, measured, served_bytes
from adlrns._experiment_table import GOAL
from adlrns._experiment_train import divide
from adlrns._experiment_unused import note, unused
from adlrns._measure import weight_bytes
from adlrns_models import make_elastic, materialize_model
from rank_sched import PROFILES, MeterError

SMALL = """
model: {type: adlrns_mlp, hidden: [24, 24]}
train: {epochs: 3, lr: 1e-2, batch_size: 32}
data: {name: digits, limit: 320}
run: {tune_epochs: 1, rounds: 2, batch: 32, sketch_size: 16, budgets: [0.5], held_out: 0.3}
"""


FAST = SMALL.replace("rounds: 2", "rounds: 1, form: fastest")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 20), nn.Linear(20, 3)
    ).eval()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(40, 1, 4, 4, generator=generator) + 0.5 for _ in range(3)]


def test_compares_and_switches_off_in_turn(adlrns, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "s.yaml").write_text(SMALL)
    out = tmp_path / "result"
    call = ["experiment", tmp_path / "s.yaml", "--out", out, "--seeds", "0,1", "--ablate"]
    adlrns(*call)
    table = rows_of(out / "table.csv")
    assert [row["model"] for row in table[:3]] == ["full rank", "static, plain SVD", "static, ours"]
    full, goal = table[0], table[-1]
    assert all(float(full[f"{name}_to_full"]) == 1 for name in ("energy", "weights", "flops"))
    assert float(goal["weights_to_full"]) == GOAL["memory_ratio"]
    for row in table[1:-1]:
        assert 0 < float(row["flops_to_full"]) <= 0.5 * 1.1  # a held-out mean is no other's
        assert row["seeds"] == "2"
    seeds = [json.loads((out / f"seed-{seed}/rows.json").read_text()) for seed in (0, 1)]
    points = [100 * (rows[2]["metric"] - rows[0]["metric"]) for rows in seeds]
    assert float(table[2]["accuracy_to_full_points"]) == pytest.approx(sum(points) / 2)
    assert {row["energy_by"] for row in seeds[0]} <= {"estimated", "rapl"}
    assert {row["energy_by"] for row in table[:-1]} == {row["energy_by"] for row in seeds[0]}
    for row in rows_of(out / "ablations.csv"):
        change = 100 * (float(row["accuracy_without"]) - float(row["accuracy_with"]))
        assert float(row["change_points"]) == pytest.approx(change, abs=1e-9)
    parts = [row["switched_off"] for row in rows_of(out / "ablations.csv")]
    assert parts == [
        "gates",
        "data-awareness",
        "allocation",
        "centring",
        "sketch size (to 1/8)",
        "events",
    ]
    before = {path: path.read_text() for path in out.glob("*.csv")}
    adlrns(*call, "--resume")  # everything is there: nothing is measured again
    assert {path: path.read_text() for path in out.glob("*.csv")} == before
    adlrns(*call[:-1], "--resume")  # what is there stays
    assert {path: path.read_text() for path in out.glob("*.csv")} == before
    assert "switched off in turn" in (out / "report.html").read_text()
    adlrns(*call[:3], out, "--seeds", "1", "--resume")
    assert (out / "ablations.csv").is_file()  # of both seeds, as the table is
    assert {row["seeds"] for row in rows_of(out / "table.csv")[:-1]} == {"2"}
    (out / "seed-1/ablations.json").unlink()
    adlrns(*call[:-1], "--resume")
    assert not (out / "ablations.csv").exists()


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_settled_rows_take_the_form_that_the_clock_says(
    adlrns, tmp_path: Path, fastest, form: str
) -> None:
    pytest.importorskip("sklearn")
    fastest(form)
    (tmp_path / "s.yaml").write_text(FAST)
    adlrns("experiment", tmp_path / "s.yaml", "--out", tmp_path / "result")
    table = {row["model"]: row for row in rows_of(tmp_path / "result/table.csv")}
    assert table["full rank"]["settled_layers"] == ""
    for name in ("static, plain SVD", "static, ours", "ADLRNS, settled"):
        # a layer at full rank is dense whatever the clock says
        assert table[name]["settled_layers"] in (f"3 {form}", f"2 {form}, 1 dense")
        share = float(table[name]["flops_to_full"])
        assert share == 1 if form == "dense" else share <= 0.5
    report = (tmp_path / "result/report.html").read_text()
    assert f"static, ours, 0.5: {table['static, ours']['settled_layers']}" in report


def cut_short(*_, **__):
    raise RunError("cut short")


def test_a_resumed_run_goes_on_though_another_form_is_the_fastest_by_then(
    adlrns, tmp_path: Path, fastest, monkeypatch
) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "s.yaml").write_text(FAST)
    tables = []
    for name in ("whole", "cut"):
        out = tmp_path / name
        call = ["experiment", tmp_path / "s.yaml", "--out", out]
        fastest("identity")
        if name == "cut":
            with monkeypatch.context() as patch:
                patch.setattr("adlrns._experiment.measured", cut_short)
                assert adlrns.error(*call, code=1) == "cut short"
            fastest("factored")
            call.append("--resume")
        adlrns(*call)
        tables.append(rows_of(out / "table.csv"))
    for whole, cut in zip(*tables, strict=True):
        assert whole["accuracy"] == cut["accuracy"]
        assert whole["settled_layers"].replace("identity", "factored") == cut["settled_layers"]


def test_what_has_no_effect_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: {type: adlrns_mlp, r_max: 9, gate: block}\n"
        "train: {energy_penalty_weight: 0.01, lr: 1e-4}\n"
        "scheduler: {type: complexity, alpha: 2}\nhardware: {gpu_type: V100}\n"
    )
    config = read_config(path)
    assert unused(config) == [
        "model.r_max",
        "model.gate",
        "train.energy_penalty_weight",
        "scheduler.type",
        "scheduler.alpha",
    ]
    assert "scheduler.alpha" in note(config)
    path.write_text(SMALL)
    assert note(read_config(path)) is None
    path.write_text(read_config(path).to_yaml())  # filled in
    assert note(read_config(path)) is None


def test_hardware_names_whose_joules_are_estimated(net, batches, monkeypatch) -> None:
    def none():
        raise MeterError("made to fail")

    monkeypatch.setattr("adlrns._energy.RaplMeter", none)
    x = batches[0]
    task = Task(tensors(x, x), tensors(x, torch.zeros(40).long()), "classification", {}, "accuracy")
    silent = {"size": 8, "rounds": 2, "advance": lambda done, total: None}
    (row,) = measured([Candidate("x", None, net)], task, **silent, hardware=PROFILES["v100"])
    assert "50 W over the measured time, all three by the profile 'v100'" in row["energy_note"]


def test_text_without_classes_gets_one_rank_for_all(adlrns, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "model: {type: adlrns_transformer, width: 16, depth: 1, heads: 2}\n"
        "train: {epochs: 1}\ndata: {length: 16}\n"
        "run: {tune_epochs: 0, rounds: 1, batch: 4, sketch_size: 8}\n"
    )
    (tmp_path / "book.txt").write_text("to be or not to be " * 100)
    out = tmp_path / "result"
    adlrns("experiment", tmp_path / "s.yaml", "--data", tmp_path / "book.txt", "--out", out)
    table = rows_of(out / "table.csv")
    assert [row["model"] for row in table[-2:]] == ["ADLRNS, settled", "ADLRNS"]
    assert float(table[0]["perplexity"]) > 1


def test_the_parts_of_a_division_share_nothing() -> None:
    x = torch.arange(50.0)
    task = Task(tensors(x, x), tensors(x, x), "classification", {}, "accuracy")
    parts = divide(task, 0.2)
    held, kept = (
        {int(part[i][0]) for i in range(len(part))} for part in (parts.held, parts.task.train)
    )
    assert (len(held), len(kept)) == (10, 40)
    assert not held & kept


def test_factors_for_exact_moments_are_as_good_as_the_models_packages(net, batches) -> None:
    elastic = make_elastic(net, batches, sketch_size=512)
    names = list(elastic.profiles)
    exact = sketches_of(net, names, batches, size=512, center=True)
    mine = refactored(net, elastic.profiles, exact)
    x = batches[0]
    assert torch.allclose(mine(x), net(x), atol=1e-4)
    for name, profile in mine.profiles.items():
        assert len(profile.loss) == profile.size.max_rank + 1
        assert profile.loss[-1] == pytest.approx(0, abs=1e-6)
        # the truth, from all rows that the layer gets
        rank = profile.size.max_rank // 2
        mine.set_ranks({**mine.ranks(), name: rank})
        layer, plain = mine.network.get_submodule(name), net.get_submodule(name)
        rows = _inputs(net, name, batches)
        with torch.no_grad():
            error = (layer(rows) - plain(rows)).double().square().sum() / 120
        assert float(error) == pytest.approx(profile.loss[rank], rel=1e-3)
        mine.set_ranks({**mine.ranks(), name: profile.size.max_rank})


def _inputs(net: nn.Module, name: str, batches: list[torch.Tensor]) -> torch.Tensor:
    seen = []
    handle = net.get_submodule(name).register_forward_pre_hook(
        lambda layer, args: seen.append(args[0])
    )
    with torch.no_grad():
        for x in batches:
            net(x)
    handle.remove()
    return torch.cat(seen)


def test_without_sketches_factors_are_those_of_plain_svd(net, batches) -> None:
    elastic = make_elastic(net, batches)
    plain = refactored(net, elastic.profiles, dict.fromkeys(elastic.profiles))
    plain.set_ranks({"3": 7})
    weight = net[3].weight.detach().double()
    U, S, Vt = torch.linalg.svd(weight, full_matrices=False)
    best = (U[:, :7] * S[:7]) @ Vt[:7]
    assert torch.allclose(plain.layers()["3"].effective_weight(7)[0].double(), best, atol=1e-5)
    assert plain.profiles["3"].loss[7] == pytest.approx(float(S[7:].square().sum()), rel=1e-5)


def test_even_allocation_gives_every_layer_the_same_share(batches) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 50))
    even = evenly(make_elastic(wide, batches))
    even.set_budget(flops=0.5)
    for name, rank in even.ranks().items():
        m, n, _ = even.profiles[name].size
        assert rank * (m + n) / (m * n) == pytest.approx(0.5, abs=0.12)


def test_weights_served_are_those_of_the_forms_that_hold_them(net, batches) -> None:
    elastic = make_elastic(net, batches)
    low, high = (elastic.set_budget(flops=share) for share in (0.3, 0.5))
    candidate = Candidate("x", 0.5, elastic, elastic, [low, high])
    elastic.set_ranks({name: max(low.ranks[name], high.ranks[name]) for name in low.ranks})
    if all(rank <= elastic.layers()[n].break_even for n, rank in elastic.ranks().items()):
        assert served_bytes(candidate) == weight_bytes(materialize_model(elastic, "factored"))
    assert served_bytes(Candidate("x", None, net)) == weight_bytes(net)
    layer = elastic.layers()["3"]
    full = layer.max_rank
    assert weights_at(layer, [full]) == 64 * 20
    assert weights_at(layer, [2, 5]) == 5 * 84
    assert weights_at(layer, [2, full]) == 64 * 20 + 2 * 84


def test_models_take_turns_on_every_input() -> None:
    seen: list[tuple[str, int]] = []

    class Spy(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((self.name, int(x)))
            return x

    inputs = [torch.tensor(i) for i in range(3)]
    spies = {name: Spy(name) for name in "ab"}
    times = interleaved(spies, inputs, rounds=4, advance=lambda done, total: None)
    assert seen[2:] == [(name, i % 3) for i in range(4) for name in "ab"]
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4}


def test_estimated_energy_follows_the_time_that_was_measured(net, batches, monkeypatch) -> None:
    def none():
        raise MeterError("made to fail")

    monkeypatch.setattr("adlrns._energy.RaplMeter", none)
    reader, inputs = EnergyReader(), [batches[0], batches[1][:10]]
    idle = reader.hardware.idle_power_w
    quick = _energy(reader, net, inputs, [0.0] * 4)
    slow = _energy(reader, net, inputs, [0.2, 0.1, 0.2, 0.1])  # in turn: one of 40, one of 10
    assert slow - quick == pytest.approx(idle * (0.2 / 40 + 0.1 / 10) / 2)
    assert _energy(reader, net, inputs, [0.2]) > idle * 0.2 / 40  # fewer rounds than inputs


def test_a_stream_drifts_less_than_a_pixel_a_frame() -> None:
    x = torch.zeros(1, 1, 1, 40)
    x[..., 5] = 1
    found = list(frames(x))
    centres = [float((frame[0, 0, 0] * torch.arange(40)).sum()) for frame in found]
    steps = [b - a for a, b in itertools.pairwise(centres)]
    assert len(found) == FRAMES
    assert steps == pytest.approx([4 / FRAMES] * (FRAMES - 1), abs=1e-4)


def test_layers_with_events_skip_what_stands_still(monkeypatch) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 1, 4, 4)
    y = plain(x).argmax(-1)
    monkeypatch.setattr("adlrns._ablate_events.frames", lambda x: iter([x] * 6))
    accuracy, flops = counted(plain, x, y)
    kept, spent = counted(eventful(plain, x), x, y)
    assert (accuracy, kept) == (1.0, 1.0)
    assert spent == pytest.approx(flops / 6)  # the first frame alone


def test_thresholds_ask_for_classes(net, batches) -> None:
    task = Task(
        tensors(batches[0], batches[0]),
        tensors(batches[0], batches[0]),
        "language",
        {},
        "perplexity",
    )
    assert nets.per_input(make_elastic(net, batches), divide(task, 0.5)) is None


def test_a_cascade_keeps_to_the_weights_it_may_hold(batches) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 50)).eval()
    x = torch.cat(batches)
    task = Task(tensors(x, wide(x).argmax(1)), tensors(x, x), "classification", {}, "accuracy")
    cascade = nets.per_input(make_elastic(wide, batches), divide(task, 0.9))
    assert cascade is not None
    light = nets._light(cascade, 0.5)
    full = cascade.elastic.full_cost("parameters")
    layers = cascade.elastic.layers()
    assert 0 < len(light.rules) < len(cascade.rules)
    assert all(nets._needed(light, rule, layers) <= 0.5 * full for rule in light.rules)
    assert light.set_budget(flops=0.9).first < len(light.points)
    with pytest.raises(UseError, match=r"run\.weights must leave a rule to choose, got 0\.001"):
        nets._light(cascade, 0.001)
