"""The whole of `adlrns analyze`."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

import layer_importance as importance
from adlrns import _batches as data
from adlrns._console import remark, say, show, stage
from adlrns._early import check_data
from adlrns._errors import UseError, from_user
from adlrns._folder import try_folder, write_folder
from adlrns._source import HF, open_model
from adlrns._table import Column, Table, Value
from layer_importance.interventions import CurvePoint, curve_csv, largest_ratio, removal_curve

REPORT, SCORES, PAGE = "report.json", "scores.csv", "report.html"
PLAN, CURVE = "plan.json", "curve.csv"
MEASURED = "layer_ablation"
SCHEMA = 1
FILES = {REPORT, SCORES, PAGE, PLAN, CURVE}


class Request(NamedTuple):
    """What the command line says."""

    model: str
    data: str
    methods: str
    task: str
    modality: str
    seconds: float | None
    target: float | None
    curve: int | None
    out: Path
    batches: int
    batch_size: int | None
    seed: int
    json: bool = False


def run(request: Request) -> None:
    """Analyses, prints the table, and writes the folder."""
    check_data(request.data)
    with stage(f"open {request.model}"):
        model, source = open_model(request.model, task=request.task)
    tokenizer = Path(request.model.partition(":")[2]) if source.kind == HF else None
    with stage(f"open {request.data}"), from_user(f"--data {request.data}"):
        batches = data.open_batches(
            request.data,
            batches=request.batches,
            batch_size=request.batch_size,
            tokenizer=tokenizer,
        )
    if request.target is not None:
        _check_target(request, model, batches[0])
    report = _report(request, model, batches)
    plan = None if request.target is None else _plan(request, model, batches, report)
    curve = None if request.curve is None else _curve(request, model, batches, report)
    if request.json:
        say(json.dumps(document(request, report, plan, curve), indent=1, allow_nan=False))
    else:
        show(_table(report, plan))
    for name, why in report.reasons.items():
        if name not in report.methods:
            remark(f"{name} did not run: {why}")
    for note in report.notes:
        remark(note)
    write_folder(
        request.out,
        lambda folder: _write(folder, report, plan, curve, request),
        check=check_out,
    )


def document(
    request: Request,
    report: importance.Report,
    plan: importance.CompressionPlan | None,
    curve: Sequence[CurvePoint] | None,
) -> dict[str, Any]:
    """Returns all that was found as plain data: what `--json` prints.

    Fields stay what they are as long as `schema` does; report and plan have schemas of their own.
    """
    return {
        "format": "adlrns analyze",
        "schema": SCHEMA,
        "model": request.model,
        "data": request.data,
        "folder": str(request.out),
        "report": report.to_dict(),
        "plan": None if plan is None else plan.to_dict(),
        "curve": None if curve is None else [_plain(point) for point in curve],
    }


def _plain(point: CurvePoint) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(point).items()
    }


def check_out(out: Path) -> None:
    """Refuses a folder that cannot be written, or that holds anything but an earlier analysis.

    Raises:
        UseError: if writing would fail, or destroy somebody's files.
    """
    try:
        try_folder(out)
        strange = _strange(out)
    except OSError as error:
        raise UseError(
            f"--out must be a folder that can be written, got {out}: {error.strerror}"
        ) from error
    if strange:
        raise UseError(f"--out must be new, empty or an earlier analysis, got {out} with {strange}")


def _strange(out: Path) -> str:
    """What else is there than an earlier analysis."""
    if not out.exists():
        return ""
    if not out.is_dir():
        return "a file in its place"
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if others := found - FILES:
        return min(others)
    if found:
        try:
            importance.Report.load(out / REPORT)
        except (OSError, ValueError):
            return f"no readable {REPORT}"
    return ""


def _report(request: Request, model: nn.Module, batches: Sequence[Any]) -> importance.Report:
    named = [name.strip() for name in request.methods.split(",") if name.strip()]
    for name in named:
        if name != "auto" and name not in importance.registry.names():
            known = ", ".join(["auto", *importance.registry.names()])
            near = importance.registry.nearest(name)
            raise UseError(f"--methods must be of {known}, got {name!r}{near}")
    with stage("analyse") as advance, _of(request):
        return importance.analyze(
            model,
            batches,
            methods="auto" if named == ["auto"] else named,
            task=request.task,
            modality=request.modality,
            seconds=request.seconds,
            seed=request.seed,
            progress=lambda what, done: advance(done, 0),
        )


def _check_target(request: Request, model: nn.Module, example: Any) -> None:
    """Refuses a target that no plan can meet before the time for an analysis is spent."""
    with _of(request):
        most = largest_ratio(model, example, task=request.task)
    if request.target is not None and request.target > most:
        raise UseError(
            f"--target must be reachable, at most {int(1e3 * most) / 1e3:g} with one unit of each "
            f"type left, got {request.target:g}"
        )


def _plan(
    request: Request, model: nn.Module, batches: Sequence[Any], report: importance.Report
) -> Any:
    with stage(f"plan for a ratio of {request.target:g}") as advance, _of(request):
        return importance.plan(
            model,
            batches,
            report=report,
            task=request.task,
            modality=request.modality,
            target_ratio=request.target,
            seed=request.seed,
            progress=lambda what, done: advance(done, 0),
        )


def _curve(
    request: Request, model: nn.Module, batches: Sequence[Any], report: importance.Report
) -> Sequence[CurvePoint]:
    if report.consensus is None:
        raise UseError("--curve needs a method that says what is important, got none")
    removable = set(report.units.removable.names)
    order = [name for name in report.consensus.ranking if name in removable][: request.curve]
    with stage("curve") as advance, _of(request):
        return removal_curve(
            model,
            batches,
            order,
            task=request.task,
            modality=request.modality,
            seed=request.seed,
            progress=lambda what, done: advance(done, 0),
        )


@contextmanager
def _of(request: Request) -> Iterator[None]:
    """Errors inside are about what was asked for, or the user's own code's."""
    where = f"MODEL {request.model} on --data {request.data}"
    with from_user(where):
        try:
            yield
        except (ValueError, TypeError) as error:
            raise UseError(f"{where}: {error}") from error


def _table(report: importance.Report, plan: Any) -> Table:
    agreed = report.consensus
    columns = [Column("unit", "unit"), Column("parameters", "parameters", ",d", where="wide")]
    if plan is not None:
        columns.append(Column("plan", "plan"))
    if MEASURED in report.methods:  # first, and always shown: the others estimate it
        columns.append(_column(report, MEASURED, "everywhere"))
    if agreed is not None:
        columns.append(Column("consensus", "consensus", ".3f"))
    columns += [_column(report, n, "wide") for n in report.methods if n != MEASURED]
    do: Mapping[str, str] = {} if plan is None else {a.unit: a.do for a in plan.actions}
    rows: list[Mapping[str, Value]] = []
    for unit in report.units:
        row: dict[str, Value] = {"unit": unit.name, "parameters": unit.parameters}
        if agreed is not None:
            row["consensus"] = agreed.scores.get(unit.name)
        row |= {
            name: scores[unit.name].value if unit.name in scores else None
            for name, scores in report.methods.items()
        }
        rows.append(row | {"plan": do.get(unit.name)})
    return Table("Importance of every unit", tuple(columns), rows, _notes(report, plan))


def _column(report: importance.Report, name: str, where: Literal["everywhere", "wide"]) -> Column:
    title = f"{name.replace('_', ' ')}\n{report.methods[name].measure}"
    return Column(name, title, ".3g", where=where)


def _notes(report: importance.Report, plan: Any) -> list[str]:
    notes = [] if report.consensus is None else [f"consensus: {report.consensus.why}"]
    if not math.isnan(report.validity.depth.spearman):
        notes.append(
            f"depth alone has a rank correlation of {report.validity.depth.spearman:.2f} "
            "with measured damage"
        )
    if plan is not None:
        damage = plan.damage
        notes.append(
            f"plan: {len(plan.kept)} of {len(plan.actions)} units stay, the loss changes by "
            f"{damage.mean:.3g} ({damage.low:.3g} to {damage.high:.3g})"
        )
    return notes


def _write(
    folder: Path,
    report: importance.Report,
    plan: Any,
    curve: Sequence[CurvePoint] | None,
    request: Request,
) -> None:
    report.save(folder / REPORT)
    (folder / SCORES).write_text(report.to_csv())
    title = f"Layer importance of {request.model}"
    of, points = _drawn(curve or ())
    page = report.to_html(plan=plan, curve=points, curve_of=of, title=title)
    (folder / PAGE).write_text(page)
    if curve is not None:
        (folder / CURVE).write_text(curve_csv(curve))
    if plan is not None:
        plan.save(folder / PLAN)


def _drawn(curve: Sequence[CurvePoint]) -> tuple[str, list[tuple[float, float]]]:
    """What is drawn of a curve: quality, or the loss where the task has none."""
    of = "quality" if any(not math.isnan(point.quality) for point in curve) else "loss"
    points = [(float(point.removed), float(getattr(point, of))) for point in curve]
    return of, [point for point in points if math.isfinite(point[1])]
