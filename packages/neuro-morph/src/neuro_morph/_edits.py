"""What happens to one tensor when a group grows: where entries come from, what is new."""

from collections.abc import Callable
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


Filling = Callable[[Tensor, AxisEdit, list[int]], Tensor]


@dataclass
class TensorEdit:
    """How one tensor of a model grows, axis by axis.

    Attributes:
        name: the tensor.
        axes: its axes that grow, in order.
        weighed_by: the parameter whose entries its rows are multiplied with before their mean is
            taken for a new one, None if there is none.
    """

    name: str
    axes: list[AxisEdit] = field(default_factory=list)
    weighed_by: str | None = None

    def apply(self, old: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns the grown tensor, in the memory format of the old one."""
        scale = spread_of(old.detach()) if any(axis.fill == "random" for axis in self.axes) else 0.0

        def filling(old: Tensor, axis: AxisEdit, shape: list[int]) -> Tensor:
            return _filling(old, axis, shape, scale, generator)

        return _formatted(self._grown(old.detach(), [a.values for a in self.axes], filling), old)

    def carry(self, state: Tensor, power: float, fresh: float = 0.0) -> Tensor:
        """Returns what an optimizer holds for the tensor, grown with it.

        An entry whose gradient is multiplied by ``a`` has its state multiplied by ``a ** power``:
        1 for means of gradients, 2 for means of their squares.

        Args:
            state: a tensor of the shape that the parameter had.
            power: see above.
            fresh: what entries without a past begin with.
        """

        def filling(old: Tensor, axis: AxisEdit, shape: list[int]) -> Tensor:
            return old.new_full((1,) * len(shape), fresh).expand(shape)

        factors = [axis.gradients**power for axis in self.axes]
        return _formatted(self._grown(state, factors, filling), state)

    def _grown(self, old: Tensor, factors: list[Tensor], filling: Filling) -> Tensor:
        """Returns a tensor grown axis by axis, what is there times its factors."""
        only_appends = all(_only_appends(old, axis) for axis in self.axes)
        whole = old.new_empty(self.shape(old.shape)) if only_appends else None
        new = old
        for axis, factor in zip(self.axes, factors, strict=True):
            before = new
            new = _selected(before, axis) if whole is None else _lengthened(before, axis, whole)
            if bool((factor != 1).any()):  # most are left as they are
                new.mul_(_column(factor.to(old.dtype), new, axis.dim))
            fresh = _fresh_entries(axis)
            if len(fresh):
                shape = [*before.shape[: axis.dim], len(fresh), *before.shape[axis.dim + 1 :]]
                _put(new, axis, fresh, filling(before, axis, shape), appended=whole is not None)
        return new

    def rounds(self) -> bool:
        """Whether the grown tensor is only as near to what it should be as its dtype allows.

        What is kept, or multiplied by powers of two, is exact in each; so is what is new at random.
        """
        shares = [axis.values.frexp().mantissa for axis in self.axes]
        exact = all(bool(((share == 0.5) | (share == 0.0)).all()) for share in shares)
        means = self.weighed_by is not None or any(axis.fill == "mean" for axis in self.axes)
        return means or not exact

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


def _only_appends(old: Tensor, axis: AxisEdit) -> bool:
    size = old.shape[axis.dim]
    kept, added = axis.take[:size], axis.take[size:]
    return bool((added < 0).all()) and torch.equal(kept, torch.arange(size))


def _lengthened(old: Tensor, axis: AxisEdit, whole: Tensor) -> Tensor:
    """Returns the part of ``whole`` that an axis grows into; what was there is copied once."""
    new = whole
    for dim, size in enumerate(old.shape):
        new = new.narrow(dim, 0, len(axis.take) if dim == axis.dim else size)
    if old.data_ptr() != whole.data_ptr():
        new.narrow(axis.dim, 0, old.shape[axis.dim]).copy_(old)
    added = len(axis.take) - old.shape[axis.dim]
    new.narrow(axis.dim, old.shape[axis.dim], added).zero_()
    return new


def _put(new: Tensor, axis: AxisEdit, fresh: Tensor, filling: Tensor, *, appended: bool) -> None:
    if appended:
        new.narrow(axis.dim, int(fresh[0]), len(fresh)).copy_(filling)
    else:
        new.index_copy_(axis.dim, fresh.to(new.device), filling.contiguous())


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


def spread_of(tensor: Tensor) -> float:
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
