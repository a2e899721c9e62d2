"""The rows of the demo's table: every model that is compared, and what is measured of each."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor, nn

from adlrns import _measure as measure
from adlrns._baselines import PlainSvd, data_aware, elastic_at
from adlrns._console import Advance
from adlrns._energy import EnergyReader
from adlrns._settle import settle
from adlrns._table import Column, Table, Value
from adlrns.demo import Digits
from adlrns_models import ElasticModel
from rank_sched import OperatingPoint, allocate, uniform

STATIC = 0.5  # share of the FLOPs at which the fixed forms are compared
FORMS = ("factored", "identity", "auto")

COLUMNS = (
    Column("model", "model"),
    Column("budget", "budget", ".2f"),
    Column("accuracy", "accuracy", ".1%"),
    Column("mflops", "MFLOPs\na sample", ".3f"),
    Column("parameters", "parameters\nin use", ",d", where="wide"),
    Column("weights_mb", "weights\nheld, MB", ".2f", where="wide"),
    Column("mean_rank", "mean\nrank", ".1f", where="wide"),
    Column("latency_1_ms", "p50 ms,\nbatch 1", ".3f", where="wide"),
    Column("ratio_1", "/ dense", ".2f", where="wide"),
    Column("latency_64_ms", "p50 ms,\nbatch 64", ".2f"),
    Column("ratio_64", "/ dense", ".2f"),
)


def columns(meter: str) -> tuple[Column, ...]:
    """Returns the columns; the heading of the energy says where it comes from."""
    energy = Column("energy_uj", f"µJ a sample,\n{meter}", ".0f", where="wide")
    return (*COLUMNS, energy, Column("energy_by", "energy by", where="csv"))


@dataclass(frozen=True)
class Variant:
    """One model of the table."""

    name: str
    model: nn.Module
    budget: float | None
    point: OperatingPoint | None


def variants(
    net: nn.Module, elastic: ElasticModel, svd: PlainSvd, budgets: tuple[float, ...]
) -> list[Variant]:
    """Returns the models to compare, the dense one first."""
    found = [Variant("dense", net, None, None)]
    for name, chooser in (("uniform ranks", uniform), ("allocated ranks", allocate)):
        point = svd.tables.choose(chooser, STATIC)
        found.append(Variant(f"plain SVD, {name}", svd.at(point), STATIC, point))
    point = data_aware(elastic).choose(uniform, STATIC)
    found.append(Variant("data-aware, uniform ranks", elastic_at(elastic, point), STATIC, point))
    for budget in budgets:
        moved = copy.deepcopy(elastic)
        found.append(Variant("adaptive", moved, budget, moved.set_budget(flops=budget)))
    for form in FORMS:
        settled, point = settle(elastic, cost="flops", share=STATIC, form=form)
        found.append(Variant(f"materialised, {form}", settled, STATIC, point))
    return found


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the share of right answers."""
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def table(
    found: list[Variant],
    data: Digits,
    full_ranks: Mapping[str, int],
    *,
    rounds: int,
    progress: Advance,
) -> Table:
    """Returns the demo's table, measured."""
    reader, keys = EnergyReader(), [f"{v.name}, {v.budget}" for v in found]
    models = {key: v.model for key, v in zip(keys, found, strict=True)}
    many = data.test_x[:64]
    one = measure.latencies(models, many[:1], rounds=4 * rounds, progress=progress)
    batch = measure.latencies(models, many, rounds=rounds, progress=progress)
    result = Table("one network, every budget", columns(reader.name))
    for key, variant in zip(keys, found, strict=True):
        ranks = variant.point.ranks if variant.point else full_ranks
        row: dict[str, Value] = {
            "model": variant.name,
            "budget": variant.budget,
            "accuracy": accuracy(variant.model, data.test_x, data.test_y),
            "mflops": measure.flops_per_sample(variant.model, many) / 1e6,
            "parameters": measure.parameters_in_use(variant.model),
            "weights_mb": measure.weight_bytes(variant.model) / 1e6,
            "mean_rank": fmean(ranks.values()),
            "latency_1_ms": 1e3 * median(one[key]),
            "latency_64_ms": 1e3 * median(batch[key]),
            "ratio_1": measure.paired_ratio(one[key], one[keys[0]]),
            "ratio_64": measure.paired_ratio(batch[key], batch[keys[0]]),
            "energy_uj": 1e6 * reader.per_sample_j(variant.model, many, seconds=median(batch[key])),
            "energy_by": reader.name,
        }
        result.rows.append(row)
    result.notes += _notes(len(data.test_x), rounds, reader)
    return result


def _notes(samples: int, rounds: int, reader: EnergyReader) -> list[str]:
    return [
        f"accuracy: {samples} test images; one image is {1 / samples:.1%}",
        "budget: share of the dense FLOPs; FLOPs as counted by torch, a multiply-add is two",
        "adaptive: one set of weights for all budgets, so the weights held do not change",
        f"time: medians of {4 * rounds} and {rounds} interleaved rounds, "
        f"{torch.get_num_threads()} torch thread(s); ratios are medians of those within rounds",
        f"{reader.note}; batches of 64",
    ]
