"""What every result folder holds: two models, checked, and the file that describes them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adlrns._errors import RunError
from adlrns._inputs import call, describe, outputs
from adlrns._manifest import (
    FORMAT,
    Budget,
    Calibration,
    Manifest,
    Point,
    Source,
    fingerprints,
    versions,
)
from adlrns_models import ElasticModel, load_materialized, save_materialized
from rank_sched import OperatingPoint


def write_elastic(elastic: ElasticModel, folder: Path, *, like: nn.Module, batch: Any) -> None:
    """Writes `elastic.safetensors`, reads it again and compares the two on a batch.

    Raises:
        RunError: if what was read computes something else.
    """
    elastic.save(folder)
    loaded = ElasticModel.load(folder, like).eval()
    loaded.set_ranks(elastic.ranks())
    _check("elastic.safetensors", elastic, loaded, batch)


def write_materialized(network: nn.Module, folder: Path, *, like: nn.Module, batch: Any) -> None:
    """Writes `model.safetensors`, reads it again and compares the two on a batch.

    Raises:
        RunError: if what was read computes something else.
    """
    save_materialized(network, folder, like=like)
    _check("model.safetensors", network, load_materialized(folder, like).eval(), batch)


def _check(name: str, one: nn.Module, other: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        want, got = outputs(call(one, batch)), outputs(call(other, batch))
    if not all(_same(a, b) for a, b in zip(want, got, strict=True)):
        raise RunError(f"{name} must give back the model's outputs, got others")


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one.nan_to_num(), other.nan_to_num()))


def write_manifest(
    folder: Path,
    *,
    elastic: ElasticModel,
    source: Source,
    calibration: Calibration,
    budget: Budget,
    point: OperatingPoint,
    batch: Any,
) -> None:
    """Writes `adlrns.json` for all files that are in the folder by now."""
    Manifest(
        format=FORMAT,
        versions=versions(),
        source=source,
        calibration=calibration,
        budget=budget,
        point=Point(
            ranks=dict(point.ranks),
            loss=point.loss,
            cost=point.cost,
            dense_cost=elastic.full_cost(budget.cost),
        ),
        inputs=describe(batch),
        files=fingerprints(folder),
    ).write(folder)


def calibration_of(elastic: ElasticModel, data: str) -> Calibration:
    """Returns what is known of the data an elastic model was fitted to."""
    seen = elastic.info["calibration"]
    return Calibration(data=data, samples=seen["samples"], sha256=seen["sha256"])
