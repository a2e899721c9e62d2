"""A trained network as a spiking one: the whole of `adlrns spike --convert`."""

import json
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from adlrns._beside import naming
from adlrns._console import show, stage
from adlrns._errors import UseError, from_user, one_line
from adlrns._grow import check_out
from adlrns._grow_work import to_csv
from adlrns._html import facts, page
from adlrns._machine import libraries, machine
from adlrns._manifest import versions
from adlrns._nets import device_of
from adlrns._run_folder import write_text
from adlrns._source import open_model
from adlrns._spike_data import Material, open_material
from adlrns._spike_lines import Lines
from adlrns._spike_measure import operations
from adlrns._spike_report import energy_estimates, guessing
from adlrns._spike_settings import Settings
from adlrns._spike_train import Row
from adlrns._table import Column, Table
from spike_ops.convert import ConversionError, ConversionReport, ConvertedNet, convert
from spike_ops.energy import OperationCounts, energy_table

PAGE, TABLE, RESULT, WEIGHTS = "report.html", "table.csv", "result.json", "converted.safetensors"
# training items that thresholds are found on, and validation items that are told apart, at most
_SHOWN, _TOLD = 512, 1000


class Converted(NamedTuple):
    """A converted network, and how close it comes to the one it was."""

    net: ConvertedNet
    report: ConversionReport
    rows: list[Row]
    items: int
    counts: OperationCounts  # with all steps


def run(model: str, settings: Settings) -> None:
    """Converts, prints how the error falls with time, and writes the folder."""
    check_out(settings.out)
    lines, device = Lines(settings), device_of(settings.device)
    plain = open_model(model).model.to(device)
    with stage(f"open {settings.data}"):
        material = open_material(settings)
    if material.kind != "images":
        why = "the input of a converted network is a current that stays"
        raise UseError(f"--convert is for networks of images, got {material.kind}: {why}")
    shown = _shown(settings, material, device)
    _check_fit(model, plain, shown[0][:2], settings, material)
    with stage(f"convert {model}"), from_user(f"--convert {model}"):
        try:
            made = convert(plain, shown, steps=settings.steps)
        except ConversionError as error:
            raise UseError(f"--convert {model}: {error}") from None
        done = _measured(made, settings, material, device)
    tables = [
        _table(model, done, material),
        _layers(done),
        energy_estimates(energy_table(done.counts)),
    ]
    with naming(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
        _write(model, done, settings, tables)
    for row in done.rows:
        lines.record("steps", row)
    if not settings.json:
        for table in tables:
            show(table)
        print(f"report: {(settings.out / PAGE).resolve()}")  # noqa: T201


def times(most: int) -> list[int]:
    """Returns the numbers of steps that are tried: doubled up to the most.

    >>> times(10)
    [1, 2, 4, 8, 10]
    """
    doubled = [1 << k for k in range(most.bit_length()) if 1 << k < most]
    return [*doubled, most]


def _check_fit(
    model: str, plain: nn.Module, x: Tensor, settings: Settings, material: Material
) -> None:
    """Raises UseError for a network of other images, or of other classes."""
    try:
        with torch.no_grad():
            scores = plain(x)
    except Exception as error:
        size = " x ".join(map(str, x.shape[1:]))
        raise UseError(
            f"--convert {model} must take the images of {settings.data}, {size} (channels, height, "
            f"width): {one_line(error)}"
        ) from error
    got = tuple(getattr(scores, "shape", ()))
    if got != (len(x), len(material.classes)):
        wanted = f"{len(material.classes)} outputs, one a class of {settings.data}"
        said = "x".join(map(str, got[1:])) or type(scores).__name__
        raise UseError(f"--convert {model} must give {wanted}, got {said}")


def _shown(settings: Settings, material: Material, device: torch.device) -> list[Tensor]:
    loader = DataLoader(material.train, settings.batch_size)
    batches = islice(loader, max(1, _SHOWN // settings.batch_size))
    return [x.to(device) for x, _ in batches]


def _measured(
    made: ConvertedNet, settings: Settings, material: Material, device: torch.device
) -> Converted:
    count = min(_TOLD, len(material.valid))  # type: ignore[arg-type]
    x, y = next(iter(DataLoader(Subset(material.valid, range(count)), count)))
    x, y = x.to(device), y.to(device)
    report = made.report(x, y, steps=times(settings.steps))
    rows = []
    for row in report.rows:
        made.steps = row.steps
        found: Row = {
            "steps": row.steps,
            "accuracy": row.accuracy,
            "original_accuracy": report.accuracy,
            "agreement": row.agreement,
            "error": row.output_error,
            "rate": row.rate,
            "synops": (counts := made.count_operations(x)).synops,
        }
        rows.append(found)
    return Converted(made, report, rows, count, counts)


def _write(model: str, done: Converted, settings: Settings, tables: list[Table]) -> None:
    out, state = settings.out, done.net.net.state_dict()
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, out / WEIGHTS, {"format": "pt"})
    write_text(out / TABLE, to_csv(done.rows))
    result = done.rows[-1] | operations(done.counts, energy_table(done.counts))
    write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
    parts = [
        *(table.to_html() for table in tables),
        facts("Run", {"command": settings.command, "model": model, "data": settings.data}),
        facts("Machine", machine()),
        facts("Versions", versions() | libraries()),
    ]
    last = done.rows[-1]
    lead = f"{last['accuracy']:.4f} after {last['steps']} steps; {done.report.accuracy:.4f} before."
    write_text(out / PAGE, page(f"adlrns spike --convert {Path(model).name}", lead, parts))


def _table(model: str, done: Converted, material: Material) -> Table:
    columns = (
        Column("steps", "steps", "d"),
        Column("accuracy", "accuracy", ".4f"),
        Column("original_accuracy", "of the\noriginal", ".4f"),
        Column("agreement", "same\nanswer", ".4f"),
        Column("error", "error of\noutputs", ".4f"),
        Column("rate", "spikes a\nneuron a step", ".4f"),
        Column("synops", "SynOps\na sample", ",.0f"),
    )
    notes = [
        f"{done.items} validation items; thresholds were found on training items, without labels",
        guessing(material),
        "error: mean difference of outputs over their mean size",
        "SynOps: weights that meet a value which is not zero; the first layer sees the image "
        "itself in every step and multiplies, a layer that hears neurons adds",
    ]
    return Table(f"{model} with spikes", columns, list(done.rows), notes)


def _layers(done: Converted) -> Table:
    columns = (
        Column("layer", "activation"),
        Column("low", "threshold,\nsmallest", ".4g"),
        Column("high", "largest", ".4g"),
        Column("error", "error of rates\nafter all steps", ".4f"),
    )
    errors = done.report.rows[-1].errors
    rows: list[Row] = [
        {"layer": name, "low": low, "high": high, "error": errors.get(name)}
        for name, (low, high) in done.report.thresholds.items()
    ]
    return Table("Neurons", columns, list(rows))
