"""Opening a model and its data, and making the one elastic for the other."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from adlrns import _batches as data
from adlrns._compare import split
from adlrns._console import stage
from adlrns._contents import calibration_of
from adlrns._early import check_data
from adlrns._errors import UseError, from_user
from adlrns._inputs import call, has_finite
from adlrns._manifest import NAME, Budget, Calibration, Source
from adlrns._saved import load
from adlrns._source import HF, open_model
from adlrns_models import ElasticModel, make_elastic, materialize_model


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


def open_job(request: Request) -> Job:
    """Returns the elastic model of a network or of a result folder, and its data.

    Raises:
        UseError, RunError: naming the argument that is wrong.
    """
    if request.data is not None:
        check_data(request.data)
    return _open_again(request) if _is_result(request) else _open(request)


def origin_of(request: Request, source: Source) -> Path:
    """Returns the folder with the configuration, and the tokenizer, that a model came with."""
    if _is_result(request):
        return Path(request.model) / source.kind
    return Path(request.model.partition(":")[2]).expanduser()


def _is_result(request: Request) -> bool:
    return (Path(request.model) / NAME).is_file()


def _open(request: Request) -> Job:
    if request.data is None:
        raise UseError("--data is needed unless MODEL is a folder written by adlrns compress")
    with stage(f"open {request.model}"):
        model, source = open_model(request.model)
    hf = source.kind == HF
    with stage(f"open {request.data}"):
        batches = _batches(request, origin_of(request, source) if hf else None)
    _check_fit(request, model, batches[0])
    calibration, held_out = split(batches)
    elastic = _watch(request, model, calibration)
    seen = calibration_of(elastic, request.data)
    return Job(model, model, elastic.eval(), source, seen, held_out, batches[0])


def _watch(request: Request, model: nn.Module, calibration: list[Any]) -> ElasticModel:
    with (
        stage(f"watch {len(calibration)} batches, factor") as advance,
        from_user(f"MODEL {request.model} on --data {request.data}"),
    ):
        try:
            return make_elastic(
                model,
                calibration,
                forward=call,
                progress=lambda _, done, total: advance(done, total),
            )
        except (ValueError, TypeError) as error:
            if not any(map(has_finite, calibration)):
                raise UseError(f"--data {request.data} must hold finite inputs, got none") from None
            raise UseError(f"MODEL {request.model}: {error}") from error


def _batches(request: Request, tokenizer: Path | None) -> list[Any]:
    assert request.data is not None
    with from_user(f"--data {request.data}"):
        return data.open_batches(
            request.data,
            batches=request.batches,
            batch_size=request.batch_size,
            tokenizer=tokenizer,
        )


def _open_again(request: Request) -> Job:
    """A folder's elastic model; its full rank stands for the model it was made from."""
    with stage(f"open {request.model}"):
        saved = load(request.model)
    source, elastic = saved.manifest.source, saved.elastic
    batches = []
    if request.data is not None:
        hf = source.kind == HF
        batches = _batches(request, origin_of(request, source) if hf else None)
        _check_fit(request, elastic, batches[0])
    elastic.set_budget(flops=1.0)
    dense = materialize_model(elastic, "dense")
    batch = batches[0] if batches else saved.example().batch
    return Job(dense, saved.plain, elastic, source, saved.manifest.calibration, batches, batch)


def _check_fit(request: Request, model: nn.Module, batch: Any) -> None:
    with torch.no_grad(), from_user(f"MODEL {request.model} on --data {request.data}"):
        try:
            call(model, batch)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            text = f"--data {request.data} does not fit {request.model}: {error}"
            raise UseError(text) from error
