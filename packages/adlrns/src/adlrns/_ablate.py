"""Each part of the method switched off in turn."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from adlrns._ablate_events import stream_scores
from adlrns._ablate_factors import evenly, refactored, sketches_of
from adlrns._console import stage
from adlrns._experiment_nets import per_input
from adlrns._experiment_train import Base, calibration, elastic_of
from adlrns._score import score
from adlrns_models import ElasticModel

# a sketch of so many times fewer rows
SMALLER = 8


class Scored(NamedTuple):
    """How good a network is, and what it took as a share of the dense FLOPs."""

    metric: float
    flops: float


def ablations(base: Base) -> list[dict[str, Any]]:
    """Returns a row for each part: with it and without it, at one budget."""
    rows = []
    whole = elastic_of(base, base.config.run.sketch_size)
    for part, compare in _PARTS.items():
        with stage(f"seed {base.seed}: switch off {part}"):
            pair = compare(base, whole)
        if pair is not None:
            on, off = pair
            rows.append({"part": part, "on": on._asdict(), "off": off._asdict()})
    return rows


Pair = tuple[Scored, Scored] | None


def _gates(base: Base, whole: ElasticModel) -> Pair:
    cascade = per_input(whole, base.parts, base.config.run.ablation_budget)
    return None if cascade is None else (_at_budget(base, whole), _fixed(base, whole))


def _data(base: Base, whole: ElasticModel) -> Pair:
    plain = refactored(base.dense, whole.profiles, dict.fromkeys(whole.profiles))
    return _at_budget(base, whole), _at_budget(base, plain)


def _allocation(base: Base, whole: ElasticModel) -> Pair:
    return _at_budget(base, whole), _at_budget(base, evenly(whole))


def _centring(base: Base, whole: ElasticModel) -> Pair:
    made = partial(
        sketches_of,
        base.dense,
        list(whole.profiles),
        calibration(base),
        size=base.config.run.sketch_size,
    )
    on, off = (
        _at_budget(base, refactored(base.dense, whole.profiles, made(center=center)))
        for center in (True, False)
    )
    return on, off


def _sketch_size(base: Base, whole: ElasticModel) -> Pair:
    small = max(2, base.config.run.sketch_size // SMALLER)
    return _at_budget(base, whole), _at_budget(base, elastic_of(base, small))


def _events(base: Base, whole: ElasticModel) -> Pair:
    found = stream_scores(base, whole)
    return None if found is None else (Scored(*found[0]), Scored(*found[1]))


_PARTS: dict[str, Callable[[Base, ElasticModel], Pair]] = {
    "gates": _gates,
    "data-awareness": _data,
    "allocation": _allocation,
    "centring": _centring,
    f"sketch size (to 1/{SMALLER})": _sketch_size,
    "events": _events,
}


def _at_budget(base: Base, elastic: ElasticModel) -> Scored:
    """Scores an elastic network at the budget, its ranks following each input where they can."""
    cascade = per_input(elastic, base.parts, base.config.run.ablation_budget)
    if cascade is None:
        return _fixed(base, elastic)
    metric = score(cascade, base.parts.task)
    return Scored(metric, cascade.mean_flops)


def _fixed(base: Base, elastic: ElasticModel) -> Scored:
    point = elastic.set_budget(flops=base.config.run.ablation_budget)
    return Scored(score(elastic, base.parts.task), point.cost / elastic.full_cost())
