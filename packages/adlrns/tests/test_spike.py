import csv
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adlrns import _manifest, _spike
from adlrns._datasets import names
from adlrns._spike_checkpoint import restore
from adlrns._spike_data import open_material
from adlrns._spike_look import IMAGES, OTHERS
from adlrns._spike_net import build, encode
from adlrns._spike_settings import Settings
from adlrns._spike_sounds import mel_bands, read_wav, spectrogram
from spike_ops.events import Events, write_events

FILES = {
    "checkpoint.safetensors", "history.csv", "network.safetensors", "report.html", "result.json",
}  # fmt: skip
QUICK = ("--hidden", "12", "--steps", "4", "--epochs", "4", "--limit", "200", "--threads", "1")
RATE = 8000


def settings(data: Path | str, **options: Any) -> Settings:
    plain = {
        "out": Path("o"), "net": "mlp", "hidden": (12,), "steps": 4, "encoding": "direct",
        "tau": 2.0, "reset": "hard", "size": 32, "bands": 12, "limit": None, "epochs": 1,
        "lr": 1e-2, "batch_size": 8, "seed": 0, "device": "cpu", "resume": False, "json": False,
        "command": "",
    }  # fmt: skip
    return Settings(data=str(data), **{**plain, **options})


def lines(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def write_wav(path: Path, samples: np.ndarray, *, width: int = 2, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scaled = {
        1: lambda x: (x * 127 + 128).astype("u1"),
        2: lambda x: (x * 32767).astype("<i2"),
        4: lambda x: (x * (2**31 - 1)).astype("<i4"),
    }[width](samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(scaled.tobytes())


def tone(pitch: float, seconds: float = 0.25) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(RATE * seconds)) / RATE)


@pytest.fixture
def sounds(place: Path) -> Path:
    noise = np.random.default_rng(0)
    for number in range(12):
        for name, pitch in (("low", 300), ("high", 2500)):
            heard = tone(pitch + 20 * number) + 0.02 * noise.standard_normal(RATE // 4)
            write_wav(place / "sounds" / name / f"{number}.wav", heard)
    return place / "sounds"


def write_recording(path: Path, *, left: bool, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    x = draws.integers(0, 8, 60) + (0 if left else 20)
    y, t = draws.integers(0, 34, 60), np.sort(draws.integers(0, 10_000, 60))
    write_events(Events(x, y, t, draws.integers(0, 2, 60), width=34, height=34), path)


@pytest.fixture
def recordings(place: Path) -> Path:
    for part, count in (("Train", 12), ("Test", 4)):
        for seed in range(count):
            for name in ("left", "right"):
                file = place / "camera" / part / name / f"{seed}.bin"
                write_recording(file, left=name == "left", seed=seed + 100 * len(part))
    return place / "camera"


@pytest.fixture
def digits() -> None:
    pytest.importorskip("sklearn")


@pytest.mark.usefixtures("digits", "place")
def test_a_run_on_images_learns_and_leaves_its_files(adlrns) -> None:
    options = (*QUICK, "--hidden", "32", "--epochs", "12", "--lr", "5e-3", "--out", "o", "--json")
    told = lines(adlrns("spike", "digits", *options))
    assert [each["record"] for each in told] == [*["epoch"] * 12, "result"]
    result = json.loads(Path("o/result.json").read_text())
    assert told[-1].items() >= {k: v for k, v in result.items() if k != "classes"}.items()
    assert result["accuracy"] > 0.5
    assert {p.name for p in Path("o").iterdir()} - {"network.nir"} == FILES
    history = list(csv.DictReader(Path("o/history.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in history] == [e["accuracy"] for e in told[:-1]]


@pytest.mark.usefixtures("digits", "place")
def test_numbers_of_a_result_are_those_of_the_network(adlrns) -> None:
    told = lines(adlrns("spike", "digits", *QUICK, "--out", "o", "--json"))[-1]
    asked = settings("digits", limit=200)
    material = open_material(asked)
    net = build(asked, material)
    net.load_state_dict(load_file("o/network.safetensors"))
    x, y = (torch.stack([torch.as_tensor(item[i]) for item in material.valid]) for i in (0, 1))
    inputs = encode(asked, material, x)
    with torch.no_grad():
        spikes = net[:3](inputs).to_dense()
        scores = net(inputs).mean(0)
    assert told["accuracy"] == float((scores.argmax(1) == y).double().mean())
    assert told["rate.lif1"] == pytest.approx(float(spikes.double().mean()))
    assert told["acs"] == pytest.approx(float(spikes.double().sum()) * 10 / len(y))
    assert told["macs"] == pytest.approx(float((inputs != 0).sum()) * 12 / len(y))
    assert told["synops"] == pytest.approx(told["acs"] + told["macs"])
    assert told["dense_macs"] == 4 * (64 * 12 + 12 * 10)
    # 45 nm, float32: an addition 0.9 pJ, a MAC 4.6 pJ; 5 pJ a word from memory
    wanted = told["acs"] * (0.9 + 5) + told["macs"] * (4.6 + 10)
    assert told["estimated_J.45nm-float32"] == pytest.approx(wanted * 1e-12)


@pytest.mark.usefixtures("digits", "place")
def test_the_page_needs_nothing_else_and_calls_estimates_so(adlrns) -> None:
    out = adlrns("spike", "digits", *QUICK, "--out", "o").stdout
    page = Path("o/report.html").read_text()
    assert not re.search(r"<script|https?://|src=", page)
    assert "Energy of a sample (estimates)" in page
    assert "an estimate from counted operations, not a measurement" in page
    said = " ".join(out.split())
    assert "an estimate from counted operations" in said
    for told in (
        "45nm-float32 to 45nm-int8-sum32: every operation reads its weight",
        "45nm-int8: sums of 8 bits, which overflow in practice",
        "Loihi to SENECA: the published figure holds for this network",
    ):
        assert told in page
        assert told in said
    assert f"report: {Path('o/report.html').resolve()}" in out


@pytest.mark.parametrize("encoding", ["rate", "latency"])
@pytest.mark.usefixtures("digits", "place")
def test_coded_images_go_in_as_spikes(adlrns, encoding) -> None:
    told = lines(adlrns("spike", "digits", *QUICK, "--encoding", encoding, "--json"))
    assert told[-1]["macs"] == 0
    assert told[-1]["acs"] > 0


@pytest.mark.usefixtures("digits", "place")
def test_convolutions_run(adlrns) -> None:
    options = ("--net", "conv", "--hidden", "4,6", "--lr", "1e-2", "--reset", "soft", "--json")
    told = lines(adlrns("spike", "digits", *QUICK[2:], *options))
    assert {"rate.lif1", "rate.lif2"} <= told[-1].keys()
    assert told[-1]["dense_macs"] == 4 * (16 * 4 * 9 + 4 * 6 * 4 * 9 + 24 * 10) - _borders()


def _borders() -> int:
    """Products that fall outside of 8 x 8 and 4 x 4 pixels, with a border of one on one side."""
    inside = {size: sum(3 - (place == 0) for place in range(size // 2)) for size in (8, 4)}
    first, second = (9 * (size // 2) ** 2 - inside[size] ** 2 for size in (8, 4))
    return 4 * (4 * first + 4 * 6 * second)


def test_sounds_are_told_apart(adlrns, sounds: Path) -> None:
    options = ("--hidden", "16", "--steps", "6", "--epochs", "8", "--lr", "1e-2", "--json")
    told = lines(adlrns("spike", sounds, *options, "--bands", "12", "--batch-size", "8"))
    assert told[-1]["accuracy"] == 1.0
    assert json.loads(Path("spiking/result.json").read_text())["classes"] == ["high", "low"]


def test_recordings_named_by_their_class_need_no_folders(place: Path) -> None:
    for name in ("a_1", "a_2", "b_1", "b_2"):
        write_wav(place / "flat" / f"{name}.wav", tone(400))
    material = open_material(settings(place / "flat"))
    assert material.classes == ("a", "b")
    assert len(material.train) + len(material.valid) == 4
    assert material.train[0][0].shape == (4, 12)


def test_events_are_told_apart_by_additions_alone(adlrns, recordings: Path) -> None:
    options = ("--hidden", "16", "--steps", "3", "--epochs", "6", "--lr", "1e-2", "--json")
    told = lines(adlrns("spike", recordings, *options, "--batch-size", "8"))
    assert told[-1]["accuracy"] == 1.0
    assert told[-1]["macs"] == 0


def test_a_folder_for_testing_is_never_trained_on(recordings: Path) -> None:
    material = open_material(settings(recordings))
    assert (len(material.train), len(material.valid)) == (24, 8)
    for file in sorted((recordings / "Test").glob("*/*")):
        file.unlink()
    (recordings / "Test" / "left").rmdir(), (recordings / "Test" / "right").rmdir()
    (recordings / "Test").rmdir()
    alone = open_material(settings(recordings))
    assert (len(alone.train), len(alone.valid)) == (19, 5)


def test_the_loudest_band_of_a_tone_is_its_own() -> None:
    bands = 20
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    for pitch in (200.0, 700.0, 1500.0, 3000.0):
        heard = spectrogram(torch.from_numpy(tone(pitch)).float(), RATE, steps=5, bands=bands)
        place = 2595 * math.log10(1 + pitch / 700) / top * (bands + 1) - 1
        assert abs(int(heard[2].argmax()) - place) <= 1
        assert heard.mean().abs() < 1e-5


def test_bands_cover_every_bin_between_the_first_and_the_last_once() -> None:
    total = mel_bands(10, 257, RATE).sum(0)
    centres = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 4000 / 700), 12) / 2595) - 1)
    places = torch.linspace(0, 4000, 257)
    inside = (places >= centres[1]) & (places <= centres[-2])
    assert torch.allclose(total[inside], torch.ones(int(inside.sum())), atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_of_all_widths_are_read(tmp_path: Path, width: int, channels: int) -> None:
    samples = np.repeat(tone(440), channels)
    write_wav(tmp_path / "a.wav", samples, width=width, channels=channels)
    read, rate = read_wav(tmp_path / "a.wav")
    assert rate == RATE
    wanted = torch.from_numpy(tone(440)).float()
    assert (read - wanted).abs().max() < (0.02 if width == 1 else 1e-4)


# going on


class CutShort:
    """Ctrl-C in the middle of some epoch."""

    def __init__(self, epoch: int, measured: Callable[..., float]):
        self.left, self.measured = epoch, measured

    def __call__(self, *args: Any) -> float:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return self.measured(*args)


@pytest.mark.usefixtures("digits", "place")
def test_a_run_that_goes_on_is_the_run_that_was_not_cut_short(adlrns, monkeypatch) -> None:
    adlrns("spike", "digits", *QUICK, "--encoding", "rate", "--out", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(_spike, "accuracy", CutShort(3, _spike.accuracy))
        cut = adlrns("spike", "digits", *QUICK, "--encoding", "rate", "--out", "cut", code=130)
    assert "holds the run as it was after epoch 2" in " ".join(cut.stderr.split())
    assert cut.stderr.strip().endswith("error: interrupted; --resume goes on")
    assert {p.name for p in Path("cut").iterdir()} == {"checkpoint.safetensors", "history.csv"}
    adlrns("spike", "digits", *QUICK, "--encoding", "rate", "--out", "cut", "--resume")
    one, other = (load_file(f"{name}/network.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert Path("cut/history.csv").read_text() == Path("whole/history.csv").read_text()


@pytest.mark.usefixtures("digits", "place")
def test_a_run_goes_on_only_as_it_was(adlrns) -> None:
    assert "got no folder o" in adlrns.error("spike", "digits", *QUICK, "--out", "o", "--resume")
    adlrns("spike", "digits", *QUICK, "--out", "o")
    said = adlrns.error("spike", "digits", *QUICK, "--tau", "3", "--out", "o", "--resume")
    assert "--resume must keep --tau, which was 2.0 in o, got 3.0" in said
    assert "--out must be new or empty" in adlrns.error("spike", "digits", *QUICK, "--out", "o")
    whole = Path("o/checkpoint.safetensors").read_bytes()
    Path("o/checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    said = adlrns.error("spike", "digits", *QUICK, "--out", "o", "--resume", code=1)
    assert "o/checkpoint.safetensors: not a readable checkpoint" in said
    Path("o/checkpoint.safetensors").unlink()
    said = adlrns.error("spike", "digits", *QUICK, "--out", "o", "--resume")
    assert "--resume needs an earlier run in --out, got o without checkpoint" in said


@pytest.mark.usefixtures("digits", "place")
def test_ctrl_c_before_anything_is_kept_promises_nothing(adlrns, monkeypatch) -> None:
    monkeypatch.setattr(_spike, "accuracy", CutShort(1, _spike.accuracy))
    said = adlrns.error("spike", "digits", *QUICK, "--out", "o", code=130)
    assert said.startswith("interrupted before the first epoch was whole")
    assert "--resume" not in said
    assert not list(Path("o").iterdir())


@pytest.mark.usefixtures("digits")
def test_ctrl_c_ends_between_steps_and_leaves_a_run_that_goes_on(place: Path) -> None:
    # in a shell's background Ctrl-C is ignored, and children inherit that
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = ("spike", "digits", *QUICK, "--epochs", "100000", "--out", "o")
    process = subprocess.Popen(
        [sys.executable, "-m", "adlrns", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, heard)
    while process.poll() is None and not (place / "o/history.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert told.strip().endswith("error: interrupted; --resume goes on")
    history = list(csv.DictReader((place / "o/history.csv").read_text().splitlines()))
    assert f"holds the run as it was after epoch {len(history)}" in " ".join(told.split())
    asked = settings("digits", limit=200, epochs=100_000, lr=2e-3, batch_size=64, bands=40)
    net = build(asked, open_material(asked))
    optimizer = torch.optim.Adam(net.parameters())
    assert len(restore(place / "o", net, optimizer, asked)) == len(history)


# the graph


@pytest.mark.usefixtures("digits", "place")
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_the_graph_is_the_network(adlrns, net: str) -> None:
    pytest.importorskip("nir")
    from spike_ops import nir

    adlrns("spike", "digits", *QUICK, "--net", net, "--encoding", "rate", "--out", "o")
    asked = settings("digits", net=net, encoding="rate", limit=200)
    material = open_material(asked)
    ours = build(asked, material)
    ours.load_state_dict(load_file("o/network.safetensors"))
    theirs = nir.from_nir("o/network.nir", dt=1e-3)
    x = torch.stack([item[0] for item in material.valid])
    inputs = encode(asked, material, x)
    with torch.no_grad():
        one, other = ours(inputs), _scores(theirs(inputs))
    assert float((one - other).abs().max()) < 1e-3


def _scores(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def test_without_the_library_the_run_is_whole_and_says_what_brings_it(
    adlrns, sounds: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    said = adlrns("spike", sounds, "--epochs", "1", "--hidden", "4", "--out", "o").stderr
    assert "no network.nir: it needs nir, which is not installed: pip install 'adlrns[nir]'" in said
    assert {p.name for p in Path("o").iterdir()} == FILES


# what cannot be


@pytest.mark.parametrize(
    "options, told",
    [
        (("--hidden", "a"), "--hidden must be whole numbers with commas, got 'a'"),
        (("--hidden", "0"), "--hidden must be at least 1 each, got '0'"),
        (("--lr", "nan"), "--lr must be finite and above 0, got nan"),
        (("--tau", "0.5"), "--tau must be finite and at least 1 step, got 0.5"),
        (("--encoding", "rate"), "--encoding rate is for images, got sounds"),
        (("--net", "conv"), "--net conv is for images and events, got steps of shape [40]"),
        (("--device", "nowhere"), "--device must be one that is here, got 'nowhere'"),
    ],
)
def test_options_that_do_not_fit_are_named(adlrns, sounds: Path, options, told: str) -> None:
    assert told in adlrns.error("spike", sounds, *options)
    assert not Path("spiking").exists()


def test_data_that_is_none_of_the_three_is_refused(adlrns, place: Path) -> None:
    assert "no such file or folder" in adlrns.error("spike", "nowhere")
    (place / "words.txt").write_text("one two three " * 500)
    assert "images, sounds or events, got a file" in adlrns.error("spike", "words.txt")
    said = adlrns.error("spike", "text:words.txt")
    assert said == "DATA text:words.txt must be images, sounds or events, got text"
    write_wav(place / "one" / "only" / "a.wav", tone(300))
    assert "must have at least 2 classes, got 'only'" in adlrns.error("spike", "one")


def test_a_folder_of_nothing_that_is_read_is_told_what_would_be(adlrns, place: Path) -> None:
    (place / "empty").mkdir()
    said = adlrns.error("spike", "empty")
    for kind in ("train/CLASS", "idx files", "wav files", "event files", "digits, mnist:PATH"):
        assert kind in said
    assert said.endswith("got an empty folder")
    (place / "empty" / "notes.odt").touch()
    assert adlrns.error("spike", "empty").endswith("got 'notes.odt'")
    assert "glue" not in said + adlrns.error("spike", "nowhere")
    assert adlrns.error("spike", "mnist") == "DATA mnist needs a path: mnist:PATH"
    assert "DATA mnist:nowhere: no such file" in adlrns.error("spike", "mnist:nowhere")


def test_data_are_refused_before_anything_slow_is_imported(place: Path) -> None:
    (place / "empty").mkdir()
    script = (
        "import sys; from adlrns._cli import app\n"
        "try: app(['spike', 'empty', '--threads', '1'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["2", "False"], done.stderr


@pytest.mark.parametrize("most, sizes", [(None, (19, 5)), (4, (4, 4)), (10, (10, 5))])
@pytest.mark.parametrize("kind", ["sounds", "one folder of events", "Train and Test"])
def test_a_limit_is_of_each_part_of_all_data(
    kind, most, sizes, sounds: Path, recordings: Path
) -> None:
    data = {"sounds": sounds, "one folder of events": recordings / "Train"}.get(kind, recordings)
    whole, material = (open_material(settings(data, limit=each)) for each in (None, most))
    if kind == "Train and Test":
        sizes = tuple(min(most or 24, count) for count in (24, 8))
    assert material.sizes == sizes
    for ours, theirs in zip(
        (material.train, material.valid), (whole.train, whole.valid), strict=True
    ):
        there = [x for x, _ in theirs]
        assert all(any(torch.equal(x, other) for other in there) for x, _ in ours)
    seen = [x for x, _ in whole.train]
    assert not any(torch.equal(x, other) for x, _ in whole.valid for other in seen)


def test_every_data_set_is_either_read_or_refused_by_its_name() -> None:
    assert sorted((*IMAGES, *OTHERS)) == sorted(names())


@pytest.mark.usefixtures("digits")
def test_an_option_of_other_data_is_refused(adlrns, sounds: Path) -> None:
    said = adlrns.error("spike", "digits", "--bands", "40")
    assert said == "--bands is for sounds, got images"
    said = adlrns.error("spike", "digits", "--size", "16")
    assert said == "--size is for folders of pictures, got digits"
    assert "--size is for folders of pictures, got" in adlrns.error("spike", sounds, "--size", "16")


def test_a_report_lists_what_applied_and_says_what_a_guess_is_right_in(
    adlrns, sounds: Path
) -> None:
    options = ("--epochs", "1", "--hidden", "4", "--bands", "12", "--out", "o")
    told = adlrns("spike", sounds, *options).stdout
    page = Path("o/report.html").read_text()
    for name in ("encoding", "size", "limit"):
        assert not re.search(rf">{name}<", page)
    assert re.search(r">bands<", page)
    for text in (page, " ".join(told.split())):
        assert "items: 19 to train on, 5 of the validation part" in text
        assert "a guess among 2 classes has 0.5000" in text
    result = json.loads(Path("o/result.json").read_text())
    assert (result["training_items"], result["validation_items"]) == (19, 5)
    assert result["chance"] == 0.5


def test_versions_are_those_of_all_packages_that_are_there(monkeypatch) -> None:
    found = _manifest.versions()
    assert {"adlrns", "layer-importance", "neuro-morph", "spike-ops", "torch"} <= found.keys()
    monkeypatch.setattr(_manifest, "_PACKAGES", ("torch", "a-package-of-nobody"))
    assert list(_manifest.versions()) == ["torch"]


def test_damaged_files_are_named(adlrns, sounds: Path, recordings: Path) -> None:
    bad = sounds / "low" / "0.wav"
    bad.write_bytes(bad.read_bytes()[:500])
    assert f"{bad}: must hold 2000 frames" in adlrns.error("spike", sounds)
    bad.write_bytes(b"RIFF")
    assert f"{bad}: not a readable wav file: it ends early" in adlrns.error("spike", sounds)
    bad = recordings / "Train" / "left" / "3.bin"
    bad.write_bytes(bad.read_bytes()[:-2])
    assert str(bad) in adlrns.error("spike", recordings, "--epochs", "1")
    for file in (recordings / "Test").glob("*/*"):
        file.unlink()
    assert "Test must have sub-folders with files of" in adlrns.error("spike", recordings)


# conversion

NETS = """
import torch
from torch import nn

from adlrns.demo import digits


def trained():
    torch.manual_seed(0)
    data = digits()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x, y = torch.as_tensor(data.train_x), torch.as_tensor(data.train_y)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def odd():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))


def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5))


def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))


def straight():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def pair():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)), x

    return Two(64, 10)


def stopped():
    raise KeyboardInterrupt
"""


@pytest.fixture
def nets(place: Path, digits: None) -> Path:
    (place / "spiking_nets.py").write_text(NETS)
    return place


def test_a_converted_network_comes_back_to_what_it_was(adlrns, nets: Path) -> None:
    options = ("--convert", "spiking_nets:trained", "--steps", "64", "--out", "o")
    told = lines(adlrns("spike", "digits", *options, "--json"))
    assert [row["steps"] for row in told] == [1, 2, 4, 8, 16, 32, 64]
    assert told[-1]["original_accuracy"] > 0.9
    assert abs(told[-1]["accuracy"] - told[-1]["original_accuracy"]) <= 0.02
    assert told[-1]["error"] < told[2]["error"] / 3
    assert told[-1]["agreement"] > 0.97
    files = {"converted.safetensors", "table.csv", "result.json", "report.html"}
    assert {p.name for p in (nets / "o").iterdir()} == files
    rows = list(csv.DictReader((nets / "o/table.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in told]
    report = (nets / "o/report.html").read_text()
    assert not re.search(r"<script|https?://|src=", report)
    assert "Energy of a sample (estimates)" in report
    result = json.loads((nets / "o/result.json").read_text())
    assert result["acs"] + result["macs"] == pytest.approx(result["synops"]) == told[-1]["synops"]
    assert result["estimated_J.Loihi"] == pytest.approx(result["synops"] * 23.6e-12)


def test_synaptic_operations_of_a_conversion_are_its_spikes(adlrns, nets: Path) -> None:
    options = ("--convert", "spiking_nets:trained", "--steps", "4")
    told = lines(adlrns("spike", "digits", *options, "--json"))[-1]
    material = open_material(settings("digits"))
    pixels = sum(int((x != 0).sum()) for x, _ in material.valid) / len(material.valid)
    wanted = 4 * pixels * 32 + 4 * 32 * told["rate"] * 10
    assert told["synops"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.usefixtures("digits", "place")
def test_a_run_with_built_kernels_learns_the_same(adlrns) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    quick = (*QUICK, "--epochs", "1")
    plain = lines(adlrns("spike", "digits", *quick, "--out", "o", "--json"))[-1]
    # kernels stay for the life of a process
    command = [sys.executable, "-m", "adlrns", "spike", "digits", *quick, "--compile", "--json"]
    done = subprocess.run([*command, "--out", "p"], capture_output=True, text=True, check=True)
    built = lines(done)[-1]
    assert built["accuracy"] == pytest.approx(plain["accuracy"], abs=0.1)
    assert built["synops"] == pytest.approx(plain["synops"], rel=0.1)
    said = adlrns.error("spike", "digits", *quick, "--out", "p", "--resume")
    assert "--resume must keep --compile, which was True" in said


def test_what_cannot_be_converted_is_named(adlrns, nets: Path, sounds: Path) -> None:
    said = adlrns.error("spike", "digits", "--convert", "spiking_nets:odd")
    assert "--convert spiking_nets:odd" in said
    assert "Softmax" in said
    said = adlrns.error("spike", "digits", "--convert", "spiking_nets:straight")
    assert "--convert spiking_nets:straight" in said
    assert "must have activations to convert" in said
    said = adlrns.error("spike", "digits", "--convert", "spiking_nets:trained", "--lr", "1e-3")
    assert "--lr is for training, got it beside --convert" in said
    said = adlrns.error("spike", "digits", "--convert", "spiking_nets:trained", "--compile")
    assert "--compile is for training" in said
    said = adlrns.error("spike", sounds, "--convert", "spiking_nets:trained")
    assert "--convert is for networks of images, got sounds" in said
    assert "a current that stays" in said
    assert not (nets / "spiking").exists()


@pytest.mark.parametrize(
    "name, told",
    [
        ("five", ["must give 10 outputs, one a class of digits, got 5"]),
        ("pair", ["must give 10 outputs", "got tuple"]),
        ("large", ["must take the images of digits, 1 x 8 x 8 (channels", "2x64 and 784x8"]),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_refused(
    adlrns, nets: Path, name: str, told: list[str]
) -> None:
    said = adlrns.error("spike", "digits", "--convert", f"spiking_nets:{name}")
    assert all(each in said for each in (f"--convert spiking_nets:{name} ", *told)), said
    assert "While executing" not in said
    assert not (nets / "spiking").exists()


@pytest.mark.usefixtures("nets")
def test_an_interrupted_conversion_is_not_said_to_go_on(adlrns) -> None:
    said = adlrns.error("spike", "digits", "--convert", "spiking_nets:stopped", code=130)
    assert said == "interrupted"
