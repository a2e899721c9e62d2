"""The report of one compressed model."""

from pathlib import Path
from typing import NamedTuple

from adlrns._errors import MissingExtraError, one_line
from adlrns._html import facts, figure, note, page
from adlrns._machine import libraries, machine
from adlrns._manifest import versions
from adlrns._model_plots import frontier_plot, loss_plot, ranks_plot
from adlrns._table import Table
from adlrns_models import ElasticModel
from rank_sched import OperatingPoint


class Story(NamedTuple):
    """What a report tells."""

    command: str
    model: str
    elastic: ElasticModel
    point: OperatingPoint
    form: str  # that the point was counted in
    table: Table


def write_report(folder: Path, story: Story) -> None:
    """Writes `report.html`; without matplotlib it says which extra draws the plots."""
    try:
        figures = _figures(story)
    except MissingExtraError as error:
        figures = [note(f"no plots: {one_line(error)}")]
    seen = story.elastic.info["calibration"]
    run = {
        "command": story.command,
        "calibration": f"{seen['samples']} samples, SHA-256 {seen['sha256']}",
    }
    parts = [
        story.table.to_html(),
        *figures,
        facts("Run", run),
        facts("Machine", machine()),
        facts("Versions", versions() | libraries()),
    ]
    lead = "One set of weights for every budget; this is the point that was chosen."
    (folder / "report.html").write_text(page(f"adlrns compress {story.model}", lead, parts))


def _figures(story: Story) -> list[str]:
    ranks = {"chosen": story.point.ranks}
    return [
        figure("Frontier", _FRONTIER, frontier_plot(story.elastic, story.point, story.form)),
        figure("Ranks", _RANKS, ranks_plot(story.elastic, ranks)),
        figure("Loss curves", _LOSS, loss_plot(story.elastic)),
    ]


_FRONTIER = (
    "The least predicted loss at every cost, counted in the form that the budget was; the mark is "
    "the point that was chosen."
)
_RANKS = "The chosen ranks as shares of full rank."
_LOSS = (
    "Predicted loss at every rank, inside the interval that the layer's sketch proves, for the "
    "layers that lose most. Layers whose inputs were kept in full are exact."
)
