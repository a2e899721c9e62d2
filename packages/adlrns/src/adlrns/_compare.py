"""How far a compressed model is from the one it came from, on data it was not fitted to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adlrns._inputs import call, count, cut, outputs

# of the batches, one in so many is kept apart
_HELD_OUT = 5


class Deviation(NamedTuple):
    """How outputs differ.

    Attributes:
        relative: norm of the difference over the norm of the outputs.
        agreement: share of rows whose largest entry is the same; None unless outputs are
            `[N, classes]`.
    """

    relative: float
    agreement: float | None


def split(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    """Returns the batches to calibrate with and those kept apart; a lone batch is cut in two."""
    if len(batches) > 1:
        apart = set(range(_HELD_OUT - 1, len(batches), _HELD_OUT)) or {len(batches) - 1}
        kept = [batch for i, batch in enumerate(batches) if i not in apart]
        return kept, [batches[i] for i in sorted(apart)]
    size = count(batches[0])
    if size < 2:
        return batches, []
    at = min(size - 1, size - size // _HELD_OUT)
    return [cut(batches[0], 0, at)], [cut(batches[0], at, size)]


def deviation(model: nn.Module, other: nn.Module, batches: list[Any]) -> Deviation | None:
    """Returns how far `other` is from `model`; None without batches."""
    if not batches:
        return None
    wrong = mass = 0.0
    hits, rows = 0, 0
    with torch.no_grad():
        for batch in batches:
            pairs = zip(outputs(call(model, batch)), outputs(call(other, batch)), strict=True)
            for number, (want, got) in enumerate(pairs):
                want, got = _unpadded(want, batch), _unpadded(got, batch)
                wrong += float((want - got).double().square().sum())
                mass += float(want.double().square().sum())
                if number == 0 and want.ndim == 2 and want.shape[1] > 1:
                    hits += int((want.argmax(1) == got.argmax(1)).sum())
                    rows += len(want)
    return Deviation((wrong / mass) ** 0.5 if mass else 0.0, hits / rows if rows else None)


def _unpadded(output: Tensor, batch: Any) -> Tensor:
    """The positions that hold data, where a mask says so; the others mean nothing."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if mask is None or output.ndim < 3 or output.shape[:2] != mask.shape:
        return output
    kept: Tensor = output[mask.bool()]
    return kept[None]  # three axes: rows are tokens here, not answers
