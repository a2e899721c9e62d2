"""The whole of `adlrns train`."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from rich.console import Console

from adlrns._config_file import Config, read_config
from adlrns._console import say, show, stage
from adlrns._datasets import Task, open_task
from adlrns._datasets_find import find
from adlrns._errors import UseError
from adlrns._nets import check_fit, device_of
from adlrns._run_folder import open_run, write_text
from adlrns._stats import interval
from adlrns._table import Column, Table, Value
from adlrns._train_report import write_report
from adlrns._train_seed import train_seed


class Asked(Protocol):
    """What the command line may say in place of a configuration."""

    @property
    def config(self) -> Path: ...
    @property
    def data(self) -> str | None: ...
    @property
    def seeds(self) -> tuple[int, ...] | None: ...
    @property
    def device(self) -> str | None: ...


class Request(NamedTuple):
    """What the command line says."""

    config: Path
    data: str | None
    out: Path
    seeds: tuple[int, ...] | None
    resume: bool
    device: str | None
    command: str


def run(request: Request) -> None:
    """Trains every seed, prints the table, and writes the folder of results."""
    config = filled(read_config(request.config), request)
    device = device_of(config.run.device)
    task = open_data(config)
    check_fit(config, task)
    open_run(request.out, config, resume=request.resume)
    if task.vocabulary:
        words = json.dumps(task.vocabulary, ensure_ascii=False, indent=0)
        write_text(request.out / "vocabulary.json", words + "\n")
    results = []
    for seed in config.run.seeds:
        with stage(f"train {config.model.type} on {config.data.name}, seed {seed}") as advance:
            folder = request.out / f"seed-{seed}"
            results.append(train_seed(config, task, seed, folder, device=device, advance=advance))
    table = table_of(config, task, results)
    write_text(request.out / "results.csv", table.to_csv())
    write_report(request.out, table, config, command=request.command)
    show(table)
    say(f"report: {(request.out / 'report.html').resolve()}")


def filled(config: Config, request: Asked) -> Config:
    """Returns a configuration with what the command line says in place of what the file does.

    Tells on stderr how the file was read where that needs telling.
    """
    for text in config.notes():
        Console(stderr=True).print(
            f"note: {text}", markup=False, emoji=False, highlight=False, soft_wrap=True
        )
    data, run = config.data, config.run
    if request.data is not None:
        found = find(request.data, data.name)
        path = None if found.path is None else str(found.path.resolve())
        data = data.model_copy(update={"name": found.name, "path": path})
    elif data.path is not None:
        place = str((request.config.parent / data.path).resolve())
        data = data.model_copy(update={"name": find(place, data.name).name, "path": place})
    if request.seeds is not None:
        run = run.model_copy(update={"seeds": list(request.seeds)})
    if request.device is not None:
        run = run.model_copy(update={"device": request.device})
    return config.model_copy(update={"data": data, "run": run})


def open_data(config: Config) -> Task:
    """Returns the data set of a configuration.

    Raises:
        UseError: if it names none, or one that cannot be read.
    """
    data = config.data
    if data.name is None:
        raise UseError("data must be given: --data PATH, or data.name in the configuration")
    return open_task(data.name, None if data.path is None else Path(data.path), data.options())


def table_of(config: Config, task: Task, results: list[dict[str, Any]]) -> Table:
    """Returns a row a seed, their mean, and how sure it is."""
    columns = (
        Column("seed", "seed"),
        Column(task.metric, task.metric, ".4f"),
        Column("loss", "loss", ".4f"),
        Column("flops", "FLOPs\n/ dense", ".3f"),
        Column("parameters", "parameters", ",.0f"),
        Column("epochs", "epochs", ".0f"),
    )
    rows: list[dict[str, Value]] = [
        {c.key: row[c.key] for c in columns} | {"seed": str(row["seed"])} for row in results
    ]
    keys = (task.metric, "loss", "flops")
    known = {key: [row[key] for row in results if row[key] is not None] for key in keys}
    table = Table(f"{config.model.type} on {config.data.name}", columns)
    table.rows += rows
    if len(results) > 1:
        means = {key: fmean(values) if values else None for key, values in known.items()}
        sure = {key: interval(values) for key, values in known.items()}
        table.rows += [{"seed": "mean", **means}, {"seed": "± 95 %", **sure}]
        table.notes.append("±: half the width of the 95 % interval of the mean, Student's t")
    table.notes.append(f"{task.metric} and loss: the validation part, {len(task.valid)} items")  # type: ignore[arg-type]
    if known["flops"]:
        table.notes.append("FLOPs: those of the dynamic layers, gates included, in evaluation")
    return table
