from pathlib import Path

import pytest
import yaml

from adlrns._config_file import Config, read_config
from adlrns._errors import UseError

GOOD = "model: {type: adlrns_mlp}\n"


def read(folder: Path, text: str) -> Config:
    (folder / "exp.yaml").write_text(text)
    return read_config(folder / "exp.yaml")


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(UseError) as caught:
        read(folder, text)
    return str(caught.value).replace(f"{folder}/", "").split("; exp.yaml:")


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("model:\n  type: mlp\n", 2, "model.type must be 'adlrns_mlp', 'adlrns_resnet',"),
        (GOOD + "train:\n  lr: -1\n", 3, "train.lr must be finite and positive, got -1"),
        (GOOD + "train:\n  lr: '1e-4x'\n", 3, "train.lr must be a number, got '1e-4x'"),
        (GOOD + "train:\n  epochs: yes\n", 3, "train.epochs must be a number, got True"),
        (GOOD + "train:\n  lrr: 1\n", 3, "unknown key train.lrr: did you mean lr?"),
        (GOOD + "tran: {}\n", 2, "unknown key tran: did you mean train?"),
        (GOOD + "train:\n  lr: 1\n\n  lr: 2\n", 5, "train.lr must be given once, got it on line 3"),
        ("model:\n\ttype: adlrns_mlp\n", 2, "lines must be indented with spaces, got a tab"),
        ("- model\n", 1, "the file must be keys with values, got a list"),
        (GOOD + "train: 3\n", 2, "train must be keys with values, got 3"),
        (GOOD + "train: [3]\n", 2, "train must be keys with values, got [3]"),
        ("", 1, "model must be given"),
        ("model: {}\n", 1, "model.type must be given"),
        ("model: {type: !!python/name:os.system }\n", 1, "model.type must be a number, a word"),
        ("model: &a {type: adlrns_mlp}\ntrain: *a\n", 2, "values must be written out, got *a"),
        ("model: {type: adlrns_mlp\n", 2, "not readable YAML: "),
        ("model:\n  type: adlrns_mlp\n  width: 8\n", 3, "model.width is no option of adlrns_mlp"),
        ("model:\n  type: adlrns_mlp\n  r_max: 2\n  r_min: 4\n", 3, "model.r_max must be at least"),
        (GOOD + "scheduler:\n  type: energy_aware\n", 3, "scheduler.energy_budget_mJ_per_sample"),
        (GOOD + "hardware:\n  gpu_type: K9\n", 3, "hardware.gpu_type must be one of v100, "),
        (GOOD + "hardware:\n  flops_per_mac: 3\n", 3, "hardware.flops_per_mac must be 2"),
        (GOOD + "hardware:\n  energy_per_flop: 5\n", 3, "is the unit right?"),
        (GOOD + "data:\n  name: nmist\n", 3, "data.name must be one of digits, mnist,"),
        (GOOD + "data:\n  limit: 0\n", 3, "data.limit must be greater than or equal to 1, got 0"),
        (GOOD + "run:\n  seeds: [1, 1]\n", 3, "run.seeds must differ, got [1, 1]"),
        (GOOD + "run:\n  seeds:\n  - 1\n  - a\n", 3, "run.seeds must be a valid integer, got 'a'"),
        (GOOD + "train:\n  seed: 3\n", 3, "train.seed must be said as run.seeds"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(f"exp.yaml:{line}: ")
    assert message in found[0]


def test_all_mistakes_are_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "train:\n  lr: x\n  wat: 1\nmodel:\n  type: adlrns_mlp\n  r_max: big\n"
    found = problems(tmp_path, text)
    assert [part.split(":")[0] for part in ("exp.yaml:" + f for f in found)][1:] == ["exp.yaml"] * 2
    assert "train.lr" in found[0]
    assert "train.wat" in found[1]
    assert "model.r_max" in found[2]


def test_mistakes_between_keys_are_told_with_those_of_single_ones(tmp_path: Path) -> None:
    text = (
        "model:\n  type: adlrns_mlp\n  r_min: 9\n  r_max: 3\n  widht: 2\n"
        "train:\n  lr: -1\n  seed: 3\n"
        "scheduler:\n  type: energy_aware\n  energy_budget_mJ_per_sample: none\n"
        "hardware:\n  gpu_type: V1000\n  memory_bandwidth: 900\n  idle_power_w: -3\n"
        "run:\n  seeds: [1, 1]\n  device: gpu\n"
    )
    found = problems(tmp_path, text)
    expected = [
        "model.r_max must be at least 9, got 3",
        "unknown key model.widht",
        "train.lr must be finite and positive",
        "train.seed must be said as run.seeds",
        "scheduler.energy_budget_mJ_per_sample must be a valid number, got 'none'",
        "hardware.gpu_type must be one of v100",
        "hardware.memory_bandwidth must be in",
        "hardware.idle_power_w must be in",
        "run.seeds must differ, got [1, 1]",
        "run.device must be auto, or a name that torch knows, such as cpu or cuda:0, got 'gpu'",
    ]
    assert len(found) == len(expected), found
    for told, rule in zip(found, expected, strict=True):
        assert rule in told
    lines = [int(part.split(":")[0]) for part in [found[0].split(":", 1)[1], *found[1:]]]
    assert lines == [4, 5, 7, 8, 11, 13, 14, 15, 17, 18]


def test_a_wrong_type_of_net_hides_no_other_mistake(tmp_path: Path) -> None:
    found = problems(tmp_path, "model: {type: mlp, r_min: 9, r_max: 3}\nrun: {seeds: [1, 1]}\n")
    rules = ("model.r_max must be at least 9", "model.type must be", "run.seeds must differ")
    assert len(found) == 3
    assert all(rule in told for rule, told in zip(rules, found, strict=True))


@pytest.mark.parametrize("name", ["energy_budget_mJ_per_sample", "energy_budget_mj_per_sample"])
def test_both_spellings_of_the_budget_are_read(tmp_path: Path, name: str) -> None:
    config = read(tmp_path, f"{GOOD}scheduler: {{type: energy_aware, {name}: 4}}\n")
    assert config.training(0).energy_budget_mj_per_sample == 4.0
    assert read(tmp_path, config.to_yaml()) == config
    both = f"{GOOD}scheduler: {{energy_budget_mJ_per_sample: 4, energy_budget_mj_per_sample: 5}}\n"
    assert "energy_budget_mj_per_sample" in problems(tmp_path, both)[0]


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4"])
def test_every_spelling_of_a_number_is_one(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"{GOOD}train: {{lr: {text}}}\n").training(0).lr == 1e-4


def test_energy_without_a_unit_is_microjoules_and_said_so(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD + "hardware: {gpu_type: V100, energy_per_flop: 1e-6}\n")
    hardware = config.hardware.estimator().hardware
    assert hardware.energy_per_flop_j == pytest.approx(1e-12)
    assert hardware.peak_flops_per_s == 15.7e12
    assert config.notes() == [
        "hardware.energy_per_flop has no unit, 1e-06 is read as microjoules: 1e-12 J"
    ]
    assert read(tmp_path, GOOD).notes() == []


def test_what_is_filled_in_reads_back_as_the_same(tmp_path: Path) -> None:
    first = read(tmp_path, GOOD + "train: {clip_norm: null, lr: 1e-4}\nrun: {seeds: [3]}\n")
    again = read(tmp_path, first.to_yaml())
    assert again == first
    assert again.training(3).clip_norm is None
    assert yaml.safe_load(first.to_yaml())["train"]["optimizer"] == "adamw"


def test_training_follows_seed_and_scheduler(tmp_path: Path) -> None:
    section = "scheduler: {alpha: 2, beta: 3, energy_budget_mJ_per_sample: 4}\n"
    found = read(tmp_path, GOOD + section).training(7, epochs=2)
    assert (found.seed, found.alpha, found.beta) == (7, 2.0, 3.0)
    assert (found.energy_budget_mj_per_sample, found.epochs) == (4.0, 2)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UseError, match=r"none\.yaml: No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UseError, match=r"b\.yaml: not UTF-8 text"):
        read_config(tmp_path / "b.yaml")
