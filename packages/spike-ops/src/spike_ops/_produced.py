"""What is known to be spikes: tensors that neurons have produced, without looking at values."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from spike_ops._bits import pack_bits, unpack_bits
from spike_ops._spike_tensor import SpikeTensor


class Produced:
    """Storages of spikes, held weakly, and their bits once they were asked for."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def add(self, spikes: Tensor) -> None:
        """Enter a dense tensor of zeros and ones, as it is now."""
        if isinstance(spikes, SpikeTensor) or not spikes.is_contiguous():
            return
        self._forget()
        entry = _Entry(spikes)
        self._entries[entry.key] = entry

    def find(self, tensor: Tensor) -> "_Entry | None":
        """Return the entry that a tensor is a view of, unless it was written into since."""
        if type(tensor) not in {Tensor, torch.nn.Parameter} or tensor.layout != torch.strided:
            return None
        entry = self._entries.get(tensor.untyped_storage()._cdata)
        if entry is None or entry.reference.expired():
            return None
        same = (entry.version, entry.dtype) == (tensor._version, tensor.dtype)
        return entry if same else None

    def _forget(self) -> None:
        gone = [key for key, entry in self._entries.items() if entry.reference.expired()]
        for key in gone:
            del self._entries[key]


class _Entry:
    def __init__(self, spikes: Tensor) -> None:
        storage = spikes.untyped_storage()
        # while the weak reference lives, no other storage gets this one's address
        self.reference, self.key = StorageWeakRef(storage), storage._cdata
        self.version, self.dtype = spikes._version, spikes.dtype
        self.size = storage.nbytes() // spikes.itemsize
        self._packed: Tensor | None = None

    def packed(self, tensor: Tensor) -> Tensor:
        """Return the bits of the whole storage, found once; `tensor` is any view of it."""
        if self._packed is None:
            flat = tensor.detach().as_strided((self.size,), (1,), 0)
            self._packed = pack_bits(flat)
        return self._packed


class Packed:
    """A view of spikes, as the bits of the whole and where it lies in them."""

    def __init__(self, entry: _Entry, tensor: Tensor) -> None:
        self.bits, self.whole = entry.packed(tensor), entry.size
        self.shape, self.stride = tensor.shape, tensor.stride()
        self.offset, self.dtype = tensor.storage_offset(), tensor.dtype

    def dense(self) -> Tensor:
        """Return the view, dense again."""
        flat = unpack_bits(self.bits, (self.whole,), self.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset)


_watching: ContextVar[Produced | None] = ContextVar("watching", default=None)


@contextmanager
def watching() -> Iterator[Produced]:
    """Have neurons enter what they produce for as long as the block lasts."""
    produced = Produced()
    token = _watching.set(produced)
    try:
        yield produced
    finally:
        _watching.reset(token)


def note(spikes: Tensor) -> None:
    """Enter spikes if someone is watching; inside `torch.compile` nobody is."""
    if torch.compiler.is_compiling():
        return
    produced = _watching.get()
    if produced is not None:
        produced.add(spikes)
