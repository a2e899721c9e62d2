"""A bounded choice of samples that depends on their content alone."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import size
from layer_importance._comoments import wide
from layer_importance._structure import tensors

Known = tuple[Tensor, int]
"""Which tokens of an entry are real, ``[N, T]``, and its dimension that holds tokens."""
_BITS = 52  # a float64 holds such an integer exactly


def sample_keys(
    batch: Any, *, seed: int = 0, real: Callable[[Tensor], Known | None] = lambda tensor: None
) -> Tensor:
    """Returns a number for each sample of a batch, drawn from its content: ``[N]``, float64.

    Whole numbers below ``2 ** 52``, uniform for practical purposes. They are the same in every
    split and order of the data, for every padding and on every process; ``seed`` gives other ones.

    Args:
        batch: the batch.
        seed: of the numbers.
        real: says which tokens of an entry are real; others have no part in the key.
    """
    count = size(batch)
    digests = [hashlib.blake2b(str(seed).encode(), digest_size=8) for _ in range(count)]
    for tensor in tensors(batch):
        if tensor.layout is torch.strided and tensor.ndim and len(tensor) == count:
            for number, row in enumerate(_rows(tensor, real(tensor))):
                digests[number].update(_content(row))
    shift = 64 - _BITS
    numbers = [int.from_bytes(digest.digest(), "big") >> shift for digest in digests]
    return torch.tensor(numbers, dtype=torch.float64)


def _rows(tensor: Tensor, known: Known | None) -> Iterator[Tensor]:
    """What there is of each sample."""
    if known is None or len(known[0]) != len(tensor):
        yield from tensor.detach().cpu()
        return
    mask, axis = known
    moved = tensor.detach().cpu().movedim(axis, 1)
    for row, places in zip(moved, mask.detach().cpu().bool(), strict=True):
        yield row[places]


def _content(row: Tensor) -> bytes:
    # NumPy has no bfloat16: bytes are read through torch
    return row.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Sample:
    """The ``size`` rows of lowest key among all that were offered, by key.

    A uniform sample without replacement, the same for every split and order of the data; two are
    merged exactly. Rows that are not finite are left out.

    Args:
        size: at most so many rows are kept.

    Example:
        >>> import torch
        >>> sample = Sample(2)
        >>> sample.add(torch.tensor([5.0, 1.0, 3.0]), torch.tensor([[50.0], [10.0], [30.0]]))
        >>> sample.rows.flatten().tolist()
        [10.0, 30.0]
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys = torch.empty(0, dtype=torch.float64)
        self.rows = torch.empty(0, 0, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, keys: Tensor, rows: Tensor) -> None:
        """Offers rows ``[N, D]`` with their keys ``[N]``."""
        if len(self) == self.size:  # most rows of a long run end here, before they are copied
            inside = keys < self.keys[-1]
            keys, rows = keys[inside], rows[inside.to(rows.device)]
        rows = wide(rows).cpu()
        finite = rows.isfinite().all(1)
        self._take(keys[finite], rows[finite])

    def _take(self, keys: Tensor, rows: Tensor) -> None:
        if not len(keys):
            return
        if len(self):
            keys, rows = torch.cat([self.keys, keys]), torch.cat([self.rows, rows])
        order = keys.argsort(stable=True)[: self.size]
        self.keys, self.rows = keys[order], rows[order]

    def merge(self, other: "Sample") -> None:
        """Adds the rows another one kept."""
        self._take(other.keys, other.rows)

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        limit = torch.tensor(float(self.size), dtype=torch.float64)
        return {"size": limit, "keys": self.keys.clone(), "rows": self.rows.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Sample":
        """Returns what :meth:`state` was taken of."""
        sample = cls(int(state["size"]))
        sample.keys, sample.rows = state["keys"].clone(), state["rows"].clone()
        return sample
