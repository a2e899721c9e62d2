"""What is asked of a tensor besides operations: numbers, lists, gradients, shared memory."""

from typing import Any

from torch import Tensor


class PlainValues:
    """Answer what torch refuses for subclasses of its tensors, with the dense values."""

    _packed: Tensor

    def _values(self) -> Tensor:
        dense: Tensor = self.to_dense()  # type: ignore[attr-defined]
        return dense

    def numpy(self, *, force: bool = False) -> Any:
        """Return the dense zeros and ones as a numpy array."""
        return self._values().numpy(force=force)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        del copy  # a new array in any case
        values = self._values().numpy()
        return values if dtype is None else values.astype(dtype, copy=False)

    def tolist(self) -> Any:
        """Return the dense zeros and ones as nested lists."""
        return self._values().tolist()

    def __coerce_tangent_metadata__(self) -> Tensor:
        """Return the like of a gradient by the spikes, for compiled graphs that return them.

        Torch expects gradients of the type of what a graph returns, and asks here for another one
        where they are not. Those by spikes are dense.
        """
        like: Any = self._values().detach()
        like.__tensor_flatten__ = lambda: ([], None)  # it is asked for tensors inside, and has none
        plain: Tensor = like
        return plain

    def __dlpack__(self, **options: Any) -> Any:
        return self._values().__dlpack__(**options)

    def share_memory_(self) -> Any:
        """Move the bits to shared memory and return the spikes."""
        self._packed.share_memory_()
        return self

    def is_shared(self) -> bool:
        """Say whether the bits are in shared memory."""
        return self._packed.is_shared()

    @property
    def nbytes(self) -> int:
        """How many bytes the spikes take: one for eight of them."""
        return self._packed.numel()
