"""The rank inside a graph that is being traced."""

import torch
from torch import Tensor

from lowrank_kernels import _checks
from lowrank_kernels._types import Rank


def traced_rank(rank: Rank, size: int, *, least: int = 0) -> int | Tensor:
    """Return the rank as a graph should hold it: an int to slice by, or a tensor to read.

    A constant slices as any int does. A rank that may change under `torch.compile` goes into an
    operator that reads it when the graph runs, because slices of a symbolic length are guarded
    on (at length 0, 1 and R; in each convolution) or refused (where autograd meets a length it
    cannot compare). A program for export has neither autograd nor guards, but must run without
    this package, so there a tensor is read into a symbolic length.

    Args:
        rank: what the caller gave.
        size: R.
        least: the smallest rank an exported program can run at.
    """
    if torch.compiler.is_exporting():
        if not isinstance(rank, Tensor):
            return _checks.rank_value(rank, size)
        _checks.check_rank_tensor(rank)
        r = rank.item()  # not int(...), which would make a constant of it
        torch._check(r >= least)  # type: ignore[no-untyped-call,unused-ignore]
        torch._check(r <= size)  # type: ignore[no-untyped-call,unused-ignore]
        return r  # type: ignore[return-value]
    if isinstance(rank, Tensor):
        _checks.check_rank_tensor(rank)
        return rank
    from torch.fx.experimental.symbolic_shapes import has_static_value

    r = size if rank is None else _checks.integer(rank)
    if has_static_value(r):
        return _checks.rank_value(r, size)
    return torch.scalar_tensor(r, dtype=torch.int64)
