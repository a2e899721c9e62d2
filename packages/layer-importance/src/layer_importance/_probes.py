"""What a linear reader can tell about labels: closed-form probes, judged on other samples."""

from collections.abc import Mapping

import torch
from torch import Tensor

from layer_importance._comoments import FEW, Comoments, Waiting, finite_rows, parts, under, wide

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEEPEST = 64.0


class ClassMoments:
    """Covariance of rows, and their mean in each class.

    Rows wait until there are as many as features, or some.

    Args:
        width: features of a row.
    """

    def __init__(self, width: int) -> None:
        self._total = Comoments(width, width)
        self._waiting = Waiting(max(width, FEW))
        self.sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    @property
    def total(self) -> Comoments:
        """All rows together."""
        self._settle()
        return self._total

    @property
    def counts(self) -> dict[int, int]:
        """Number of rows of each class."""
        self._settle()
        return self._counts

    def more_than(self, classes: int) -> bool:
        """Whether there are more classes among the rows that no longer wait."""
        return len(self._counts) > classes

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Adds rows ``[N, width]`` with whole numbers for labels ``[N]``."""
        rows = wide(rows)
        labels = labels.to(rows.device)
        if (finite := finite_rows(rows)) is not None:
            rows, labels = rows[finite], labels[finite]
        if len(rows) and self._waiting.add(rows, labels):
            self._settle()

    def _settle(self) -> None:
        """Adds the rows that wait."""
        if (waiting := self._waiting.take()) is None:
            return
        rows, labels = waiting
        self._total.add(rows, rows)
        names, place, counts = labels.unique(return_inverse=True, return_counts=True)
        sums = rows.new_zeros(len(names), rows.shape[1]).index_add_(0, place, rows).cpu()
        for label, count, total in zip(names.tolist(), counts.tolist(), sums, strict=True):
            self._count(int(label), count, total)

    def _count(self, label: int, count: int, total: Tensor) -> None:
        self._counts[label] = self._counts.get(label, 0) + count
        self.sums[label] = self.sums[label] + total if label in self.sums else total

    def merge(self, other: "ClassMoments") -> None:
        """Adds what ``other`` has seen."""
        self._total.merge(other._total)
        for label, count in other._counts.items():
            self._count(label, count, other.sums[label])
        # what waits there waits here: one that goes on from a state sums up what it would have
        if self._waiting.join(other._waiting):
            self._settle()

    def losses(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log loss of every held-out row, ``[n]``: of the probe and of knowing nothing.

        Linear discriminants ``(x - m)' C^-1 (m_c - m) - |m_c - m|_C^2 / 2``, with ``C`` the
        covariance within classes plus a ridge, times a steepness, plus the log of the share of
        class ``c``. Ridge and steepness are chosen on one half of the rows for the other; a
        steepness of 0 knows nothing. The answer of normal classes with one covariance.
        """
        self._settle()
        scores, priors, places = self._discriminants(rows, labels)
        losses = torch.empty(len(rows), dtype=torch.float64)
        for fit, judge in _halves(len(rows)):
            tried = []
            for score in scores:
                steepness = _steepness(score[fit], priors, places[fit])
                loss = _log_loss(priors + steepness * score, places)
                tried.append((float(loss[fit].mean()), loss[judge]))
            losses[judge] = min(tried, key=lambda pair: pair[0])[1]
        return losses, _log_loss(priors.expand(len(rows), -1), places)

    def _discriminants(self, rows: Tensor, labels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        names = sorted({*self.counts, *(int(label) for label in labels)})
        place = {label: number for number, label in enumerate(names)}
        counts = torch.tensor([self.counts.get(n, 0) for n in names], dtype=torch.float64)
        mean, n = self.total.x_mean, self.total.count
        nowhere = torch.zeros_like(mean)
        means = torch.stack(
            [self.sums[c] / self.counts[c] - mean if c in self.counts else nowhere for c in names]
        )
        within = (self.total.products - (means.T * counts) @ means) / n
        values, vectors = torch.linalg.eigh(within)
        centred, means = (rows - mean) @ vectors, means @ vectors
        scores = []
        for ridge in _RIDGES:
            weight = means * _inverse(values, ridge, self.total)
            scores.append(centred @ weight.T - (weight * means).sum(1) / 2)
        priors = ((counts + 1) / (n + len(names))).log()
        return scores, priors, torch.tensor([place[int(label)] for label in labels])

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        names = sorted(self._counts)
        classes = torch.tensor([[c, self._counts[c]] for c in names], dtype=torch.float64)
        sums = torch.stack([self.sums[c] for c in names]) if names else self._total.products[:0]
        fields = {"names": classes.reshape(-1, 2), "sums": sums.clone()}
        waiting = under("waiting", self._waiting.state())
        return {**under("total", self._total.state()), **under("classes", fields), **waiting}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "ClassMoments":
        """Returns what :meth:`state` was taken of."""
        found = parts(state)
        moments = cls(len(found["total"]["x_mean"]))
        moments._total = Comoments.from_state(found["total"])
        for (label, count), total in zip(
            found["classes"]["names"].tolist(), found["classes"]["sums"], strict=True
        ):
            moments._count(int(label), int(count), total)
        moments._waiting.restored(found.get("waiting", {}))
        return moments


class ValueMoments:
    """Covariance of rows with each other and with values to be predicted; rows wait as above.

    Args:
        width: features of a row.
        values: numbers to be predicted for each.
    """

    def __init__(self, width: int, values: int = 1) -> None:
        self._xx = Comoments(width, width)
        self._xy = Comoments(width, values)
        self._waiting = Waiting(max(width, FEW))

    @property
    def xx(self) -> Comoments:
        """Of rows with rows."""
        self._settle()
        return self._xx

    @property
    def xy(self) -> Comoments:
        """Of rows with values."""
        self._settle()
        return self._xy

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Adds rows ``[N, width]`` with labels ``[N]`` or ``[N, values]``."""
        rows = wide(rows)
        labels = wide(labels).to(rows.device).reshape(len(rows), len(self._xy.y_mean))
        if (finite := finite_rows(rows, labels)) is not None:
            rows, labels = rows[finite], labels[finite]
        if len(rows) and self._waiting.add(rows, labels):
            self._settle()

    def _settle(self) -> None:
        """Adds the rows that wait."""
        if (waiting := self._waiting.take()) is not None:
            rows, labels = waiting
            self._xx.add(rows, rows)
            self._xy.add(rows, labels)

    def merge(self, other: "ValueMoments") -> None:
        """Adds what ``other`` has seen."""
        self._xx.merge(other._xx)
        self._xy.merge(other._xy)
        if self._waiting.join(other._waiting):
            self._settle()

    def losses(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log loss of every held-out row, ``[n]``: of the probe and of knowing nothing.

        Ridge regression with normal errors. Ridge, gain and the variance of the errors are chosen
        on one half of the rows for the other.
        """
        labels = labels.reshape(len(rows), len(self.xy.y_mean)) - self.xy.y_mean
        n = max(self.xx.count, 1)
        values, vectors = torch.linalg.eigh(self.xx.products / n)
        centred, products = (rows - self.xx.x_mean) @ vectors, vectors.T @ self.xy.products / n
        inverses = [_inverse(values, ridge, self.xx) for ridge in _RIDGES]
        guesses = [centred @ (inverse[:, None] * products) for inverse in inverses]
        losses, blind = (torch.empty(len(rows), dtype=torch.float64) for _ in range(2))
        for fit, judge in _halves(len(rows)):
            tried = []
            for guess in guesses:
                along, size = (guess * labels)[fit].sum(), guess[fit].square().sum()
                gain = (along / size).clamp_min(0) if size > 0 else along * 0
                loss = _normal_loss(labels - gain * guess, fit)
                tried.append((float(loss[fit].mean()), loss[judge]))
            losses[judge] = min(tried, key=lambda pair: pair[0])[1]
            blind[judge] = _normal_loss(labels, fit)[judge]
        return losses, blind

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        waiting = under("waiting", self._waiting.state())
        return {**under("xx", self._xx.state()), **under("xy", self._xy.state()), **waiting}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "ValueMoments":
        """Returns what :meth:`state` was taken of."""
        found = parts(state)
        moments = cls(len(found["xx"]["x_mean"]))
        moments._xx = Comoments.from_state(found["xx"])
        moments._xy = Comoments.from_state(found["xy"])
        moments._waiting.restored(found.get("waiting", {}))
        return moments


def _halves(count: int) -> list[tuple[Tensor, Tensor]]:
    """Every other row for the rest: rows come by key, which says nothing about them."""
    even, odd = torch.arange(0, count, 2), torch.arange(1, count, 2)
    return [(even, odd), (odd, even)]


def _inverse(values: Tensor, ridge: float, total: Comoments) -> Tensor:
    """Inverse eigenvalues with a ridge relative to the mean one of all rows; 0 if rows are alike.

    A direction without variance within classes is the best of all, not one to leave out.
    """
    scale = total.products.diagonal().mean() / max(total.count, 1)
    return 1 / (values.clamp_min(0) + ridge * scale) if scale > 0 else torch.zeros_like(values)


def _log_loss(logits: Tensor, places: Tensor) -> Tensor:
    return -logits.log_softmax(1).gather(1, places[:, None])[:, 0]


def _steepness(scores: Tensor, priors: Tensor, places: Tensor) -> float:
    """The factor of least log loss, a convex problem: the root of its derivative by bisection."""
    right = scores.gather(1, places[:, None])[:, 0]

    def slope(factor: float) -> float:
        shares = (priors + factor * scores).softmax(1)
        return float(((shares * scores).sum(1) - right).mean())

    low, high = 0.0, 1.0
    if not slope(low) < 0:
        return 0.0
    while slope(high) < 0 and high < _STEEPEST:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return high


def _normal_loss(errors: Tensor, fit: Tensor) -> Tensor:
    variance = errors[fit].square().mean(0).clamp_min(torch.finfo(torch.float64).tiny)
    return ((2 * torch.pi * variance).log() + errors.square() / variance).sum(1) / 2
