"""An elastic model whose ranks follow each input."""

import math
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adlrns_models._batch_rows import least, margin, put_rows, row_count, take_rows
from adlrns_models._cascade_file import load_cascade, save_cascade
from adlrns_models._checks import check_fraction, check_kind
from adlrns_models._elastic import ElasticModel
from rank_sched import CascadeFrontier, CascadeRule, OperatingPoint

Confidence = Callable[[Any], Tensor]


class RankCascade(nn.Module):
    """A model that gives easy inputs few ranks and hard inputs many, within a mean budget.

    Every input runs at a cheap operating point; those whose answer is not confident run once more,
    at a better one. Made by :func:`fit_cascade` or :meth:`load`. One set of weights serves both.

    The budget is a hard one: over all inputs since it was set, the elastic layers have never
    spent more than ``flops`` times the dense cost an input, whatever inputs come. What easy inputs
    leave unspent is kept for later ones; where it does not reach, the least confident go first.
    A batch of one therefore starts with cheap answers until enough is saved.

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
        self._lock = threading.Lock()
        self._restart(self.rules[len(self.rules) - 1], math.inf)

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
        with self._lock:
            self._restart(rule, flops, own)
        return rule

    def _restart(self, rule: CascadeRule, budget: float, own: OperatingPoint | None = None) -> None:
        self._now, self._budget = (rule, own), budget  # in one step: a call may be running
        self._credit, self._spent, self._inputs = 0.0, 0.0, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the network's output, each input's at the operating point it was worth."""
        rule, own = self._now
        if own is not None or rule.first == rule.second:
            only = self._run(own or self.points[rule.first], args, kwargs)
            self._account(rule.cost * _size(only), _size(only))
            return only
        first = self._run(self.points[rule.first], args, kwargs)
        sure = self.confidence(first)
        size = row_count(sure)
        unsure = torch.from_numpy(rule.escalates(sure.detach().float().cpu().numpy()))
        rows = least(sure.detach().cpu(), unsure, self._grant(rule, size, int(unsure.sum())))
        if not len(rows):
            return first
        again = take_rows((args, kwargs), rows, size)
        return put_rows(first, rows, self._run(self.points[rule.second], *again), size)

    @property
    def rule(self) -> CascadeRule:
        """The rule in force; its points are past the last of ``points`` where one of its own is."""
        return self._now[0]

    def _run(self, point: OperatingPoint, args: Any, kwargs: Any) -> Any:
        with self.elastic.at(ranks=point.ranks):
            return self.elastic(*args, **kwargs)

    def _grant(self, rule: CascadeRule, size: int, wanted: int) -> int:
        """Takes from the credit what the second run of some inputs costs; returns how many."""
        with self._lock:
            credit = self._credit + size * (self._budget - self._shares[rule.first])
            price = self._shares[rule.second]
            granted = wanted if math.isinf(credit) else min(wanted, math.floor(credit / price))
            self._credit = credit - granted * price
        self._account(size * self._shares[rule.first] + granted * price, size)
        return granted

    def _account(self, spent: float, inputs: int) -> None:
        with self._lock:
            self._spent, self._inputs = self._spent + spent, self._inputs + inputs

    @property
    def mean_flops(self) -> float:
        """The share of the dense FLOPs spent an input since the budget was set; 0 before any."""
        with self._lock:
            return self._spent / self._inputs if self._inputs else 0.0

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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()


def _size(output: Any) -> int:
    """Returns how many inputs an output answers."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if hasattr(output, "values") else output))
    return int(output.shape[0])
