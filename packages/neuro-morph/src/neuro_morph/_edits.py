"""What happens to one tensor when a group grows: where entries come from, what is new."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class AxisEdit:
    """How one axis of a tensor grows.

    Attributes:
        dim: the axis.
        take: for each entry the old one it is made from, -1 for one that is new.
        values: what each entry is multiplied by.
        gradients: what the gradient of each entry is multiplied by because of that.
        fill: what new entries are: ``"zero"``, ``"one"``, ``"random"``, ``"mean"`` (of all old
            ones).
        given: new entries themselves, laid along the axis; they stand instead of ``fill``.
    """

    dim: int
    take: Tensor
    values: Tensor
    gradients: Tensor
    fill: str = "zero"
    given: Tensor | None = None


@dataclass
class TensorEdit:
    """How one tensor of a model grows, axis by axis.

    Attributes:
        name: the tensor.
        axes: its axes that grow, in order.
    """

    name: str
    axes: list[AxisEdit] = field(default_factory=list)

    def apply(self, old: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns the grown tensor, in the memory format of the old one."""
        new = old.detach()
        scale = _spread(new)
        for axis in self.axes:
            new = _grown(new, axis, scale, generator)
        return _formatted(new, old)

    def carry(self, state: Tensor, power: float, fresh: float = 0.0) -> Tensor:
        """Returns what an optimizer holds for the tensor, grown with it.

        An entry whose gradient is multiplied by ``a`` has its state multiplied by ``a ** power``:
        1 for means of gradients, 2 for means of their squares.

        Args:
            state: a tensor of the shape that the parameter had.
            power: see above.
            fresh: what entries without a past begin with.
        """
        new = state
        for axis in self.axes:
            new = _taken(new, axis, axis.gradients**power)
            new.index_fill_(axis.dim, _fresh_entries(axis), fresh)
        return _formatted(new, state)

    def fresh(self, new: Tensor) -> Tensor:
        """Returns which entries of the grown tensor are new."""
        found = torch.zeros(new.shape, dtype=torch.bool)
        for axis in self.axes:
            found |= _column(axis.take < 0, found, axis.dim)
        return found.to(new.device)

    def shape(self, old: torch.Size) -> torch.Size:
        """Returns the shape that the tensor will have."""
        sizes = list(old)
        for axis in self.axes:
            sizes[axis.dim] = len(axis.take)
        return torch.Size(sizes)


def _grown(old: Tensor, axis: AxisEdit, scale: float, generator: torch.Generator | None) -> Tensor:
    new = _taken(old, axis, axis.values)
    fresh = _fresh_entries(axis)
    if len(fresh):
        shape = list(new.shape)
        shape[axis.dim] = len(fresh)
        new.index_copy_(axis.dim, fresh, _filling(old, axis, shape, scale, generator))
    return new


def _taken(old: Tensor, axis: AxisEdit, factors: Tensor) -> Tensor:
    """Returns the entries an axis will have, times a factor each; fresh ones are anything."""
    new = _lengthened(old, axis) if _only_appends(old, axis) else _selected(old, axis)
    if bool((factors != 1).any()):  # most are left as they are
        new.mul_(_column(factors.to(old.dtype), new, axis.dim))
    return new


def _only_appends(old: Tensor, axis: AxisEdit) -> bool:
    size = old.shape[axis.dim]
    kept, added = axis.take[:size], axis.take[size:]
    return bool((added < 0).all()) and torch.equal(kept, torch.arange(size))


def _lengthened(old: Tensor, axis: AxisEdit) -> Tensor:
    shape = list(old.shape)
    shape[axis.dim] = len(axis.take)
    new = old.new_empty(shape)
    size = old.shape[axis.dim]
    new.narrow(axis.dim, 0, size).copy_(old)
    new.narrow(axis.dim, size, len(axis.take) - size).zero_()
    return new


def _selected(old: Tensor, axis: AxisEdit) -> Tensor:
    return old.index_select(axis.dim, axis.take.clamp(min=0).to(old.device))


def _fresh_entries(axis: AxisEdit) -> Tensor:
    return (axis.take < 0).nonzero().flatten()


def _filling(
    old: Tensor, axis: AxisEdit, shape: list[int], scale: float, generator: torch.Generator | None
) -> Tensor:
    if axis.given is not None:
        return axis.given.to(old).reshape(shape)
    if axis.fill == "mean":
        mean = old.double().mean(axis.dim, keepdim=True).to(old.dtype)
        return mean.expand(shape).contiguous()
    if axis.fill == "random":
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        return noise.mul_(scale).to(old)
    return old.new_full(shape, 1.0 if axis.fill == "one" else 0.0)


def _spread(tensor: Tensor) -> float:
    """Returns the root of the mean square of the entries: new ones are of their size."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0.0
    norm = torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
    return float(norm) / tensor.numel() ** 0.5


def _column(values: Tensor, like: Tensor, dim: int) -> Tensor:
    shape = [1] * like.dim()
    shape[dim] = -1
    return values.to(like.device).reshape(shape)


def _formatted(new: Tensor, old: Tensor) -> Tensor:
    for layout in (torch.channels_last, torch.channels_last_3d):
        fits = old.dim() == (4 if layout == torch.channels_last else 5)
        if fits and old.is_contiguous(memory_format=layout) and not old.is_contiguous():
            return new.contiguous(memory_format=layout)
    return new.contiguous()
