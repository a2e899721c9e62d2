"""What a unit is worth on average over which others are already gone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from layer_importance._ablation import replays
from layer_importance._coalitions import Order, count_up_to, drawn_orders, every_set, prefixes
from layer_importance._edits import removal
from layer_importance._method import PassMethod
from layer_importance._moments import Moments
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._sharing import Share, gathered, totals
from layer_importance._subject import Subject
from layer_importance._units import Unit

_Losses = Mapping[frozenset[int], Tensor]


class Shapley(PassMethod):
    """Shapley value of the game whose payoff is what the loss rises by when units are gone.

    ``phi_b = 1/k sum_{j<k} E_R [ l(without R and b) - l(without R) ]`` over sets ``R`` of ``j``
    other units. With ``depth`` ``k`` as large as the number of units that is the Shapley value,
    and values add up to ``l(without all) - l``; smaller ones stay near the full model, which is
    what a plan that takes few units away needs. 0 for a unit that never does anything.

    Every set is counted where that takes no more runs than drawing does, and the error is that of
    the samples. Else orders are drawn, in each permutation the same number for every unit:
    differences along an order add up to that of its end exactly, and the error combines that over
    permutations (``order_error``) and that over samples (``sample_error``).

    Args:
        depth: ``k``; ``None`` for all units.
        permutations: how many to draw.

    Source: Shapley (1953); Ghorbani and Zou, arXiv 1904.02868 (permutations, cut short); Castro et
    al. (2009), for the error.
    """

    name = "shapley"
    shares = True
    measure = "nats"
    needs = frozenset({"data", "labels"})

    def __init__(self, *, depth: int | None = 3, permutations: int = 10) -> None:
        if depth is not None and depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if permutations < 1:
            raise ValueError(f"permutations must be at least 1, got {permutations}")
        self.depth, self.permutations = depth, permutations

    def passes(self, units: int) -> tuple[float, float]:
        """The unchanged run and, for each set that is gone, at most a whole run."""
        depth = self._depth(units)
        drawn = 1 + self.permutations * math.lcm(units, depth)
        return float(min(count_up_to(units, depth), drawn)), 0.0

    def unmet(self, subject: Subject) -> str:
        """Returns why the method cannot run on ``subject``; empty if it can."""
        return super().unmet(subject) or ("" if subject.units.removable else "no unit is removable")

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Takes sets of units away, batch by batch."""
        players = list(subject.units.removable)
        orders = self._orders(len(players), subject.seed)
        sums = _Sums(len(players), orders, self._depth(len(players)))
        executed = length = 0.0
        for replay in replays(subject, self.name, progress):
            sums.add(_losses(replay, players, sums.sets))
            executed, length = executed + replay.executed, length + replay.length
        sums.gather(subject.share)
        executed, length = totals(subject.share, executed, length)
        return self._result(subject, players, sums, executed / max(length, 1))

    def _depth(self, players: int) -> int:
        return players if self.depth is None else min(self.depth, players)

    def _orders(self, players: int, seed: int) -> list[list[Order]] | None:
        """The orders of each permutation; ``None`` if every set is counted."""
        depth = self._depth(players)
        if count_up_to(players, depth) <= 1 + self.permutations * math.lcm(players, depth):
            return None
        generator = torch.Generator().manual_seed(seed)
        return drawn_orders(players, depth, self.permutations, generator)

    def _result(
        self, subject: Subject, players: list[Unit], sums: "_Sums", forwards: float
    ) -> MethodScores:
        reasons = {unit.name: unit.reason for unit in subject.units if not unit.removable}
        if sums.samples.skipped:
            why = f"{sums.samples.skipped} losses are not finite with units gone"
            missing = reasons | {unit.name: why for unit in players}
            return replace(self.result({}, missing=missing), forwards=forwards)
        value, samples = sums.samples.mean, sums.samples.standard_error
        orders = sums.order_error()
        error = (samples.square() + orders.square()).sqrt()
        scores = {
            unit.name: Score(float(value[i]), float(error[i]), sums.samples.count)
            for i, unit in enumerate(players)
        }
        extras = {
            "sample_error": {unit.name: float(samples[i]) for i, unit in enumerate(players)},
            "order_error": {unit.name: float(orders[i]) for i, unit in enumerate(players)},
        }
        found = self.result(scores, extras, reasons)
        return replace(found, measure=subject.task.measure, forwards=forwards)


class _Sums:
    """Values of all players, sample by sample, and permutation by permutation."""

    def __init__(self, players: int, orders: list[list[Order]] | None, depth: int) -> None:
        self._players, self._orders, self._depth = players, orders, depth
        flat = [order for group in orders or [] for order in group]
        self.sets = set(every_set(players, depth)) if orders is None else prefixes(flat)
        self.samples = Moments((players,))
        self._groups = [Moments((players,)) for _ in orders or []]

    def add(self, losses: _Losses) -> None:
        """Adds a batch: losses ``[N]`` by set of players that are gone."""
        if self._orders is None:
            self.samples.add(self._counted(losses))
            return
        drawn = [self._along(group, losses) for group in self._orders]
        for moments, values in zip(self._groups, drawn, strict=True):
            moments.add(values)
        self.samples.add(torch.stack(drawn).mean(0))

    def gather(self, share: Share) -> None:
        """Puts the sums of all processes together."""
        kept = {"": self.samples, **{str(n): group for n, group in enumerate(self._groups)}}
        found = gathered(share, kept)
        self.samples = found[""]
        self._groups = [found[str(n)] for n in range(len(self._groups))]

    def order_error(self) -> Tensor:
        """Standard error over permutations; 0 where every set was counted."""
        if self._orders is None:
            return torch.zeros(self._players, dtype=torch.float64)
        over = Moments((self._players,))
        over.add(torch.stack([moments.mean for moments in self._groups]))
        return over.standard_error

    def _along(self, orders: Sequence[Order], losses: _Losses) -> Tensor:
        total = torch.zeros(len(losses[frozenset()]), self._players, dtype=torch.float64)
        times = torch.zeros(self._players, dtype=torch.float64)
        for order in orders:
            for n, player in enumerate(order):
                gone = frozenset(order[:n])
                total[:, player] += losses[gone | {player}] - losses[gone]
                times[player] += 1
        return total / times

    def _counted(self, losses: _Losses) -> Tensor:
        total = torch.zeros(len(losses[frozenset()]), self._players, dtype=torch.float64)
        for gone in self.sets:
            if len(gone) == self._depth:
                continue
            weight = 1 / (self._depth * math.comb(self._players - 1, len(gone)))
            for player in set(range(self._players)) - gone:
                total[:, player] += weight * (losses[gone | {player}] - losses[gone])
        return total


def _losses(
    replay: Replay, players: Sequence[Unit], sets: set[frozenset[int]]
) -> dict[frozenset[int], Tensor]:
    found = {}
    for gone in sets:
        edits = {players[i].name: removal(players[i]) for i in gone}
        losses = replay.losses_with(edits) if edits else replay.losses
        found[gone] = losses.detach().to("cpu", torch.float64)
    return found
