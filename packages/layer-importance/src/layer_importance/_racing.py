"""The least important units with a stated probability, for less than measuring all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceResult:
    """Who is at the bottom, and how sure that is.

    Attributes:
        bottom: the ``k`` units of least damage; those that are decided first, then the others by
            their mean so far, then as the prior has them.
        decided: those of ``bottom`` that belong to it with the stated probability.
        certain: whether all do.
        delta: probability, at most, that any decision is wrong.
        damages: mean damage of each unit over the samples it was given.
        draws: number of these samples.
    """

    bottom: tuple[str, ...]
    decided: tuple[str, ...]
    certain: bool
    delta: float
    damages: Mapping[str, float]
    draws: Mapping[str, int]


class Race:
    """Successive elimination by paired differences, valid whenever one looks.

    Each unit is an arm, its damage on one sample a draw; all arms in the race are given the same
    samples, so that what samples have in common cancels in the difference of two arms. A unit is
    *in* once it is below all but ``k`` of the others, *out* once ``k`` of them are below it; who is
    in or out runs no more. One arm is below another once a confidence sequence for the mean
    difference lies below ``epsilon``,

    ``m_t ± s_t sqrt(2 (t r² + 1) / (t² r²) log(sqrt(t r² + 1) / a))``

    with mean ``m_t`` and standard deviation ``s_t`` of the difference over ``t`` samples, and
    ``a = delta / pairs``, its normal quantile replaced by Student's for ``t - 1`` degrees of
    freedom since the deviation is estimated. It holds at all ``t`` at once: any rule may stop it.

    Assumed: samples come in random order, and differences have a little more than two moments.
    Losses are not bounded, so an empirical Bernstein bound would need a range that no sample can
    show, or a clipping that changes what is measured; this one is asymptotic instead, like
    Student's interval for normal quantiles, and no decision is made before ``first`` samples.

    Args:
        arms: names of the units.
        k: how many to find.
        delta: probability, at most, that any decision is wrong.
        epsilon: differences up to this do not matter: among units that close either may be chosen.
        prior: units in the order in which they are expected to go, where it is known; it breaks
            ties and says who goes first where nothing is known yet, and decides nothing.
        first: samples before the first decision.
        tuned: number of samples for which the sequence is tightest.

    Raises:
        ValueError: if an argument is out of its range.

    Source: Even-Dar et al., JMLR 2006, section 3 (elimination); Bubeck et al., arXiv 1205.3181
    (accepts and rejects); Waudby-Smith et al., arXiv 2103.06476, theorem 2.2 (the sequence).

    Example:
        >>> race = Race(["a", "b", "c"], 1)
        >>> noise = torch.randn(200, generator=torch.Generator().manual_seed(0))
        >>> race.add({"a": noise + 1, "b": noise, "c": noise + 0.5 * noise.flip(0) + 2})
        >>> race.done, race.result().bottom
        (True, ('b',))
    """

    def __init__(
        self,
        arms: Sequence[str],
        k: int,
        *,
        delta: float = 0.05,
        epsilon: float = 0.0,
        prior: Sequence[str] = (),
        first: int = 50,
        tuned: int = 200,
    ) -> None:
        _check(arms, k, delta, epsilon, first)
        self.arms, self.k, self.delta, self.epsilon = list(arms), k, delta, epsilon
        self.first = first
        place = {name: index for index, name in enumerate(prior)}
        self._prior = [place.get(name, len(place)) for name in self.arms]
        pairs = max(len(self.arms) * (len(self.arms) - 1) // 2, 1)
        self._level = delta / pairs
        spent = -2 * math.log(self._level)
        self._rho2 = (spent + math.log(spent + 1)) / tuned
        size = len(self.arms)
        self._alive = list(range(size))
        self._in: list[int] = []
        self._count = torch.zeros(size, dtype=torch.float64)
        self._mean = torch.zeros(size, dtype=torch.float64)
        self._comoment = torch.zeros(size, size, dtype=torch.float64)
        self._settle()

    @property
    def alive(self) -> list[str]:
        """Who is neither in nor out; the prior's first are first."""
        return [self.arms[i] for i in sorted(self._alive, key=lambda i: self._prior[i])]

    @property
    def done(self) -> bool:
        """Whether all is decided."""
        return not self._alive

    def add(self, damages: Mapping[str, Tensor]) -> None:
        """Gives every arm that is alive its damages ``[n]`` on the same ``n`` further samples.

        An arm with a damage that is not finite is out.

        Raises:
            ValueError: if one is missing or they are not as many.
        """
        if missing := [name for name in self.alive if name not in damages]:
            raise ValueError(f"damages must hold every arm alive, got none for {missing}")
        rows = {i: damages[self.arms[i]].detach().to("cpu", torch.float64) for i in self._alive}
        if len({tuple(values.shape) for values in rows.values()}) > 1:
            raise ValueError("damages must be as many for every arm")
        self._alive = [i for i in self._alive if bool(rows[i].isfinite().all())]
        if self._alive and len(rows[self._alive[0]]):
            self._combine(torch.stack([rows[i] for i in self._alive], 1))
        self._settle()

    def result(self) -> RaceResult:
        """Returns what is known now."""
        rest = sorted(self._alive, key=lambda i: (float(self._mean[i]), self._prior[i]))
        bottom = (self._in + rest)[: self.k]
        drawn = [i for i in range(len(self.arms)) if self._count[i]]
        return RaceResult(
            bottom=tuple(self.arms[i] for i in bottom),
            decided=tuple(self.arms[i] for i in self._in),
            certain=len(self._in) == self.k,
            delta=self.delta,
            damages={self.arms[i]: float(self._mean[i]) for i in drawn},
            draws={self.arms[i]: int(self._count[i]) for i in range(len(self.arms))},
        )

    def _combine(self, rows: Tensor) -> None:
        """Chan's update of means and comoments, of those alive; they all have the same count."""
        alive = torch.tensor(self._alive)
        added, before = len(rows), float(self._count[alive[0]])
        mean = rows.mean(0)
        centred, delta = rows - mean, mean - self._mean[alive]
        grown = centred.T @ centred + torch.outer(delta, delta) * before * added / (before + added)
        self._comoment[alive[:, None], alive[None, :]] += grown
        self._mean[alive] += delta * added / (before + added)
        self._count[alive] += added

    def _settle(self) -> None:
        """Lets go of all that are decided, until none is."""
        while self._alive:
            below, wanted = self._below(), self.k - len(self._in)
            accepted = below.sum(1) >= len(self._alive) - wanted
            rejected = below.sum(0) >= wanted
            settled = accepted | rejected
            if not bool(settled.any()):
                return
            # an arm within epsilon of both sides is taken in as long as there is room
            chosen = [i for i, yes in zip(self._alive, accepted.tolist(), strict=True) if yes]
            chosen.sort(key=lambda i: (float(self._mean[i]), self._prior[i]))
            self._in += chosen[:wanted]
            gone = {i for i, out in zip(self._alive, rejected.tolist(), strict=True) if out}
            self._alive = [i for i in self._alive if i not in gone and i not in self._in]

    def _below(self) -> Tensor:
        """Who is surely below whom among those alive, ``[row, column]``."""
        alive = torch.tensor(self._alive)
        count = float(self._count[alive[0]])
        if count < max(self.first, 2):
            return torch.zeros(len(alive), len(alive), dtype=torch.bool)
        spread = self._comoment[alive[:, None], alive[None, :]]
        own = spread.diagonal()
        variance = (own[:, None] + own[None, :] - 2 * spread).clamp_min(0) / (count - 1)
        upper = (
            self._mean[alive][:, None] - self._mean[alive][None, :] + self._reach(count, variance)
        )
        return (upper < self.epsilon).fill_diagonal_(False)

    def _reach(self, count: float, variance: Tensor) -> Tensor:
        scaled = count * self._rho2 + 1
        normal = math.sqrt(2 * scaled / (count * self._rho2) * math.log(scaled**0.5 / self._level))
        # the variance is estimated from the same samples
        wide = float(stats.t.isf(stats.norm.sf(normal), count - 1))
        return (variance / count).sqrt() * wide


def _check(arms: Sequence[str], k: int, delta: float, epsilon: float, first: int) -> None:
    if len(set(arms)) != len(arms) or not arms:
        raise ValueError(f"arms must be different names, at least one, got {list(arms)}")
    if not 1 <= k <= len(arms):
        raise ValueError(f"k must be in 1..{len(arms)}, got {k}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be inside 0..1, got {delta}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if first < 2:
        raise ValueError(f"first must be at least 2, got {first}")
