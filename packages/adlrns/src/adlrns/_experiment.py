"""The whole of `adlrns experiment`."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from adlrns._config_file import Config, read_config
from adlrns._console import say, show, stage
from adlrns._datasets import Task
from adlrns._errors import RunError
from adlrns._experiment_nets import candidates
from adlrns._experiment_report import write_report
from adlrns._experiment_rows import measured
from adlrns._experiment_table import table_of
from adlrns._experiment_train import FULL, Base, divide, train_dense
from adlrns._nets import check_fit, device_of
from adlrns._run_folder import open_run, write_text
from adlrns._table import Table
from adlrns._train import filled, open_data

Rows = list[dict[str, Any]]


class Request(NamedTuple):
    """What the command line says."""

    config: Path
    data: str | None
    out: Path
    seeds: tuple[int, ...] | None
    ablate: bool
    resume: bool
    device: str | None
    command: str


def default_config() -> Path:
    """Returns the configuration that is used without one: small, and quick on the digits."""
    return Path(str(files("adlrns") / "digits.yaml"))


def run(request: Request) -> None:
    """Trains, measures, prints the tables, and writes the folder of results."""
    config = filled(read_config(request.config), request)
    device = device_of(config.run.device)
    task = open_data(config)
    check_fit(config, task)
    open_run(request.out, config, resume=request.resume)
    rows, ablated = _all_seeds(request, config, task, device)
    tables = [_table(config, task, rows)]
    if request.ablate:
        from adlrns._ablate_table import ablation_table

        tables.append(ablation_table(ablated, task, config.run.ablation_budget))
    for table, name in zip(tables, ("table.csv", "ablations.csv"), strict=False):
        write_text(request.out / name, table.to_csv())
        show(table)
    write_report(request.out, tables, config, command=request.command)
    say(f"report: {(request.out / 'report.html').resolve()}")


def _all_seeds(request: Request, config: Config, task: Task, device: Any) -> tuple[Rows, Rows]:
    parts = divide(task, config.run.held_out)
    rows: Rows = []
    ablated: Rows = []
    for seed in config.run.seeds:
        folder = request.out / f"seed-{seed}"
        base = train_dense(config, parts, seed, folder, device)
        rows += _kept(folder / "rows.json", seed, lambda base=base: _compare(base))  # type: ignore[misc]
        if request.ablate:
            from adlrns._ablate import ablations

            ablated += _kept(folder / "ablations.json", seed, lambda base=base: ablations(base))  # type: ignore[misc]
    return rows, ablated


def _kept(path: Path, seed: int, work: Callable[[], Rows]) -> Rows:
    """Returns what an earlier go wrote, or does the work and writes it."""
    if path.is_file():
        try:
            return [{**row, "seed": seed} for row in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise RunError(f"{path}: not readable: {error}") from None
    rows = work()
    write_text(path, json.dumps(rows, indent=1) + "\n")
    return [{**row, "seed": seed} for row in rows]


def _compare(base: Base) -> Rows:
    found, run = candidates(base), base.config.run
    with stage(f"seed {base.seed}: measure") as advance:
        rows = measured(found, base.parts.task, size=run.batch, rounds=run.rounds, advance=advance)
    for folder in base.folder.iterdir():  # checkpoints of what is measured by now
        if folder.is_dir() and folder.name != FULL:
            shutil.rmtree(folder)
    return rows


def _table(config: Config, task: Task, rows: Rows) -> Table:
    title = f"{config.model.type} on {config.data.name}"
    return table_of(rows, task, title, size=config.run.batch)
