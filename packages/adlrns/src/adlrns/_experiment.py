"""The whole of `adlrns experiment`."""

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from adlrns._config_file import Config, read_config
from adlrns._config_sections import Hardware
from adlrns._console import remark, say, show, stage
from adlrns._datasets import Task
from adlrns._errors import RunError
from adlrns._experiment_nets import candidates
from adlrns._experiment_report import write_report
from adlrns._experiment_rows import measured
from adlrns._experiment_table import table_of
from adlrns._experiment_train import FULL, Base, divide, train_dense
from adlrns._experiment_unused import note
from adlrns._nets import check_fit, device_of
from adlrns._run_folder import open_run, write_text
from adlrns._seeds import with_finished
from adlrns._table import Table
from adlrns._train import filled, open_data

Rows = list[dict[str, Any]]

ROWS, ABLATIONS, MADE_OF = "rows.json", "ablations.json", "made-of.sha256"


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
    if request.resume:
        config = with_finished(config, request.out, ROWS)
    open_run(request.out, config, resume=request.resume)
    if told := note(config):
        remark(told)
    rows, ablated = _all_seeds(request, config, task, device)
    tables = [_table(config, task, rows)]
    tables[0].notes += [told] if told else []
    if ablated := ablated or _ablated_before(request.out, config):
        from adlrns._ablate_table import ablation_table

        tables.append(ablation_table(ablated, task, config.run.ablation_budget))
    else:  # of other seeds or other weights
        (request.out / "ablations.csv").unlink(missing_ok=True)
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
        _drop_others(base)
        rows += _kept(folder / ROWS, seed, lambda base=base: _compare(base))  # type: ignore[misc]
        if request.ablate:
            from adlrns._ablate import ablations

            ablated += _kept(folder / ABLATIONS, seed, lambda base=base: ablations(base))  # type: ignore[misc]
    return rows, ablated


def _ablated_before(out: Path, config: Config) -> Rows:
    """Returns the ablations that an earlier go wrote, if they are of all seeds."""
    paths = {seed: out / f"seed-{seed}" / ABLATIONS for seed in config.run.seeds}
    if not all(path.is_file() for path in paths.values()):
        return []
    return [row for seed, path in paths.items() for row in _kept(path, seed, list)]


def _drop_others(base: Base) -> None:
    """Drops what an earlier go made of other weights at full rank, of fewer epochs for instance."""
    path, now = base.folder / MADE_OF, _fingerprint(base.dense)
    if path.is_file() and path.read_text(encoding="utf-8").strip() == now:
        return
    _drop_checkpoints(base)
    for name in (ROWS, ABLATIONS):
        (base.folder / name).unlink(missing_ok=True)
    write_text(path, now + "\n")  # last: a run that is killed before drops them when it goes on


def _drop_checkpoints(base: Base) -> None:
    """Drops those of all networks but the one at full rank."""
    for folder in base.folder.iterdir():
        if folder.is_dir() and folder.name != FULL:
            shutil.rmtree(folder)


def _fingerprint(net: nn.Module) -> str:
    """SHA-256 of all that is saved of a network."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    given = base.config.hardware != Hardware()
    hardware = base.config.hardware.estimator().hardware if given else None
    with stage(f"seed {base.seed}: measure") as advance:
        rows = measured(
            found,
            base.parts.task,
            size=run.batch,
            rounds=run.rounds,
            advance=advance,
            hardware=hardware,
        )
    _drop_checkpoints(base)  # of what is measured by now
    return rows


def _table(config: Config, task: Task, rows: Rows) -> Table:
    title = f"{config.model.type} on {config.data.name}"
    return table_of(rows, task, title, size=config.run.batch)
