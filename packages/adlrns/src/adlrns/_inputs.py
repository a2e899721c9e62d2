"""Batches: how a model is called with one, cut, described and made up."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adlrns._manifest import Input


def call(model: nn.Module, batch: Any) -> Any:
    """Returns the output for a tensor, a mapping of keyword arguments, or a pair's first."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


class Example(NamedTuple):
    """Arguments that a model can be called with."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """All inputs, the positional one first."""
        return [*self.args, *self.kwargs.values()]

    @property
    def batch(self) -> Tensor | dict[str, Tensor]:
        """The same as a batch."""
        return self.kwargs or self.args[0]


def example_of(batch: Any) -> Example:
    """Returns the arguments that :func:`call` makes of a batch."""
    if isinstance(batch, Mapping):
        return Example((), {str(name): torch.as_tensor(value) for name, value in batch.items()})
    first = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(first, Tensor):
        raise TypeError(f"a batch must hold tensors, got {type(first).__name__}")
    return Example((first,), {})


def describe(batch: Any) -> list[Input]:
    """Returns what must be known to make up inputs like a batch's."""
    args, kwargs = example_of(batch)
    named: list[tuple[str | None, Tensor]] = [(None, tensor) for tensor in args]
    return [_input(name, tensor) for name, tensor in [*named, *kwargs.items()]]


def _input(name: str | None, tensor: Tensor) -> Input:
    whole = not tensor.is_floating_point()
    high = int(tensor.max()) if whole and tensor.numel() else None
    kind = str(tensor.dtype).removeprefix("torch.")
    return Input(name=name, shape=list(tensor.shape), dtype=kind, high=high)


def make_up(inputs: list[Input], size: int, seed: int = 0) -> Example:
    """Returns inputs of the described kind for `size` samples: normal or whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = [], {}
    for entry in inputs:
        dtype, shape = getattr(torch, entry.dtype), [size, *entry.shape[1:]]
        if entry.high is None:
            tensor = torch.randn(shape, generator=generator).to(dtype)
        else:
            tensor = torch.randint(0, entry.high + 1, shape, generator=generator).to(dtype)
        if entry.name is None:
            args.append(tensor)
        else:
            # masks of zeros alone would leave nothing to attend to
            masked = entry.name == "attention_mask"
            kwargs[entry.name] = torch.ones_like(tensor) if masked else tensor
    return Example(tuple(args), kwargs)


def outputs(value: Any) -> list[Tensor]:
    """Returns the floating tensors of an output, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in outputs(item)]
    return []


def count(batch: Any) -> int:
    """Returns the number of samples of a batch."""
    return int(example_of(batch).tensors[0].shape[0])


def has_finite(batch: Any) -> bool:
    """Says whether every input of a batch has a sample free of NaN and infinity."""
    tensors = example_of(batch).tensors
    return all(bool(t[..., None].isfinite().flatten(1).all(1).any()) for t in tensors)


def cut(batch: Any, start: int, stop: int) -> Any:
    """Returns samples `start..stop` of a batch."""
    if isinstance(batch, Mapping):
        return {name: value[start:stop] for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(value[start:stop] for value in batch)
    return batch[start:stop]
