"""The whole of `adlrns compress`."""

from pathlib import Path

from torch import nn

from adlrns import _batches as data, _measure as measure
from adlrns._compare import deviation
from adlrns._compress_report import Story, write_report
from adlrns._console import say, show, stage
from adlrns._contents import write_elastic, write_manifest, write_materialized
from adlrns._errors import UseError
from adlrns._folder import write_folder
from adlrns._job import Job, Request, open_job, origin_of
from adlrns._manifest import Budget
from adlrns._settle import counted_form, forms_of, settle, told_forms
from adlrns._source import HF, keep_configuration
from adlrns._table import Column, Table
from adlrns._target import check_contents
from adlrns_models import ElasticModel
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


def run(request: Request) -> None:
    """Compresses, prints the table, and writes the folder."""
    budget = request.budget
    if budget.form == "fastest" and request.data is None:
        raise UseError("--form fastest needs --data, to be fast on batches of that size")
    job = open_job(request)
    with stage("settle within the budget"):
        network, point = settle(
            job.elastic,
            cost=budget.cost,
            share=budget.share,
            form=budget.form,
            batch=job.batch,
        )
    with stage("compare"):
        table = _table(request, job, network, point)

    def build(folder: Path) -> None:
        write_elastic(job.elastic, folder, like=job.like, batch=job.batch)
        write_materialized(network, folder, like=job.like, batch=job.batch)
        origin = origin_of(request, job.source)
        keep_configuration(job.source, job.like, origin, folder)
        if job.source.kind == HF and request.data and Path(request.data).suffix in data.TEXTS:
            data.keep_tokenizer(origin, folder)
        (folder / "table.csv").write_text(table.to_csv())
        form = counted_form(budget.form)
        story = Story(request.command, request.model, job.elastic, point, form, table)
        write_report(folder, story)
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
        write_folder(request.out, build, check=check_contents)
    show(table)
    say(f"written: {request.out.resolve()}")


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
        "predicted loss: squared change of the outputs, summed, a sample; to first order, so too "
        "small at deep cuts",
        f"materialised layers, by their form: {told_forms(forms_of(network, full))}",
        _held_out_note(request, job),
    ]
    if rows := job.elastic.info.get("non_finite_rows"):
        table.notes.append(
            f"not finite, so in no statistic: {max(rows.values())} rows of inputs at one of "
            f"{len(rows)} layers"
        )
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
        if request.data is None:
            return "output deviation: not measured: give --data"
        return "output deviation: not measured, no batch was kept apart"
    fitted = "not used to fit" if job.model is job.like else f"of {request.data}"
    return f"output deviation: |difference| / |output| on {len(job.held_out)} batches {fitted}"
