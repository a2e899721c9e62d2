"""The whole of `adlrns spike`."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import spike_ops.neuron
from adlrns._beside import naming
from adlrns._console import remark, show, stage
from adlrns._errors import MissingExtraError, UseError, from_user, need
from adlrns._grow import check_out
from adlrns._grow_stop import Interrupts
from adlrns._grow_work import to_csv
from adlrns._nets import device_of
from adlrns._run_folder import write_text
from adlrns._spike_checkpoint import restore, save
from adlrns._spike_data import Material, open_material
from adlrns._spike_lines import Lines
from adlrns._spike_measure import Measured, measure
from adlrns._spike_net import build
from adlrns._spike_report import energy_estimates, layer_table, result_table, write_report
from adlrns._spike_settings import CHECKPOINT, Settings
from adlrns._spike_train import Row, Training, accuracy

PAGE, HISTORY, RESULT = "report.html", "history.csv", "result.json"
WEIGHTS, GRAPH = "network.safetensors", "network.nir"
# of a step where nothing else is known; time constants in a graph are seconds
_DT = 1e-3


def run(settings: Settings) -> None:
    """Trains, prints what came of it, and writes the folder."""
    check_settings(settings)
    lines = Lines(settings)
    device = device_of(settings.device)
    with stage(f"open {settings.data}"):
        material = open_material(settings)
    if material.kind != "images" and settings.encoding != "direct":
        raise UseError(f"--encoding {settings.encoding} is for images, got {material.kind}")
    torch.manual_seed(settings.seed)
    net = build(settings, material).to(device)
    if settings.compile:
        _compile(net, device)
    training = Training(net, settings, material, device)
    if settings.resume:
        training.history = restore(settings.out, training.net, training.optimizer, settings)
    with naming(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
    with Interrupts() as interrupts:
        _train(training, interrupts, lines)
    with stage("count spikes and operations"):
        measured = measure(training.net, settings, material, device)
    _write(training, material, measured)
    _tell(training, measured, lines)


def check_settings(settings: Settings) -> None:
    """Raises UseError for a folder that cannot take the run."""
    if not settings.resume:
        check_out(settings.out)
    elif not settings.out.is_dir():
        raise UseError(f"--resume needs an earlier run in --out, got no folder {settings.out}")


def _compile(net: nn.Module, device: torch.device) -> None:
    """Builds the C kernels of products and neurons.

    Raises:
        UseError: if the device is no CPU.
        RunError: if there is no compiler, or it fails.
    """
    if device.type != "cpu":
        raise UseError(f"--compile is for --device cpu, got {device}")
    with stage("build kernels"), from_user("--compile"):
        spike_ops.compile_kernels()
        spike_ops.neuron.build(net, torch.zeros(1, 1))


def _train(training: Training, interrupts: Interrupts, lines: Lines) -> None:
    settings = training.settings
    out, history = settings.out, training.history
    try:
        with stage(f"train {settings.net} on {settings.data}") as advance:
            while len(history) < settings.epochs:
                row = training.epoch(advance, interrupts.check)
                row["accuracy"] = accuracy(
                    training.net, settings, training.material, training.device
                )
                history.append(row)
                with naming(out):
                    save(out, training.net, training.optimizer, history, settings.facts())
                    write_text(out / HISTORY, to_csv(history))
                lines.record("epoch", row)
    except KeyboardInterrupt:
        if history:
            remark(f"{out / CHECKPOINT} holds the run as it was after epoch {len(history)}")
        raise


def _write(training: Training, material: Material, measured: Measured) -> None:
    settings, out = training.settings, training.settings.out
    with naming(out):
        state = {k: v.cpu().contiguous() for k, v in training.net.state_dict().items()}
        save_file(state, out / f".{WEIGHTS}.new", {"format": "pt"})
        (out / f".{WEIGHTS}.new").replace(out / WEIGHTS)
        _export(training.net, out / GRAPH, material)
        result = {**_result(training, measured), "classes": list(material.classes)}
        write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
        write_report(out / PAGE, training.history, measured, settings, material)


def _result(training: Training, measured: Measured) -> Row:
    """Returns the numbers of a run by name."""
    material = training.material
    train, valid = material.sizes
    items: Row = {
        "training_items": train, "validation_items": valid, "chance": material.chance,
    }  # fmt: skip
    return {**training.history[-1], **items, **measured.record()}


def _export(net: nn.Module, path: Path, material: Material) -> None:
    """Writes the graph of a network, if the library for such files is there."""
    try:
        need("nir")
    except MissingExtraError as error:
        remark(f"no {path.name}: it {error}")
        return
    from spike_ops import nir

    plain = net.cpu().eval()
    try:
        nir.write(nir.to_nir(plain, material.shape, dt=_DT), path)
    except nir.NirError as error:
        remark(f"no {path.name}: {error}")


def _tell(training: Training, measured: Measured, lines: Lines) -> None:
    settings = training.settings
    if settings.json:
        lines.record("result", _result(training, measured))
        return
    show(result_table(training.history, measured, settings, training.material))
    show(layer_table(measured))
    show(energy_estimates(measured.estimates))
    print(f"report: {(settings.out / PAGE).resolve()}")  # noqa: T201
