"""Which things are in an image, and where."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layer_importance import _batch
from layer_importance._structure import tensors
from layer_importance._task import Task, field
from layer_importance._tasks._boxes import assigned, overlaps
from layer_importance._tasks._labels import checked_labels, cross_entropies, one_of


class Detection(Task):
    """Things and where they are: ``Q`` predictions an image, logits ``[N, Q, C + 1]``, boxes.

    The last class is no thing. Boxes ``[N, Q, 4]`` are ``(centre x, centre y, width, height)`` as
    shares of the image, in ``pred_boxes`` or the second tensor. Labels are a list of mappings, one
    an image, with ``class_labels`` (or ``labels``) ``[K]`` and ``boxes`` ``[K, 4]``; with
    ``matching="fixed"`` prediction ``q`` is judged by the thing ``q`` (a class of ``C`` is none).

    The loss of an image is the cross entropy over its ``Q`` predictions, weighted ``no_thing``
    where there is none, plus for its ``K`` things the mean of ``l1 |box - box'|_1 + giou (1 -
    GIoU)``. Which prediction answers for which thing is the assignment with the least sum of
    ``l1 |box - box'|_1 - giou GIoU - p(class)`` (Carion et al., arXiv 2005.12872, eq. 1-2). There,
    boxes are averaged over the things of the batch, here over those of the image: a sample's loss
    does not depend on the others. Boxes have no distribution under this loss, so that no labels
    are drawn.

    Detectors that hand out losses or finished boxes need a task of their own.

    Args:
        matching: ``hungarian`` or ``fixed``.
        no_thing: weight of the predictions without a thing.
        l1: weight of the distance between boxes.
        giou: weight of their generalised overlap.
        iou: overlap from which a prediction has found a thing, for quality.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "detection"

    def __init__(
        self,
        *,
        matching: str = "hungarian",
        no_thing: float = 0.1,
        l1: float = 5.0,
        giou: float = 2.0,
        iou: float = 0.5,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs, labels=labels)
        self.matching = one_of("matching", matching, ("hungarian", "fixed"))
        self.no_thing, self.l1, self.giou, self.iou = no_thing, l1, giou, iou

    def count(self, labels: Any, batch: Any) -> int:
        """One sample an image."""
        return len(labels) if isinstance(labels, Sequence) else super().count(labels, batch)

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Loss of the classes and of the boxes of every image."""
        del batch
        logits, boxes = _predictions(output)
        things = _things(labels, logits)
        images, queries = self._matched(logits, boxes, things)
        none = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:2], none, device=logits.device)
        wanted[images, queries] = things.classes
        weights = torch.ones_like(logits[..., 0]).masked_fill(wanted == none, self.no_thing)
        nats = (weights * cross_entropies(logits, wanted)).sum(1) / weights.sum(1)
        found = boxes[images, queries]
        apart = (found - things.boxes).abs().sum(-1)
        overlap = overlaps(found, things.boxes)[1]
        total = torch.zeros_like(nats).index_add(
            0, images, self.l1 * apart + self.giou * (1 - overlap)
        )
        return nats + total / torch.bincount(images, minlength=len(logits)).clamp_min(1)

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """F1 of the things found: same class, overlap of ``iou`` or more, each found once."""
        del batch
        logits, boxes = _predictions(output)
        things, guesses = _things(labels, logits), logits.argmax(-1)
        overlap = overlaps(boxes[things.images], things.boxes[:, None])[0]
        hits = (overlap >= self.iou) & (guesses[things.images] == things.classes[:, None])
        hit = torch.zeros(len(logits), dtype=torch.float64)
        for image, rows in enumerate(hits.split(things.counts)):
            hit[image] = float(rows[assigned(-rows.double())].sum())
        said = (guesses < logits.shape[-1] - 1).sum(1).cpu()
        there = said + torch.tensor(things.counts)
        return torch.where(there > 0, 2 * hit / there, 1.0)

    def _matched(self, logits: Tensor, boxes: Tensor, things: "_Things") -> tuple[Tensor, Tensor]:
        """The image of every thing and the prediction that answers for it."""
        if self.matching == "fixed":
            if set(things.listed) != {boxes.shape[1]}:
                raise ValueError(
                    f"fixed matching needs a label for each of {boxes.shape[1]} predictions, "
                    f"got {things.listed}"
                )
            return things.images, things.places
        with torch.no_grad():
            mine = boxes[things.images]
            apart = (mine - things.boxes[:, None]).abs().sum(-1)
            overlap = overlaps(mine, things.boxes[:, None])[1]
            likely = logits.softmax(-1)[things.images, :, things.classes]
            cost = self.l1 * apart - self.giou * overlap - likely
        return things.images, torch.cat([_queries(rows) for rows in cost.split(things.counts)])


@dataclass(frozen=True, slots=True)
class _Things:
    """The things of all images in a row: which image, which place in its list, what and where.

    ``counts`` is how many an image has, ``listed`` how many labels it had.
    """

    images: Tensor
    places: Tensor
    classes: Tensor
    boxes: Tensor
    counts: list[int]
    listed: list[int]


def _queries(cost: Tensor) -> Tensor:
    """Who answers for each thing, ``[K]`` of ``[K, Q]``."""
    rows, queries = assigned(cost)
    if len(rows) < len(cost):
        raise ValueError(
            f"an image must have no more things than there are predictions, "
            f"got {len(cost)} for {cost.shape[1]}"
        )
    return queries  # rows come in order


def _things(labels: Any, logits: Tensor) -> _Things:
    if isinstance(labels, Mapping):
        labels = [{key: part[i] for key, part in labels.items()} for i in range(len(logits))]
    if not isinstance(labels, Sequence) or len(labels) != len(logits):
        got = len(labels) if isinstance(labels, Sequence) else type(labels).__name__
        raise ValueError(
            f"labels must be a list of {len(logits)} mappings, one an image, got {got}"
        )
    each = [_image(target, logits) for target in labels]
    counts, listed = [len(classes) for classes, *_ in each], [listed for *_, listed in each]
    images = torch.arange(len(each)).repeat_interleave(torch.tensor(counts)).to(logits.device)
    classes, boxes, places = (torch.cat(part) for part in zip(*(o[:3] for o in each), strict=True))
    return _Things(images, places, classes, boxes, counts, listed)


def _image(target: Any, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Classes, boxes and places of an image's things without those of no class; all labels."""
    classes = field(target, "class_labels", "labels") if isinstance(target, Mapping) else None
    boxes = field(target, "boxes") if isinstance(target, Mapping) else None
    if classes is None or boxes is None:
        raise ValueError("labels of an image must be a mapping with class_labels and boxes")
    classes = classes if len(classes) else classes.long()  # torch.tensor([]) is floating
    classes = checked_labels(classes, logits.new_zeros(len(classes), logits.shape[-1]))
    if not len(classes):
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (len(classes), 4):
        raise ValueError(f"boxes must have shape [{len(classes)}, 4], got {list(boxes.shape)}")
    places = ((classes >= 0) & (classes < logits.shape[-1] - 1)).nonzero()[:, 0]
    return classes[places], boxes[places].to(logits.dtype), places, len(classes)


def _predictions(output: Any) -> tuple[Tensor, Tensor]:
    logits, boxes = field(output, "logits", "pred_logits"), field(output, "pred_boxes")
    if logits is None or boxes is None:
        parts = [t for t in tensors(output) if t.is_floating_point()]
        logits, boxes = parts[:2] if len(parts) == 2 else (None, None)
    fits = logits is not None and boxes is not None and logits.ndim == 3
    if not fits or tuple(boxes.shape) != (*logits.shape[:2], 4):
        shapes = [list(t.shape) for t in tensors(output)]
        raise ValueError(f"detection needs logits [N, Q, C + 1] and boxes [N, Q, 4], got {shapes}")
    return logits, boxes
