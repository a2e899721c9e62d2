"""The report of a run with growth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adlrns._datasets import Task
from adlrns._errors import MissingExtraError, one_line
from adlrns._grow_plots import figures
from adlrns._grow_settings import Settings
from adlrns._grow_train import Row
from adlrns._html import facts, note, page
from adlrns._machine import libraries, machine
from adlrns._manifest import versions
from adlrns._run_folder import write_text
from adlrns._score import FALLING
from adlrns._table import Column, Table, Value
from neuro_morph import MorphogenesisEvent, __version__, standing


@dataclass(frozen=True)
class Grown:
    """What a run came to.

    Attributes:
        events: all that was tried.
        gains: measured gains of events that were kept, by their number.
        widths: steps, and how many units every group had from there on.
        history: a row an epoch.
        examples: samples that the FLOPs in events are of.
    """

    events: Sequence[MorphogenesisEvent]
    gains: dict[int, float]
    widths: Sequence[tuple[int, dict[str, int]]]
    history: Sequence[Row]
    examples: int

    def gain(self, event: MorphogenesisEvent) -> float | None:
        """Returns how much smaller the held-out loss was than without the event, if measured."""
        return self.gains.get(event.id, event.gain)


def write_report(
    path: Path, grown: Grown, settings: Settings, task: Task, fixed: Sequence[Row] | None
) -> None:
    """Writes the page; without matplotlib it says which extra draws the plots."""
    try:
        drawn = figures(grown, task.metric, fixed)
    except MissingExtraError as error:
        drawn = [note(f"no plots: {one_line(error)}")]
    parts = [
        table_of(grown, settings, task, fixed).to_html(),
        *drawn,
        tried(grown).to_html(),
        _widths(grown).to_html(),
        facts("Run", {"command": settings.command} | settings.facts()),
        facts("Machine", machine()),
        facts("Versions", versions() | {"neuro-morph": __version__} | libraries()),
    ]
    kept = len(standing(grown.events))
    lead = f"{kept} of the {len(grown.events)} edits that were tried were kept."
    write_text(path, page(f"adlrns grow {settings.model}", lead, parts))


def table_of(grown: Grown, settings: Settings, task: Task, fixed: Sequence[Row] | None) -> Table:
    """Returns a row for the run, and one for that without growth."""
    columns = (
        Column("net", "network"),
        Column(task.metric, task.metric, ".4f"),
        Column("loss", "loss", ".4f"),
        Column("parameters", "parameters", ",d"),
        Column("flops", "FLOPs\na sample", ",d"),
        Column("training_flops", "FLOPs\nof training", ".3g"),
        Column("trial_flops", "FLOPs\nof trials", ".3g"),
    )
    runs = [("grown", grown.history)] + ([] if fixed is None else [("without growth", fixed)])
    rows = [{"net": name, **history[-1]} for name, history in runs]
    better = "lower" if task.metric in FALLING else "higher"
    notes = [
        *task.notes,
        f"{task.metric} ({better} is better) and loss: the validation part, "
        f"{len(task.valid)} items, which decides nothing",  # type: ignore[arg-type]
        "FLOPs: counted, two a multiplication and addition; of training and trials forward and "
        "backward, without the passes that scores and decisions take",
    ]
    return Table(f"{settings.model} on {settings.data}", columns, list(rows), notes)


def tried(grown: Grown) -> Table:
    """Returns all that was tried, with what became of it."""
    columns = (
        Column("step", "step", "d"),
        Column("edit", "edit"),
        Column("decision", "decision"),
        Column("gain", "gain", ".4g"),
        Column("before", "parameters\nbefore", ",d"),
        Column("after", "after", ",d"),
        Column("flops", "FLOPs a\nsample added", ",d"),
        Column("change", "change of\noutputs", ".1e"),
        Column("why", "why"),
    )
    rows = [_row(grown, event) for event in grown.events]
    notes = [
        "gain: how much smaller the mean loss of held-out items is after a trial than after the "
        "same steps without the edit; of those that gain for sure the one is kept that gains the "
        "most a parameter",
        "change of outputs: the largest when it was done, over the largest output",
    ]
    return Table("What was tried", columns, list(rows), notes)


def _row(grown: Grown, event: MorphogenesisEvent) -> dict[str, Value]:
    by, init = event.detail.get("by", "?"), event.detail.get("init", "")
    return {
        "step": event.step,
        "edit": f"{event.op} {event.target} by {by}, {init}",
        "decision": "kept" if event.decision == "committed" else event.decision,
        "gain": grown.gain(event),
        "before": event.parameters_before,
        "after": event.parameters_after,
        "flops": (event.flops_after - event.flops_before) // grown.examples,
        "change": event.relative_change,
        "why": event.why_not or event.reason,
    }


def _widths(grown: Grown) -> Table:
    first, last = grown.widths[0][1], grown.widths[-1][1]
    columns: tuple[Any, ...] = (
        Column("group", "group"),
        Column("first", "units at first", ",d"),
        Column("last", "in the end", ",d"),
    )
    rows = [{"group": g, "first": first.get(g), "last": last.get(g)} for g in {**first, **last}]
    return Table("Units of every group", columns, list(rows))
