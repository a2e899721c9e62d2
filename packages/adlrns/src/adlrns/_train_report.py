"""The report of training runs."""

import json
from html import escape
from pathlib import Path
from typing import Any

from adlrns._config_file import Config
from adlrns._errors import MissingExtraError, one_line
from adlrns._html import facts, figure, note, page
from adlrns._machine import libraries, machine
from adlrns._manifest import versions
from adlrns._plots import Plot, lines
from adlrns._run_folder import write_text
from adlrns._table import Table
from adlrns._train_seed import METRICS

_CURVES = "Every seed's validation part after each epoch."


def write_report(out: Path, table: Table, config: Config, *, command: str) -> None:
    """Writes `report.html`; without matplotlib it says which extra draws the curves."""
    history = {str(seed): records(out / f"seed-{seed}" / METRICS) for seed in config.run.seeds}
    try:
        figures = [figure("Curves", _CURVES, _curves(history))]
    except MissingExtraError as error:
        figures = [note(f"no plots: {one_line(error)}")]
    run = {"command": command, "data": f"{config.data.name}, {config.data.path or 'built in'}"}
    parts = [
        table.to_html(),
        *figures,
        f"<h2>Configuration</h2>\n<pre>{escape(config.to_yaml())}</pre>\n",
        facts("Run", run),
        facts("Machine", machine()),
        facts("Versions", versions() | libraries()),
    ]
    lead = f"{len(history)} run(s), every number measured on what was not trained on."
    write_text(out / "report.html", page(f"adlrns train {config.model.type}", lead, parts))


def records(path: Path) -> list[dict[str, Any]]:
    """Returns the records of the epochs in a log."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [record for record in map(json.loads, text.splitlines()) if record["event"] == "epoch"]


def _curves(history: dict[str, list[dict[str, Any]]]) -> str:
    shown = {"val_loss": "loss", "val_accuracy": "accuracy", "val_flops": "FLOPs / dense"}
    first = next(iter(history.values()))
    keys = [key for key in shown if first and key in first[-1]]
    with Plot("curves", columns=max(1, len(keys)), height=3.2) as plot:
        for axis, key in zip(plot.axes, keys, strict=False):
            curves = {f"seed {s}": _curve(rows, key) for s, rows in history.items()}
            lines(axis, curves, lw=1.4)
            axis.set(xlabel="epoch", title=shown[key])
        plot.axes[-1].legend(fontsize=8)
        return plot.svg()


def _curve(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if row.get(key) is not None]
    return [row["epoch"] for row in kept], [row[key] for row in kept]
