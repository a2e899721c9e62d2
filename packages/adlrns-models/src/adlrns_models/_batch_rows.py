"""Taking rows out of a batch of any structure, and putting answers back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def take_rows(batch: Any, rows: Tensor, size: int) -> Any:
    """Returns ``batch`` with every tensor of ``size`` rows cut down to the numbered ``rows``."""
    return _walk(lambda value: value[rows.to(value.device)] if _has(value, size) else value, batch)


def put_rows(output: Any, rows: Tensor, answers: Any, size: int) -> Any:
    """Returns ``output`` with the numbered ``rows`` of its tensors replaced by ``answers``.

    Raises:
        ValueError: if an answer differs from the output in more than its number of rows.
    """

    def put(value: Tensor, answer: Tensor) -> Tensor:
        if not _has(value, size):
            return value
        if answer.shape[1:] != value.shape[1:]:
            raise ValueError(
                f"outputs of an operating point must have shape {list(value.shape[1:])} per input, "
                f"got {list(answer.shape[1:])}"
            )
        return value.index_copy(0, rows.to(value.device), answer.to(value.dtype))

    return _walk(put, output, answers)


def _has(value: Tensor, size: int) -> bool:
    return value.ndim > 0 and value.shape[0] == size


def _walk(change: Callable[..., Tensor], value: Any, *others: Any) -> Any:
    """Returns ``value`` with every tensor changed, given those at the same place in ``others``."""
    if isinstance(value, Tensor):
        return change(value, *others)
    if isinstance(value, Mapping):
        new = {key: _walk(change, value[key], *(o[key] for o in others)) for key in value}
        return new if type(value) is dict else type(value)(**new)  # model outputs take keywords
    if isinstance(value, tuple | list):
        parts = [_walk(change, part, *rest) for part, *rest in zip(value, *others, strict=True)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def margin(output: Any) -> Tensor:
    """Returns how sure a classifier is of each input, ``[B]``, in ``0..1``.

    The difference of its two largest class probabilities, ``softmax(logits)``. Logits ``[B, C]``
    are the output itself, its ``logits``, or the first tensor of a tuple.

    Raises:
        ValueError: if there are no logits of at least two classes; give another ``confidence``.

    Example:
        >>> import torch
        >>> from adlrns_models import margin
        >>> margin(torch.tensor([[9.0, 0.0], [1.0, 1.0]]))
        tensor([0.9998, 0.0000])
    """
    best = logits(output).float().softmax(-1).topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]


def agreement(output: Any, full: Any, batch: Any) -> Tensor:
    """Returns 1 where the largest logit is that of the full model, else 0, ``[B]``."""
    del batch
    return (logits(output).argmax(-1) == logits(full).argmax(-1)).double()


def logits(output: Any) -> Tensor:
    """Returns the logits ``[B, C]`` of an output."""
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None:
        found = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] < 2:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the model's output must hold logits [B, C] of at least two classes, got {got}: "
            "say by confidence= and quality= how sure and how good an answer is"
        )
    return found


def row_count(values: Any, name: str = "confidence") -> int:
    """Returns ``B`` of what the function ``name`` returned, ``[B]``.

    Raises:
        ValueError: if it has another shape.
    """
    if not isinstance(values, Tensor) or values.ndim != 1:
        got = list(values.shape) if isinstance(values, Tensor) else values
        raise ValueError(f"{name} must return a tensor of shape [B], got {got!r}")
    return values.shape[0]


def least(confidence: Tensor, candidates: Tensor, most: int) -> Tensor:
    """Returns the numbers of at most ``most`` candidates, the least confident, in order."""
    rows = candidates.nonzero().flatten()
    if len(rows) <= most:
        return rows
    order = torch.argsort(confidence[rows].nan_to_num(nan=-torch.inf), stable=True)
    return rows[order[:most]].sort().values
