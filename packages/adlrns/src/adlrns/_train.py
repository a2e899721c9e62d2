"""The whole of `adlrns train`."""

import json
from pathlib import Path
from typing import NamedTuple, Protocol

from adlrns._config_file import Config, read_config
from adlrns._config_sections import Data
from adlrns._console import remark, say, show, stage
from adlrns._datasets import Task, open_task
from adlrns._datasets_find import find, place
from adlrns._energy_budget import note, range_of
from adlrns._errors import RunError, UseError
from adlrns._nets import check_fit, device_of
from adlrns._run_folder import open_run, write_text
from adlrns._seeds import with_finished
from adlrns._train_report import write_report
from adlrns._train_seed import RESULT, train_seed
from adlrns._train_table import diverged, table_of


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
    if request.resume:
        config = with_finished(config, request.out, RESULT)
    open_run(request.out, config, resume=request.resume)
    if task.vocabulary:
        words = json.dumps(task.vocabulary, ensure_ascii=False, indent=0)
        write_text(request.out / "vocabulary.json", words + "\n")
    told = note(config, range_of(config, task))
    if told is not None:
        remark(told)
    if (size := config.training(0).batch_size or 0) > (count := len(task.train)):  # type: ignore[arg-type]
        remark(f"train.batch_size of {size} is more than there are training items, {count}")
    results = []
    for seed in config.run.seeds:
        folder = request.out / f"seed-{seed}"
        verb = "train" if not folder.is_dir() else "go on with"
        with stage(f"{verb} {config.model.type} on {config.data.name}, seed {seed}") as advance:
            results.append(train_seed(config, task, seed, folder, device=device, advance=advance))
    table = table_of(config, task, results)
    table.notes += [] if told is None else [told]
    write_text(request.out / "results.csv", table.to_csv())
    write_report(request.out, table, config, command=request.command)
    show(table)
    say(f"report: {(request.out / 'report.html').resolve()}")
    if lost := diverged(results):
        raise RunError(
            f"training diverged, the last loss is not finite: seeds {lost}; see the report"
        )


def filled(config: Config, request: Asked) -> Config:
    """Returns a configuration with what the command line says in place of what the file does.

    Tells on stderr how the file was read where that needs telling.
    """
    for text in config.notes():
        remark(text)
    data, run = _located(config.data, request), config.run
    if request.seeds is not None:
        run = run.model_copy(update={"seeds": list(request.seeds)})
    if request.device is not None:
        run = run.model_copy(update={"device": request.device})
    return config.model_copy(update={"data": data, "run": run})


def _located(data: Data, request: Asked) -> Data:
    if request.data is not None:
        found = find(request.data, data.name)
        if data.name not in (None, found.name):
            remark(f"--data {request.data} is {found.name}, data.name was {data.name}")
    elif data.path is not None:
        found = place((request.config.parent / data.path).resolve(), data.name)
    else:
        return data
    path = None if found.path is None else str(found.path.resolve())
    return data.model_copy(update={"name": found.name, "path": path})


def open_data(config: Config) -> Task:
    """Returns the data set of a configuration.

    Raises:
        UseError: if it names none, or one that cannot be read.
    """
    data = config.data
    if data.name is None:
        raise UseError("data must be given: --data PATH, or data.name in the configuration")
    task = open_task(data.name, None if data.path is None else Path(data.path), data.options())
    for text in task.notes:
        remark(text)
    return task
