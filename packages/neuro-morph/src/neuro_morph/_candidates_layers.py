"""New layers and new connections that could be grown next, beside wider groups."""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import nn

from neuro_morph._budget import Budget
from neuro_morph._candidates import widenings
from neuro_morph._edge_scores import score_edges
from neuro_morph._edit import Edit
from neuro_morph._edit_connect import Connect
from neuro_morph._edit_deepen import Deepen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._grafts import CONTAINER
from neuro_morph._group_statistics import Statistics
from neuro_morph._initial import UnitInit
from neuro_morph._inputs import ExampleInputs
from neuro_morph._morpher import Morpher
from neuro_morph._score import DEFAULT_WEIGHTS, scores_of
from neuro_morph._smaller import fitting
from neuro_morph._tapping import LossFn, left_as_it_was
from neuro_morph._wrappers import unwrap

KINDS = ("widen", "deepen", "connect")
_ENDS = 16  # modules that connections are looked for between


def candidates(
    morpher: Morpher,
    statistics: Statistics,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    kinds: Sequence[str] = KINDS,
    growth: float = 0.25,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    init: UnitInit | None = None,
    budget: Budget | None = None,
    most: int = 3,
) -> list[Edit]:
    """Returns what could be grown next: the best of each kind, then the second best, and so on.

    Scores of different kinds are not comparable, so the kinds take turns; which is worth most is
    for a tournament to find out. Widenings that would overspend are made smaller.

    Args:
        morpher: the run.
        statistics: what was measured of the model as it is.
        loss_fn: ``loss_fn(model, batch)`` gives the loss of a batch, or of its examples.
        batches: batches; connections are scored on the first.
        kinds: of ``"widen"``, ``"deepen"`` and ``"connect"``, in the order in which they come.
        growth: see :func:`widenings`.
        weights: see :func:`widenings`.
        init: see :func:`widenings`.
        budget: what may be spent; None for no limit.
        most: how many there are at most.

    Raises:
        ValueError: for an unknown kind, or no kind.
    """
    check_kinds(kinds)
    found: dict[str, Sequence[Edit]] = {}
    if "widen" in kinds:
        graph = morpher.graph
        found["widen"] = widenings(graph, statistics, growth=growth, weights=weights, init=init)
    if "deepen" in kinds:
        found["deepen"] = deepenings(morpher.model, statistics, weights=weights)
    if "connect" in kinds:
        found["connect"] = connections(morpher, statistics, loss_fn, batches[0], weights=weights)
    turns = chain.from_iterable(zip_longest(*(found[kind] for kind in kinds)))
    edits = [edit for edit in turns if edit is not None]
    if budget is None:
        return edits[:most]
    chosen: list[Edit] = []
    for edit in edits:
        if len(chosen) < most and (small := fitting(morpher, edit, budget)) is not None:
            chosen.append(small)
    return chosen


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises ValueError for an unknown kind, no kind, or one name in the place of several."""
    if isinstance(kinds, str):
        raise ValueError(f"kinds must be a list of names, got {kinds!r}")
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be among {', '.join(KINDS)}; got {list(kinds)!r}")


def deepenings(
    model: nn.Module, statistics: Statistics, *, weights: Mapping[str, float] = DEFAULT_WEIGHTS
) -> list[Deepen]:
    """Returns a new layer behind the place of every group, by falling score.

    It goes behind the block that makes the units, where blocks stand in a list; behind the ReLU
    that follows in a sequence (then it begins as the identity); else behind the layer itself.
    """
    model, found = unwrap(model), dict[str, Deepen]()
    for name in scores_of(statistics, weights):
        held = statistics[name]
        layers = [held.maker] if held.maker is not None else held.readers[:1]
        for layer in layers:
            path = layer.path if hasattr(layer, "path") else layer.layer.path
            found.setdefault(_place(model, path), Deepen(_place(model, path)))
    return list(found.values())


def _place(model: nn.Module, path: str) -> str:
    """Returns the module behind which a layer goes that stands beside another."""
    parts = path.split(".")
    for k in range(len(parts), 0, -1):
        parent = model.get_submodule(".".join(parts[: k - 1]))
        if isinstance(parent, nn.ModuleList):
            return ".".join(parts[:k])
        if isinstance(parent, nn.Sequential):
            return ".".join([*parts[: k - 1], _activation(parent, parts[k - 1])])
    return path


def _activation(parent: nn.Sequential, key: str) -> str:
    """Returns the ReLU that follows before the next layer with parameters, else the key itself."""
    keys = list(parent._modules)
    for after in keys[keys.index(key) + 1 :]:
        if isinstance(parent._modules[after], nn.ReLU | nn.ReLU6):
            return after
        if isinstance(parent._modules[after], nn.Linear | nn.modules.conv._ConvNd):
            break
    return key


def connections(
    morpher: Morpher,
    statistics: Statistics,
    loss_fn: LossFn,
    batch: Any,
    *,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> list[Connect]:
    """Returns the connections with the largest gain per parameter between the layers of groups.

    See :func:`score_edges`. The layers are those that read the units of the groups that score best;
    there are none where no connection can be scored.
    """
    ends = [r.layer.path for n in scores_of(statistics, weights) for r in statistics[n].readers]
    ends = [path for path in dict.fromkeys(ends) if CONTAINER not in path.split(".")][:_ENDS]
    try:
        inputs = _inputs_of(morpher.model, loss_fn, batch)
        found = score_edges(
            morpher.model,
            inputs,
            lambda output: loss_fn(_Given(output), batch).mean(),
            sources=ends,
            targets=ends,
        )
    except (GrowthRefusedError, ValueError, RuntimeError):
        return []
    return [Connect(each.source, each.target) for each in found if each.gain > 0.0]


class _Given(nn.Module):
    """Stands for a model that has given its output already."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


def _inputs_of(model: nn.Module, loss_fn: LossFn, batch: Any) -> ExampleInputs:
    """Returns what a model is called with for a batch."""
    held: list[tuple[Any, Any]] = []

    class Seen(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            held.append((args, kwargs))
            return model(*args, **kwargs)

    with torch.no_grad(), left_as_it_was(model):
        loss_fn(Seen(), batch)
    if len(held) != 1:
        raise GrowthRefusedError(f"the model is called {len(held)} times for a batch")
    return ExampleInputs(*held[0])
