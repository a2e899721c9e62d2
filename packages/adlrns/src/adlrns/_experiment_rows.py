"""What is measured of each row."""

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from adlrns import _measure as measure
from adlrns._console import Advance
from adlrns._datasets import Task
from adlrns._energy import EnergyReader
from adlrns._experiment_nets import weights_at
from adlrns._experiment_static import Candidate
from adlrns._score import batches, score
from rank_sched import HardwareProfile

# batches over which counts and energy are averaged: inputs differ in what they cost
_BATCHES = 4
# single inputs that are timed, one after the other
_SINGLES = 64


def measured(
    found: Sequence[Candidate],
    task: Task,
    *,
    size: int,
    rounds: int,
    advance: Advance,
    hardware: HardwareProfile | None = None,
) -> list[dict[str, Any]]:
    """Returns the numbers of each candidate, the first being what the others are compared with.

    Args:
        found: the candidates.
        task: its validation part is what they run on.
        size: inputs of the larger of the two batches that are timed.
        rounds: rounds of timing of that batch; single inputs get four times as many.
        advance: told of the rounds.
        hardware: whose joules an estimate takes where there is no meter.
    """
    many = [x for x, _ in islice(batches(task.valid, size=size), _BATCHES)]
    one = list(many[0][:_SINGLES].split(1))
    models = {str(i): candidate.net for i, candidate in enumerate(found)}
    scores = [score(candidate.net, task) for candidate in found]
    slow = interleaved(models, one, rounds=4 * rounds, advance=lambda done, total: None)
    fast = interleaved(models, many, rounds=rounds, advance=advance)
    reader = EnergyReader() if hardware is None else EnergyReader(hardware)
    rows = []
    for i, (candidate, metric) in enumerate(zip(found, scores, strict=True)):
        row: dict[str, Any] = {
            "model": candidate.name,
            "budget": candidate.budget,
            "metric": metric,
        }
        row |= _timed("1", slow[str(i)], slow["0"]) | _timed("n", fast[str(i)], fast["0"])
        row["memory_bytes"] = served_bytes(candidate)
        row["flops"] = fmean(measure.flops_per_sample(candidate.net, x) for x in many)
        row["energy_j"] = _energy(reader, candidate.net, many, fast[str(i)])
        row |= {"energy_by": reader.name, "energy_note": reader.note, "forms": candidate.forms}
        rows.append(row)
    return rows


def interleaved(
    models: Mapping[str, nn.Module], inputs: Sequence[Tensor], *, rounds: int, advance: Advance
) -> dict[str, list[float]]:
    """Returns the seconds of a forward pass, by model, one number a round.

    Models take turns, and each round has the next of the inputs: what a network spends may depend
    on what it is given.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for model in models.values():  # first calls allocate and choose algorithms
            model(inputs[0])
        for done in range(rounds):
            x = inputs[done % len(inputs)]
            for name, model in models.items():
                start = time.perf_counter()
                model(x)
                times[name].append(time.perf_counter() - start)
            advance(done + 1, rounds)
    return times


def _energy(
    reader: EnergyReader, net: nn.Module, inputs: Sequence[Tensor], times: Sequence[float]
) -> float:
    """Returns the joules of a sample: rounds went through the inputs in turn."""
    joules, turn = [], len(inputs)
    for i, x in enumerate(inputs[: len(times)]):
        joules.append(reader.per_sample_j(net, x, seconds=median(times[i::turn])))
    return fmean(joules)


def _timed(batch: str, times: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    return {
        f"p50_{batch}_s": median(times),
        f"mean_{batch}_s": fmean(times),
        f"ratio_{batch}": measure.paired_ratio(times, baseline),
    }


def served_bytes(candidate: Candidate) -> int:
    """Returns the bytes of the weights that a candidate needs at its operating points."""
    if candidate.elastic is None:
        return measure.weight_bytes(candidate.net)
    inside: set[int] = set()
    total = 0
    for name, layer in candidate.elastic.layers().items():
        ranks = [point.ranks[name] for point in candidate.points]
        low = max((rank for rank in ranks if rank <= layer.break_even), default=0)
        biases = low + layer.sizes[0]
        total += (weights_at(layer, ranks) + biases) * layer.up.element_size()
        inside |= {id(parameter) for parameter in layer.parameters()}
    rest = [p for p in candidate.elastic.parameters() if id(p) not in inside]
    return total + sum(p.numel() * p.element_size() for p in rest)
