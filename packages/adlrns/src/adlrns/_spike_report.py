"""The tables and the page of a run with spikes."""

from collections.abc import Sequence
from pathlib import Path

from adlrns._errors import MissingExtraError, one_line
from adlrns._html import facts, figure, note, page
from adlrns._machine import libraries, machine
from adlrns._manifest import versions
from adlrns._plots import Plot, bars, lines
from adlrns._run_folder import write_text
from adlrns._spike_data import Material
from adlrns._spike_measure import Measured
from adlrns._spike_settings import Settings
from adlrns._spike_train import Row
from adlrns._table import Column, Table
from spike_ops.energy import EnergyEstimate


def result_table(
    history: Sequence[Row], measured: Measured, settings: Settings, material: Material
) -> Table:
    """Returns what a run came to, in one row."""
    counts = measured.counts
    columns = (
        Column("accuracy", "accuracy", ".4f"),
        Column("rate", "spikes a\nneuron a step", ".4f"),
        Column("synops", "SynOps\na sample", ",.0f"),
        Column("acs", "additions", ",.0f"),
        Column("macs", "MACs", ",.0f"),
        Column("dense", "MACs if\nnothing were 0", ",.0f"),
    )
    seen = measured.activities.values()
    total = sum(each.observed * each.counts.numel() for each in seen)
    row = {
        "accuracy": history[-1]["accuracy"],
        "rate": sum(int(each.counts.sum()) for each in seen) / total,
        "synops": counts.synops,
        "acs": counts.effective_acs,
        "macs": counts.effective_macs,
        "dense": counts.dense,
    }
    notes = [
        "items: {:,} to train on, {:,} of the validation part".format(*material.sizes),
        "accuracy: of the validation part, which decides nothing; " + guessing(material),
        f"counts: mean of {measured.items} validation items over {settings.steps} steps; a zero "
        "costs nothing; biases and neurons are left out",
    ]
    return Table(f"{settings.net} on {settings.data}", columns, [row], notes)


def guessing(material: Material) -> str:
    """Returns what accuracy a guess has, as words."""
    return f"a guess among {len(material.classes)} classes has {material.chance:.4f}"


def _applying(settings: Settings, material: Material) -> dict[str, str]:
    """Returns the settings that had an effect on a run."""
    left_out = {"encoding", "size", "bands"} - {*material.options}
    if settings.limit is None:
        left_out.add("limit")
    return {name: value for name, value in settings.facts().items() if name not in left_out}


def layer_table(measured: Measured) -> Table:
    """Returns how the neurons of every layer fire."""
    columns = (
        Column("layer", "layer"),
        Column("neurons", "neurons", ",d"),
        Column("rate", "spikes a\nneuron a step", ".4f"),
        Column("silent", "never\nfired", ".1%"),
        Column("saturated", "fired in\nhalf the steps", ".1%"),
    )
    rows: list[Row] = [
        {
            "layer": name,
            "neurons": seen.counts.numel(),
            "rate": seen.rate,
            "silent": float(seen.silent.double().mean()),
            "saturated": float(seen.saturated(0.5).double().mean()),
        }
        for name, seen in measured.activities.items()
    ]
    return Table("Neurons", columns, list(rows))


def energy_estimates(estimates: Sequence[EnergyEstimate]) -> Table:
    """Returns the estimates of energy on all hardware, arithmetic and memory side by side."""
    columns = (
        Column("hardware", "hardware"),
        Column("compute", "estimate: arithmetic\nalone, J", ".3g"),
        Column("memory", "estimate: with\nmemory, J", ".3g"),
        Column("dense", "the same if nothing\nwere 0, J", ".3g"),
    )
    rows: list[Row] = [
        {
            "hardware": each.hardware,
            "compute": each.compute_j,
            "memory": each.with_memory_j,
            "dense": each.dense_with_memory_j,
        }
        for each in estimates
    ]
    notes = _assumptions(estimates)
    return Table("Energy of a sample (estimates)", columns, list(rows), notes)


def _assumptions(estimates: Sequence[EnergyEstimate]) -> list[str]:
    """Returns every assumption once, behind the rows that it is of unless it is of all."""
    names, notes = [each.hardware for each in estimates], []
    for said in dict.fromkeys(said for each in estimates for said in each.assumptions):
        rows = [each.hardware for each in estimates if said in each.assumptions]
        first = names.index(rows[0])
        together = rows == names[first : first + len(rows)] and len(rows) > 2
        told = f"{rows[0]} to {rows[-1]}" if together else ", ".join(rows)
        notes.append(said if len(rows) == len(names) else f"{told}: {said}")
    return notes


def write_report(
    path: Path,
    history: Sequence[Row],
    measured: Measured,
    settings: Settings,
    material: Material,
) -> None:
    """Writes the page; without matplotlib it says which extra draws the plots."""
    try:
        drawn = [_course(history), _rates(measured)]
    except MissingExtraError as error:
        drawn = [note(f"no plots: {one_line(error)}")]
    parts = [
        result_table(history, measured, settings, material).to_html(),
        *drawn,
        layer_table(measured).to_html(),
        energy_estimates(measured.estimates).to_html(),
        facts("Run", {"command": settings.command} | _applying(settings, material)),
        facts("Classes", {str(i): name for i, name in enumerate(material.classes)}),
        facts("Machine", machine()),
        facts("Versions", versions() | libraries()),
    ]
    lead = f"A spiking network for {material.kind}: accuracy {history[-1]['accuracy']:.4f}."
    write_text(path, page(f"adlrns spike {Path(settings.data).name}", lead, parts))


def _course(history: Sequence[Row]) -> str:
    epochs = [float(row["epoch"] or 0) for row in history]
    curves = {
        name: (epochs, [float(row[key] or 0) for row in history])
        for name, key in (("validation", "accuracy"), ("training", "training_accuracy"))
    }
    with Plot("accuracy") as plot:
        lines(plot.axes[0], curves, marker="o", markersize=3)
        plot.axes[0].set_xlabel("epoch")
        plot.axes[0].set_ylabel("accuracy")
        plot.axes[0].legend()
        return figure("Accuracy", "After every epoch.", plot.svg())


def _rates(measured: Measured) -> str:
    rates = measured.rates()
    with Plot("rates", height=1.2 + 0.4 * len(rates)) as plot:
        bars(plot.axes[0], list(rates), {"rate": list(rates.values())})
        plot.axes[0].set_xlabel("spikes a neuron a step")
        return figure("Firing", "The fewer spikes, the fewer additions.", plot.svg())
