"""What a linear reader can tell about labels: closed-form probes, judged on other samples."""

from collections.abc import Mapping

import torch
from torch import Tensor

from layer_importance._comoments import Comoments, parts, under, wide

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEEPEST = 64.0


class ClassMoments:
    """Covariance of rows, and their mean in each class.

    Args:
        width: features of a row.
    """

    def __init__(self, width: int) -> None:
        self.total = Comoments(width, width)
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Adds rows ``[N, width]`` with whole numbers for labels ``[N]``."""
        rows = wide(rows)
        finite = rows.sum(1).isfinite()
        rows, labels = rows[finite], labels.to(rows.device)[finite]
        self.total.add(rows, rows)
        for label in labels.unique().tolist():
            mine = rows[labels == label]
            self._count(int(label), len(mine), mine.sum(0).cpu())

    def _count(self, label: int, count: int, total: Tensor) -> None:
        self.counts[label] = self.counts.get(label, 0) + count
        self.sums[label] = self.sums[label] + total if label in self.sums else total

    def merge(self, other: "ClassMoments") -> None:
        """Adds what ``other`` has seen."""
        self.total.merge(other.total)
        for label, count in other.counts.items():
            self._count(label, count, other.sums[label])

    def losses(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log loss of every held-out row, ``[n]``: of the probe and of knowing nothing.

        Linear discriminants ``(x - m)' C^-1 (m_c - m) - |m_c - m|_C^2 / 2``, with ``C`` the
        covariance within classes plus a ridge, times a steepness, plus the log of the share of
        class ``c``. Ridge and steepness are chosen on one half of the rows for the other; a
        steepness of 0 knows nothing. The answer of normal classes with one covariance.
        """
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
        names = sorted(self.counts)
        classes = torch.tensor([[c, self.counts[c]] for c in names], dtype=torch.float64)
        sums = torch.stack([self.sums[c] for c in names]) if names else self.total.products[:0]
        fields = {"names": classes.reshape(-1, 2), "sums": sums.clone()}
        return {**under("total", self.total.state()), **under("classes", fields)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "ClassMoments":
        """Returns what :meth:`state` was taken of."""
        found = parts(state)
        moments = cls(len(found["total"]["x_mean"]))
        moments.total = Comoments.from_state(found["total"])
        for (label, count), total in zip(
            found["classes"]["names"].tolist(), found["classes"]["sums"], strict=True
        ):
            moments._count(int(label), int(count), total)
        return moments


class ValueMoments:
    """Covariance of rows with each other and with values to be predicted.

    Args:
        width: features of a row.
        values: numbers to be predicted for each.
    """

    def __init__(self, width: int, values: int = 1) -> None:
        self.xx = Comoments(width, width)
        self.xy = Comoments(width, values)

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Adds rows ``[N, width]`` with labels ``[N]`` or ``[N, values]``."""
        rows = wide(rows)
        labels = wide(labels).to(rows.device).reshape(len(rows), len(self.xy.y_mean))
        finite = rows.sum(1).isfinite() & labels.sum(1).isfinite()
        rows, labels = rows[finite], labels[finite]
        self.xx.add(rows, rows)
        self.xy.add(rows, labels)

    def merge(self, other: "ValueMoments") -> None:
        """Adds what ``other`` has seen."""
        self.xx.merge(other.xx)
        self.xy.merge(other.xy)

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
        return {**under("xx", self.xx.state()), **under("xy", self.xy.state())}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "ValueMoments":
        """Returns what :meth:`state` was taken of."""
        found = parts(state)
        moments = cls(len(found["xx"]["x_mean"]))
        moments.xx = Comoments.from_state(found["xx"])
        moments.xy = Comoments.from_state(found["xy"])
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
