"""The report of an experiment."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from adlrns._config_file import Config
from adlrns._errors import MissingExtraError, one_line
from adlrns._html import facts, figure, note, page
from adlrns._machine import libraries, machine
from adlrns._manifest import versions
from adlrns._plots import Plot, bars
from adlrns._run_folder import write_text
from adlrns._table import Table

_COSTS = {
    "energy_ratio": "energy",
    "ratio_n": "time",
    "memory_ratio": "weights",
    "flops_ratio": "FLOPs",
}
_TEXT = "What each network costs as a share of full rank; shorter is cheaper."


def write_report(out: Path, tables: Sequence[Table], config: Config, *, command: str) -> None:
    """Writes `report.html`; without matplotlib it says which extra draws the plots."""
    try:
        figures = [figure("Costs", _TEXT, _cost_plot(tables[0]))]
    except MissingExtraError as error:
        figures = [note(f"no plots: {one_line(error)}")]
    data = f"{config.data.name}, {config.data.path or 'built in'}"
    parts = [
        tables[0].to_html(),
        *figures,
        *(table.to_html() for table in tables[1:]),
        f"<h2>Configuration</h2>\n<pre>{escape(config.to_yaml())}</pre>\n",
        facts("Run", {"command": command, "data": data}),
        facts("Machine", machine()),
        facts("Versions", versions() | libraries()),
    ]
    lead = "One network, trained at full rank, and what it can be turned into; all measured here."
    title = f"adlrns experiment: {config.model.type} on {config.data.name}"
    write_text(out / "report.html", page(title, lead, parts))


def _cost_plot(table: Table) -> str:
    rows = [row for row in table.rows if row.get("budget") is not None]
    names = [f"{row['model']}, {row['budget']}" for row in rows]
    series = {
        title: [float(row[key]) for row in rows]  # type: ignore[arg-type]
        for key, title in _COSTS.items()
    }
    with Plot("costs", height=1.2 + 0.6 * len(rows)) as plot:
        bars(plot.axes[0], names, series)
        plot.axes[0].axvline(1.0, color="#7c8794", lw=1, ls=":")
        plot.axes[0].set_xlabel("share of full rank")
        plot.axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
        return plot.svg()
