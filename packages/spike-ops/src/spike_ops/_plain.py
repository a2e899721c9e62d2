"""What Python asks of a tensor besides operations: numbers, lists, shared memory."""

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
