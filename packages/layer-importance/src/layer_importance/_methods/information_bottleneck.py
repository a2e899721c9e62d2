"""What a unit does to the information about labels and inputs that its stream carries."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from layer_importance._branch import pooled
from layer_importance._events import UnitEvent
from layer_importance._hsic import hsic
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._method import Need
from layer_importance._probes import ClassMoments, ValueMoments
from layer_importance._renyi import cosine, entropy, mutual_information, near, same
from layer_importance._samples import Sample
from layer_importance._scores import Direction, MethodScores, Score
from layer_importance._subject import Subject

_FEWEST = 8


class InformationBottleneck(KeyedMethod):
    """Usable information about the label that a unit adds: ``I_V(y -> Y) - I_V(x -> Y)``.

    ``I_V(T -> Y) = H(Y) - E loss`` in nats, where the loss is the log loss of a linear reader of
    ``T`` (the mean over a sample's tokens) on samples that it was not fitted on, and ``H(Y)`` that
    of one who knows nothing but how common each label is. Half of the samples, drawn by content,
    are read as sums for the fit; at most ``samples`` others judge. 0 means that a linear reader is
    neither better nor worse off behind the unit, negative that something was lost to it: the data
    processing inequality does not bind what is *usable*. It is a diagnostic: what a unit prepares
    for later units to bring out does not show here. Labels are classes (whole numbers) or values
    (floating, with normal errors), one or one vector a sample.

    A deterministic net loses no Shannon information between continuous layers, so that ``I(X; T)``
    by binning only measures its bins. Beside the score stand, all on the judging samples:

    * ``usable_in``, ``usable_out``: ``I_V`` before and behind the unit.
    * ``entropy``: matrix-based Renyi entropy of order 2 of what comes out, with the cosine for a
      kernel, in bits; ``renyi_labels``, ``renyi_input``: its mutual information with the labels
      and with what goes into the first unit of the tower.
    * ``hsic_labels``, ``hsic_input``: unbiased HSIC with the same, by the same kernels.

    Source: usable information: Xu et al., arXiv 2002.10689, def. 2; Renyi: Yu et al., arXiv
    1804.06537; HSIC: Ma et al., arXiv 1908.01580; why not Shannon: Goldfeld et al., arXiv
    1810.05728.

    Args:
        samples: at most so many samples judge.
        max_width: units with a wider stream are left out.
        max_classes: with more classes than these nothing is scored.
    """

    name = "information_bottleneck"
    measure = "nats"
    direction: ClassVar[Direction] = "diagnostic"
    needs: ClassVar[frozenset[Need]] = frozenset({"data", "labels"})
    kinds: ClassVar[Kinds] = {
        "x": Sample,
        "y": Sample,
        "x_classes": ClassMoments,
        "y_classes": ClassMoments,
        "x_values": ValueMoments,
        "y_values": ValueMoments,
    }

    def __init__(
        self, *, samples: int = 512, max_width: int = 1024, max_classes: int = 256
    ) -> None:
        super().__init__()
        self.samples, self.max_width, self.max_classes = samples, max_width, max_classes
        self._labels = self._known = torch.empty(0)
        self._first: dict[str, str] = {}
        self._wide: dict[str, str] = {}

    def unmet(self, subject: Subject) -> str:
        """Labels must be one, or one vector of floating numbers, a sample."""
        if why := super().unmet(subject):
            return why
        labels = subject.task.labels(subject.first)
        if not isinstance(labels, Tensor):
            return f"needs a tensor of labels, got {type(labels).__name__}"
        if labels.ndim == 1 or (labels.ndim == 2 and labels.is_floating_point()):
            return ""
        return f"needs one label a sample, got labels of shape {list(labels.shape)}"

    def begin(self, subject: Subject) -> None:
        """Learns which unit is the first of each tower."""
        super().begin(subject)
        heads = {tower: units[0].name for tower, units in subject.units.towers.items()}
        self._first = {unit.name: heads[unit.tower] for unit in subject.units}

    def before(self, batch: Any) -> None:
        """Learns the labels of a batch."""
        super().before(batch)
        assert self._subject is not None
        labels = self._subject.task.labels(batch)
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
        self._labels = labels.detach().cpu()
        # a negative class says that there is nothing to answer
        known = torch.ones(len(self._labels), dtype=torch.bool)
        self._known = known if self._labels.is_floating_point() else self._labels >= 0

    def read(self, event: UnitEvent) -> None:
        """Adds half of the samples to the fit, and offers the others as judges."""
        name = event.unit.name
        if len(self._labels) != len(event.x):
            return
        values = self._labels.is_floating_point()
        even = self._sample_keys % 2 == 0
        fit, judge = even & self._known, ~even & self._known
        for side in ("x", "y"):
            rows = pooled(event, side).cpu()
            if rows.shape[1] > self.max_width:
                self._wide[name] = f"its stream is wider than {self.max_width}: {rows.shape[1]}"
                return
            self._fit(name, side, rows[fit], self._labels[fit], values)
            labels = self._labels.reshape(len(rows), -1).double()
            offered = torch.cat([rows, labels], 1)[judge]
            self.kept(name, side, lambda: Sample(self.samples)).add(
                self._sample_keys[judge], offered
            )

    def _fit(self, name: str, side: str, rows: Tensor, labels: Tensor, values: bool) -> None:
        if values:
            width = labels[0].numel() if len(labels) else self._labels[0].numel()
            new = partial(ValueMoments, rows.shape[1], width)
            self.kept(name, f"{side}_values", new).add(rows, labels)
            return
        moments = self.kept(name, f"{side}_classes", partial(ClassMoments, rows.shape[1]))
        if not moments.more_than(self.max_classes):  # else they are too many whatever comes
            moments.add(rows, labels)

    def scores(self) -> MethodScores:
        """Usable information added, with what else is known of the stream."""
        scores: dict[str, Score] = {}
        extras: dict[str, dict[str, float]] = {}
        missing = dict(self._wide)
        ys = self.found("y")
        for name, x in self.found("x").items():
            if reason := self._reason(name, x):
                missing[name] = reason
                continue
            before, behind = (self._usable(name, side) for side in ("x", "y"))
            gain = behind - before
            error = float(gain.std() / len(gain) ** 0.5)
            scores[name] = Score(float(gain.mean()), error, len(gain))
            columns = {"usable_in": float(before.mean()), "usable_out": float(behind.mean())}
            for column, value in (columns | self._kernels(name, ys[name])).items():
                extras.setdefault(column, {})[name] = value
        return self.result(scores, extras, missing)

    def _reason(self, name: str, judges: Sample) -> str:
        if name in self._wide:
            return self._wide[name]
        classes = self._kept.get(f"{name}/x_classes")
        if isinstance(classes, ClassMoments) and len(classes.counts) > self.max_classes:
            return f"there are more than {self.max_classes} classes"
        fitted = classes.total if isinstance(classes, ClassMoments) else self._values(name, "x").xx
        if min(len(judges), fitted.count) < _FEWEST:
            return (
                f"needs at least {_FEWEST} samples to fit on and as many to judge, "
                f"got {fitted.count} and {len(judges)}"
            )
        return ""

    def _values(self, name: str, side: str) -> ValueMoments:
        found = self._kept[f"{name}/{side}_values"]
        assert isinstance(found, ValueMoments)
        return found

    def _usable(self, name: str, side: str) -> Tensor:
        """Usable information of every judge, ``[n]``."""
        sample = self.found(side)[name]
        classes = self._kept.get(f"{name}/{side}_classes")
        if isinstance(classes, ClassMoments):
            losses, blind = classes.losses(sample.rows[:, :-1], sample.rows[:, -1])
        else:
            width = len(self._values(name, side).xx.x_mean)
            rows, labels = sample.rows[:, :width], sample.rows[:, width:]
            losses, blind = self._values(name, side).losses(rows, labels)
        return blind - losses

    def _kernels(self, name: str, sample: Sample) -> dict[str, float]:
        rows, labels = self._parted(name, "y", sample)
        classes = f"{name}/y_classes" in self._kept
        K, L = cosine(rows), same(labels) if classes else near(labels)
        columns = {
            "entropy": entropy(K),
            "renyi_labels": mutual_information(K, L),
            "hsic_labels": hsic(K, L),
        }
        first = self._first.get(name, name)
        source = self.found("x").get(first)
        if source is not None and torch.equal(source.keys, sample.keys):
            X = cosine(self._parted(first, "x", source)[0])
            columns |= {"renyi_input": mutual_information(K, X), "hsic_input": hsic(K, X)}
        return columns

    def _parted(self, name: str, side: str, sample: Sample) -> tuple[Tensor, Tensor]:
        classes = self._kept.get(f"{name}/{side}_classes")
        known = classes.total if isinstance(classes, ClassMoments) else self._values(name, side).xx
        width = len(known.x_mean)
        return sample.rows[:, :width], sample.rows[:, width:]
