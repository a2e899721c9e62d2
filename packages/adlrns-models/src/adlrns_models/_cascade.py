"""An elastic model whose ranks follow each input."""

import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from adlrns_models._batch_rows import least, margin, put_rows, row_count, take_rows
from adlrns_models._cascade_file import load_cascade, save_cascade
from adlrns_models._cascade_ledger import Ledger
from adlrns_models._checks import check_fraction, check_kind
from adlrns_models._elastic import ElasticModel
from rank_sched import CascadeFrontier, CascadeRule, OperatingPoint

Confidence = Callable[[Any], Tensor]


class _Setting(NamedTuple):
    """What a budget has chosen, its own operating point if that serves all, and its accounts."""

    rule: CascadeRule
    own: OperatingPoint | None
    ledger: Ledger


class RankCascade(nn.Module):
    """A model that gives easy inputs few ranks and hard inputs many, within a mean budget.

    Every input runs at a cheap operating point; those whose answer is not confident run once more,
    at a better one. Made by :func:`fit_cascade` or :meth:`load`. One set of weights serves both.

    The budget is a hard one: over all inputs since it was set, the elastic layers have never
    spent more than ``flops`` times the dense cost an input, whatever inputs come. What easy inputs
    leave unspent is kept for later ones; where it does not reach, the least confident go first.
    A batch of one therefore starts with cheap answers until enough is saved. A call that runs while
    another thread sets a budget ends under the one it began with.

    Attributes:
        elastic: the model.
        points: the operating points that rules choose from, by rising cost.
        quality: mean quality of the answers at each point alone.
        rules: the frontier of rules.
        confidence: ``confidence(output)`` returns ``[B]``.
    """

    def __init__(
        self,
        elastic: ElasticModel,
        points: Sequence[OperatingPoint],
        quality: Sequence[float],
        rules: CascadeFrontier,
        *,
        confidence: Confidence = margin,
    ):
        super().__init__()
        self.elastic = elastic
        self.points, self.quality = tuple(points), tuple(quality)
        self.rules = rules
        self.confidence = confidence
        self._shares = [point.cost / elastic.full_cost() for point in points]
        self._now = _Setting(self.rules[len(self.rules) - 1], None, Ledger(math.inf))

    def set_budget(self, *, flops: float) -> CascadeRule:
        """Keeps to ``flops``, a share ``0..1`` of the dense FLOPs, from now on; returns the rule.

        Where no rule promises more than the one operating point that spends exactly this budget,
        by what is known of the points beside it, that point serves every input.

        Raises:
            TypeError, ValueError: if it is no share, or below the cheapest rule.
        """
        rule = self.rules.at(check_fraction("flops", flops))
        fixed = float(np.interp(flops, self._shares, self.quality))
        own = None
        if fixed >= rule.quality:
            own = self.elastic.point_for(flops=flops)
            cost = own.cost / self.elastic.full_cost()
            rule = CascadeRule(len(self.points), len(self.points), -math.inf, cost, fixed)
        self._now = _Setting(rule, own, Ledger(float(flops)))  # in one step: calls may be running
        return rule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the network's output, each input's at the operating point it was worth."""
        rule, own, ledger = self._now
        if own is not None or rule.first == rule.second:
            only = self._run(own or self.points[rule.first], args, kwargs)
            ledger.pay(_size(only), rule.cost)
            return only
        first = self._run(self.points[rule.first], args, kwargs)
        sure = self.confidence(first)
        size = row_count(sure)
        known = sure.detach().cpu().double()  # as the thresholds were found
        unsure = torch.from_numpy(rule.escalates(known.numpy()))
        prices = self._shares[rule.first], self._shares[rule.second]
        rows = least(known, unsure, ledger.grant(size, *prices, int(unsure.sum())))
        if not len(rows):
            return first
        again = take_rows((args, kwargs), rows, size)
        return put_rows(first, rows, self._run(self.points[rule.second], *again), size)

    @property
    def rule(self) -> CascadeRule:
        """The rule in force; its points are past the last of ``points`` where one of its own is."""
        return self._now.rule

    def _run(self, point: OperatingPoint, args: Any, kwargs: Any) -> Any:
        with self.elastic.at(ranks=point.ranks):
            return self.elastic(*args, **kwargs)

    @property
    def mean_flops(self) -> float:
        """The share of the dense FLOPs spent an input since the budget was set; 0 before any."""
        return self._now.ledger.mean

    def save(self, directory: str | PathLike[str]) -> None:
        """Writes the elastic model and ``directory/cascade.json``, each whole or not at all."""
        self.elastic.save(directory)
        save_cascade(self, directory)

    @classmethod
    def load(
        cls,
        directory: str | PathLike[str],
        model: nn.Module,
        *,
        confidence: Confidence = margin,
    ) -> "RankCascade":
        """Returns the cascade saved in ``directory``.

        Args:
            directory: where :meth:`save` wrote.
            model: the plain network it was made from (any weights); it is not changed.
            confidence: what was given to :func:`fit_cascade`: a function is not saved.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: naming file and field, if one is damaged, foreign, newer, or does not fit.
        """
        check_kind("model", model, nn.Module)
        elastic = ElasticModel.load(directory, model)
        points, quality, rules = load_cascade(directory, elastic)
        return cls(elastic, points, quality, rules, confidence=confidence)


def _size(output: Any) -> int:
    """Returns how many inputs an output answers."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if hasattr(output, "values") else output))
    return int(output.shape[0])
