"""How much a unit changes what its stream says about which samples are alike."""

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from layer_importance._branch import pooled
from layer_importance._comoments import wide
from layer_importance._events import BatchEvent, UnitEvent
from layer_importance._hsic import Hsic, cka, cka_error, linear, ratio, u_centred
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._moments import Moments
from layer_importance._samples import Sample
from layer_importance._scores import MethodScores, Score, Table
from layer_importance._subject import Subject


class LayerCorrelation(KeyedMethod):
    """One minus the unbiased linear CKA of what goes in and what comes out: ``1 - CKA(x, y)``.

    A sample is the mean of its real tokens or places. ``CKA = HSIC(x, y) / sqrt(HSIC(x, x)
    HSIC(y, y))`` with Song's unbiased estimate over all pairs of samples of the whole run. 0 means
    that the unit only shifts, scales or rotates its stream as one, 1 that what comes out has
    nothing to do with what goes in. It may be slightly below 0, and it is blind to gain. The
    standard error is the delta method's, over samples.

    Streams wider than ``max_width`` are compared on ``samples`` samples drawn by their content;
    narrower ones on all. Tables:

    * ``cka``: unbiased CKA between what comes out of every two units, on those samples.
    * ``angular_distance``: ``E arccos(cos(x_l, y_m)) / pi`` from what goes into unit ``l`` (row) to
      what comes out of unit ``m`` (column) of the same tower: the cost, by angle, of leaving out
      units ``l`` to ``m``. It is taken at the last real token, or of the mean over places.

    Source: Kornblith et al., arXiv 1905.00414, eq. 4; unbiased: Nguyen et al., arXiv 2010.15327,
    eq. 4; the angle: Gromov et al., arXiv 2403.17887, eq. 5.

    Args:
        samples: how many samples the tables rest on.
        max_width: widest stream whose covariance is kept, ``[width, width]``.
    """

    name = "layer_correlation"
    kinds: ClassVar[Kinds] = {
        "xx": Hsic,
        "xy": Hsic,
        "yy": Hsic,
        "x": Sample,
        "y": Sample,
        "angle": Moments,
    }

    def __init__(self, *, samples: int = 256, max_width: int = 512) -> None:
        super().__init__()
        self.samples, self.max_width = samples, max_width
        self._towers: dict[str, str] = {}
        self._ends: dict[str, tuple[Tensor, Tensor]] = {}

    def begin(self, subject: Subject) -> None:
        """Learns which units are of one tower."""
        super().begin(subject)
        self._towers = {unit.name: unit.tower for unit in subject.units}

    def read(self, event: UnitEvent) -> None:
        """Adds the samples of a batch."""
        name = event.unit.name
        sides = {"x": pooled(event, "x"), "y": pooled(event, "y")}
        for side, rows in sides.items():
            self.kept(name, side, lambda: Sample(self.samples)).add(self._sample_keys, rows)
        widths = {side: rows.shape[1] for side, rows in sides.items()}
        if max(widths.values()) <= self.max_width:
            for a, b in ("xx", "xy", "yy"):
                new = partial(Hsic, widths[a], widths[b])
                self.kept(name, a + b, new).add(sides[a], sides[b])
        if event.channels > 0:
            self._ends[name] = sides["x"], sides["y"]
        else:
            self._ends[name] = last(event, event.x), last(event, event.y)

    def batch(self, event: BatchEvent) -> None:
        """Compares the ends of all spans, and forgets them."""
        del event
        ends, self._ends = self._ends, {}
        order = sorted(ends, key=self._names.index)
        for place, first in enumerate(order):
            x, tower = ends[first][0], self._towers[first]
            behind = [n for n in order[place:] if self._towers[n] == tower]
            behind = [n for n in behind if ends[n][1].shape == x.shape]
            if behind:  # of all spans that begin here at once
                angles = angle(x, torch.stack([ends[n][1] for n in behind]))
                for second, values in zip(behind, angles.cpu(), strict=True):
                    self.kept(f"{first}>{second}", "angle", Moments).add(values)

    def scores(self) -> MethodScores:
        """One minus CKA with its error, and both tables."""
        scores, missing = {}, {}
        xs, ys = self.found("x"), self.found("y")
        for name in xs:
            score = self._score(name, xs[name], ys[name])
            if isinstance(score, Score):
                scores[name] = score
            else:
                missing[name] = score
        tables = {
            "cka": _similarities(ys),
            "angular_distance": _angles(self.found("angle"), self._names),
        }
        return self.result(scores, missing=missing, tables=tables)

    def _score(self, name: str, x: Sample, y: Sample) -> Score | str:
        if len(x) < 4 or len(y) != len(x):
            return f"needs at least 4 samples, got {min(len(x), len(y))}"
        K, L = linear(x.rows), linear(y.rows)
        value, count = cka(K, L), len(x)
        streamed = self._kept.get(f"{name}/xy")
        if isinstance(streamed, Hsic):
            parts = [self.found(pair)[name].value for pair in ("xy", "xx", "yy")]
            value, count = ratio(*parts), streamed.count
        if math.isnan(value):
            return "its samples do not differ enough, before or behind it, to be compared"
        return Score(1 - value, cka_error(K, L) * (len(x) / count) ** 0.5, count)


def last(event: UnitEvent, tensor: Tensor) -> Tensor:
    """Returns the last real token of each sample, ``[N, D]``."""
    tokens = event.tokens(tensor)
    if event.mask is None or event.mask.shape != tokens.shape[:2]:
        return wide(tokens[:, -1])
    behind = event.mask.bool().flip(1).long().argmax(1)
    return wide(tokens[torch.arange(len(tokens)), tokens.shape[1] - 1 - behind])


def angle(x: Tensor, y: Tensor) -> Tensor:
    """Returns the angle of every two rows over pi, ``[..., N]``; NaN for a row of zeros.

    By ``2 atan2(|a - b|, |a + b|)`` of the unit vectors, exact also for small angles.
    """
    a, b = (rows / rows.norm(dim=-1, keepdim=True) for rows in (x, y))
    return 2 / torch.pi * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def _similarities(samples: dict[str, Sample]) -> Table:
    names = [name for name, sample in samples.items() if len(sample) > 3]
    rows = [u_centred(linear(samples[name].rows)).flatten() for name in names]
    alike = [torch.equal(samples[a].keys, samples[b].keys) for a in names for b in names]
    norms = [row.norm() for row in rows]
    products = [
        float(rows[i] @ rows[j] / (norms[i] * norms[j]))
        if alike[i * len(names) + j]
        else float("nan")
        for i in range(len(names))
        for j in range(len(names))
    ]
    return _table(names, products)


def _angles(found: dict[str, Moments], order: list[str]) -> Table:
    ends = {end for key in found for end in key.split(">")}
    names = [name for name in order if name in ends] or sorted(ends)
    means = {key: float(moments.mean) for key, moments in found.items() if moments.count}
    return _table(names, [means.get(f"{a}>{b}", float("nan")) for a in names for b in names])


def _table(names: list[str], values: list[float]) -> Table:
    width = len(names)
    rows = tuple(tuple(values[i * width : (i + 1) * width]) for i in range(width))
    return Table(tuple(names), tuple(names), rows)
