"""Batches: how many samples, some of them, on which device, and what the model is called with."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._structure import mapped, tensors
from layer_importance._whose import named, of_batch

LABELS = ("labels", "label", "targets", "target", "y", "start_positions", "end_positions")
"""Keys of a mapping that hold what the model should answer; the model is called without them."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a model is called with: ``model(*args, **kwargs)``."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def of(self, model: nn.Module) -> Any:
        """Returns the model's answer."""
        return model(*self.args, **self.kwargs)


def inputs(batch: Any) -> Call:
    """Returns the call for a batch in the usual forms.

    ``(x, labels)`` calls ``model(x)``, ``(a, b, ..., labels)`` calls ``model(a, b, ...)``; a
    mapping calls the model with its keys, but for those in :data:`LABELS`; a tensor stands for
    itself.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(batch, Tensor):
        return Call((batch,))
    if isinstance(batch, Mapping):
        return Call((), {key: value for key, value in batch.items() if key not in LABELS})
    if isinstance(batch, tuple | list) and batch:
        return Call(tuple(batch[:-1]) if len(batch) > 1 else tuple(batch))
    raise TypeError(
        "batch must be a tensor, a tuple (inputs..., labels) or a mapping, "
        f"got {type(batch).__name__}; give the task its own inputs=..."
    )


def labels(batch: Any) -> Any:
    """Returns the labels of a batch in the usual forms; ``None`` if it has none."""
    if isinstance(batch, Mapping):
        found = {key: batch[key] for key in LABELS if batch.get(key) is not None}
        return (next(iter(found.values())) if len(found) == 1 else found) if found else None
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return batch[-1]
    return None


def without_cache(model: nn.Module, call: Call) -> Call:
    """Returns the call with ``use_cache=False`` where the model knows the word and it is not said.

    A cache would carry one pass over into the next and hold every layer's activations.
    """
    known = inspect.signature(model.forward).parameters
    if "use_cache" not in known or "use_cache" in call.kwargs:
        return call
    return Call(call.args, {**call.kwargs, "use_cache": False})


def size(batch: Any) -> int:
    """Returns the number of samples: the length of the first tensor that has one.

    Raises:
        ValueError: if there is no tensor with a first dimension.
    """
    for tensor in tensors(batch):
        if tensor.ndim:
            return len(tensor)
    raise ValueError(f"batch must hold a tensor with a first dimension, got {batch!r:.80}")


def filled(batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Yields the batches that hold a sample, with their numbers among all.

    Raises:
        ValueError: naming the batch, if one holds no tensor with a first dimension.
    """
    for index, batch in enumerate(batches):
        with of_batch(index, batch):
            count = size(batch)
        if count:
            yield index, batch


def take(batch: Any, rows: list[int]) -> Any:
    """Returns the samples ``rows`` of a batch.

    Of every tensor as long as the batch, and of every list that holds one thing a sample, as the
    targets of a detector do.

    >>> import torch
    >>> [part.tolist() for part in take((torch.arange(3), torch.eye(2)), [0, 0, 2])]
    [[0, 0, 2], [[1.0, 0.0], [0.0, 1.0]]]
    """
    count = size(batch)
    index = torch.tensor(rows)

    def rows_of(tensor: Tensor) -> Tensor:
        fits = tensor.ndim > 0 and len(tensor) == count
        return tensor[index.to(tensor.device)] if fits else tensor

    def part_of(key: int | str | None, value: Any) -> Any:
        if key is not None and _one_a_sample(value, count):
            return type(value)([value[row] for row in rows])
        return mapped(value, rows_of)

    return with_entries(batch, part_of)


def _one_a_sample(value: Any, count: int) -> bool:
    if type(value) not in (list, tuple) or len(value) != count:
        return False
    return not all(isinstance(item, Tensor) and item.ndim and len(item) == count for item in value)


def with_entries(batch: Any, change: Callable[[int | str | None, Any], Any]) -> Any:
    """Returns the batch with ``change(key, value)`` for each of its entries, of the same type.

    Entries of a tuple or list have their position as key, those of a mapping their key; anything
    else is one entry without a key.
    """
    if isinstance(batch, tuple | list):
        items = [change(place, item) for place, item in enumerate(batch)]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if not isinstance(batch, Mapping):
        return change(None, batch)
    changed = {key: change(key, value) for key, value in batch.items()}
    if type(batch) is dict:
        return changed
    twin: Any = copy.copy(batch)
    for key, item in changed.items():
        if item is not batch[key]:
            twin[key] = item
    return twin


def entry(batch: Any, key: int | str | None) -> Any:
    """Returns one entry of a batch, by the key that :func:`with_entries` gives it."""
    return batch if key is None else batch[key]


def input_keys(batch: Any) -> list[int | str | None]:
    """Returns the keys of the entries that are no labels, in the usual forms of a batch."""
    if isinstance(batch, Mapping):
        return [key for key in batch if key not in LABELS]
    if isinstance(batch, tuple | list):
        return list(range(max(len(batch) - 1, 1)))
    return [None]


def to_device(batch: Any, device: torch.device) -> Any:
    """Returns the batch with every tensor on ``device``."""
    return mapped(batch, lambda tensor: tensor.to(device))


def check_finite(batch: Any, index: int) -> None:
    """Raises a ``ValueError`` naming batch and entry if a floating input is NaN or infinite."""
    for name, entry in named(batch):
        for tensor in tensors(entry):
            values = _entries_of(tensor)
            if tensor.is_floating_point() and not bool(values.isfinite().all()):
                bad = int((~values.isfinite()).sum())
                raise ValueError(
                    f"batch {index} must be finite, got {bad} NaN or infinite values in {name}"
                )


def _entries_of(tensor: Tensor) -> Tensor:
    """The entries of a sparse tensor, as adjacency matrices are, or the tensor."""
    if tensor.layout == torch.strided:
        return tensor
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
