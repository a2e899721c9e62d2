"""The whole of `adlrns compress`."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from adlrns import _batches as data, _measure as measure
from adlrns._compare import deviation, split
from adlrns._compress_report import Story, write_report
from adlrns._console import say, show, stage
from adlrns._contents import calibration_of, write_elastic, write_manifest, write_materialized
from adlrns._errors import UseError
from adlrns._folder import write_folder
from adlrns._inputs import call
from adlrns._manifest import NAME, Budget, Calibration, Source
from adlrns._saved import load
from adlrns._settle import settle
from adlrns._source import HF, keep_configuration, open_model
from adlrns._table import Column, Table
from adlrns_models import ElasticModel, make_elastic, materialize_model
from rank_sched import OperatingPoint

COLUMNS = (
    Column("model", "model"),
    Column("parameters", "parameters", ",d"),
    Column("mflops", "MFLOPs\na sample", ",.4g"),
    Column("share", "/ dense", ".3f"),
    Column("loss", "predicted\nloss", ".3g"),
    Column("deviation", "output\ndeviation", ".2%"),
    Column("agreement", "same\nanswer", ".1%"),
)


class Request(NamedTuple):
    """What the command line says."""

    model: str
    data: str | None
    budget: Budget
    out: Path
    batches: int
    batch_size: int | None
    command: str


class Job(NamedTuple):
    """A model made elastic or opened again, and what to compare it on."""

    model: nn.Module  # what the results are compared with
    like: nn.Module  # the plain architecture
    elastic: ElasticModel
    source: Source
    calibration: Calibration
    held_out: list[Any]
    batch: Any


def run(request: Request) -> None:
    """Compresses, prints the table, and writes the folder."""
    again = (Path(request.model) / NAME).is_file()
    job = _open_again(request) if again else _open(request)
    budget = request.budget
    with stage("settle within the budget"):
        network, point = settle(job.elastic, cost=budget.cost, share=budget.share, form=budget.form)
    with stage("compare"):
        table = _table(request, job, network, point)

    def build(folder: Path) -> None:
        write_elastic(job.elastic, folder, like=job.like, batch=job.batch)
        write_materialized(network, folder, like=job.like, batch=job.batch)
        if job.source.kind == HF:
            keep_configuration(job.like, folder)
            if request.data and Path(request.data).suffix in data.TEXTS:
                data.keep_tokenizer(_tokenizer(request, again), folder)
        (folder / "table.csv").write_text(table.to_csv())
        write_report(folder, Story(request.command, request.model, job.elastic, point, table))
        write_manifest(
            folder,
            elastic=job.elastic,
            source=job.source,
            calibration=job.calibration,
            budget=budget,
            point=point,
            batch=job.batch,
        )

    with stage("write"):
        write_folder(request.out, build)
    show(table)
    say(f"written: {request.out.resolve()}")


def _tokenizer(request: Request, again: bool) -> Path:
    return Path(request.model) / HF if again else Path(request.model.partition(":")[2])


def _open(request: Request) -> Job:
    if request.data is None:
        raise UseError("--data is needed unless MODEL is a folder written by adlrns compress")
    with stage(f"open {request.model}"):
        model, source = open_model(request.model)
    hf = source.kind == HF
    with stage(f"open {request.data}"):
        batches = data.open_batches(
            request.data,
            batches=request.batches,
            batch_size=request.batch_size,
            tokenizer=_tokenizer(request, again=False) if hf else None,
        )
    _check_fit(request, model, batches[0])
    calibration, held_out = split(batches)
    with stage(f"watch {len(calibration)} batches, factor") as advance:
        try:
            elastic = make_elastic(
                model,
                calibration,
                forward=call,
                progress=lambda _, done, total: advance(done, total),
            )
        except (ValueError, TypeError) as error:
            raise UseError(f"MODEL {request.model}: {error}") from error
    seen = calibration_of(elastic, request.data)
    return Job(model, model, elastic.eval(), source, seen, held_out, batches[0])


def _open_again(request: Request) -> Job:
    """A folder's elastic model; its full rank stands for the model it was made from."""
    with stage(f"open {request.model}"):
        saved = load(request.model)
    source, elastic = saved.manifest.source, saved.elastic
    batches = []
    if request.data is not None:
        batches = data.open_batches(
            request.data,
            batches=request.batches,
            batch_size=request.batch_size,
            tokenizer=_tokenizer(request, again=True) if source.kind == HF else None,
        )
        _check_fit(request, elastic, batches[0])
    elastic.set_budget(flops=1.0)
    dense = materialize_model(elastic, "dense")
    batch = batches[0] if batches else saved.example().batch
    return Job(dense, saved.plain, elastic, source, saved.manifest.calibration, batches, batch)


def _check_fit(request: Request, model: nn.Module, batch: Any) -> None:
    try:
        with torch.no_grad():
            call(model, batch)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UseError(f"--data {request.data} does not fit {request.model}: {error}") from error


def _table(request: Request, job: Job, network: nn.Module, point: OperatingPoint) -> Table:
    budget = request.budget
    table = Table(f"{request.model} at {budget.share:g} of its {budget.cost}", COLUMNS)
    dense_flops = measure.flops_per_sample(job.model, job.batch)
    full = {name: profile.size.max_rank for name, profile in job.elastic.profiles.items()}
    for name, model, loss in (
        ("dense", job.model, 0.0),
        ("elastic, at the budget", job.elastic, _dial(job.elastic, budget, point).loss),
        (f"materialised, {budget.form}", network, point.loss),
    ):
        flops = measure.flops_per_sample(model, job.batch)
        off = None if model is job.model else deviation(job.model, model, job.held_out)
        table.rows.append(
            {
                "model": name,
                "parameters": measure.parameters_in_use(model),
                "mflops": flops / 1e6,
                "share": flops / dense_flops if dense_flops else None,
                "loss": loss,
                "deviation": off.relative if off else None,
                "agreement": off.agreement if off else None,
            }
        )
    table.notes += [
        f"budget: of the {len(full)} elastic layers; FLOPs in the table are the whole model's, "
        "as counted by torch",
        _held_out_note(request, job),
    ]
    if skipped := job.elastic.info.get("skipped"):
        first = [f"{name} ({reason})" for name, reason in list(skipped.items())[:3]]
        table.notes.append(f"left as they are: {len(skipped)} layers: {', '.join(first)}")
    return table


def _dial(elastic: ElasticModel, budget: Budget, settled: OperatingPoint) -> OperatingPoint:
    """Sets the elastic model to the budget as it runs, in factors, and returns its point."""
    try:
        share = budget.share
        if budget.cost == "flops":
            return elastic.set_budget(flops=share)
        return elastic.set_budget(parameters=share)
    except ValueError:  # within reach of the settled form alone
        elastic.set_ranks(settled.ranks)
        return settled


def _held_out_note(request: Request, job: Job) -> str:
    if not job.held_out:
        return "output deviation: not measured, no batch was kept apart"
    fitted = "not used to fit" if job.model is job.like else f"of {request.data}"
    return f"output deviation: |difference| / |output| on {len(job.held_out)} batches {fitted}"
