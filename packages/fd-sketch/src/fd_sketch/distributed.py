"""One sketch of the rows of all workers, over `torch.distributed`.

A module of its own because it imports torch, which the package itself never does.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from fd_sketch._arrays import Array
from fd_sketch._protocol import CovarianceSketch

__all__ = ["all_reduce", "merge_tree"]

SketchT = TypeVar("SketchT", bound=CovarianceSketch)
FINE, BROKEN = b"\x01", b"\x00"  # the first byte of what a worker sends


def all_reduce(sketch: SketchT, group: Any = None, *, like: Array | None = None) -> SketchT:
    """Return the sketch of the rows of all workers, the same one to the bit on each of them.

    What travels is the saved form of each sketch, `l + b` rows and `2 d` numbers at most, gathered
    by every worker and merged in the order of the ranks, in pairs, and the pairs in pairs. The
    bound holds for the rows of all, `Delta >= sum of the workers' Delta`, with the theorem for the
    smallest of the sketch sizes; workers without rows count for nothing. Decay and policy are
    those of the first worker with rows. The merge is done by numpy on the host, so that workers on
    machines of one kind end with the same bits.

    Collective: every worker of the group calls it. What is wrong with one sketch is raised on all
    workers, so that none waits for another.

    Args:
        sketch: The worker's sketch, left as it was.
        group: A process group; all workers where it is missing.
        like: An array of the library and on the device that the result is to live in; those of
            the worker's own data where it is missing, numpy before any.

    Raises:
        ValueError: the sketches are of different methods, numbers of features or centring, or a
            worker has brought no sketch; the message names the worker.

    Example:
        >>> import numpy as np
        >>> import torch.distributed as dist
        >>> from fd_sketch import FrequentDirections
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> sketch = FrequentDirections(4, 2).partial_fit(np.eye(4))
        >>> all_reduce(sketch).error_bound()
        1.0
        >>> dist.destroy_process_group()
    """
    blobs = _gathered(_letter(sketch), group)
    method = type(sketch)
    for rank, blob in enumerate(blobs):
        if blob[:1] != FINE:
            raise ValueError(f"worker {rank} has brought no sketch: {blob[1:].decode()}")
    sketches = [_read(method, blob, rank) for rank, blob in enumerate(blobs)]
    merged = _merged(_rowless_last(sketches))
    return method.from_bytes(merged.to_bytes(), like=sketch.mean if like is None else like)


def merge_tree(sketches: Iterable[SketchT]) -> SketchT:
    """Return a new sketch, all sketches merged in pairs, and the pairs in pairs.

    The sketches are left as they were: every other one is copied, and merged into. Each row
    is shrunk in `log2` of their number of merges only, while a chain shrinks the rows of the first
    sketch with every further one.

    Raises:
        TypeError: `sketches` is one sketch and no list, holds something else than sketches, or
            they are of different methods.
        ValueError: there is none, or their numbers of features or centring differ.

    Example:
        >>> import numpy as np
        >>> from fd_sketch import FrequentDirections
        >>> X = np.random.default_rng(0).standard_normal((8, 50, 10))
        >>> merged = merge_tree([FrequentDirections(10, 4).partial_fit(rows) for rows in X])
        >>> merged.n_samples_seen
        400
    """
    given = _rowless_last(_checked(sketches))
    # `merge` writes into the first of each pair only
    return _merged([s.copy() if i % 2 == 0 else s for i, s in enumerate(given)])


def _checked(sketches: Any) -> list[Any]:
    if isinstance(sketches, CovarianceSketch) or not isinstance(sketches, Iterable):
        raise TypeError(f"sketches must be a list of sketches, got {type(sketches).__name__}")
    given = list(sketches)
    if not given:
        raise ValueError("sketches must be at least one, got none")
    for i, sketch in enumerate(given):
        if not isinstance(sketch, CovarianceSketch):
            kind = type(sketch).__name__
            raise TypeError(f"sketches must hold nothing but sketches, got {kind} at {i}")
    return given


def _rowless_last(sketches: list[SketchT]) -> list[SketchT]:
    # the size of one that has seen nothing limits nobody
    return sorted(sketches, key=lambda sketch: sketch.n_samples_seen == 0)


def _merged(sketches: list[SketchT]) -> SketchT:
    """Return all sketches merged, in the first of each pair."""
    while len(sketches) > 1:
        pairs = [sketches[i : i + 2] for i in range(0, len(sketches), 2)]
        sketches = [pair[0].merge(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return sketches[0]


def _letter(sketch: Any) -> bytes:
    """Return what a worker sends: its sketch, or what is wrong with it."""
    if isinstance(sketch, CovarianceSketch):
        return FINE + sketch.to_bytes()
    return BROKEN + f"got {type(sketch).__name__}".encode()


def _read(method: type[SketchT], blob: bytes, rank: int) -> SketchT:
    try:
        return method.from_bytes(blob[1:])
    except ValueError as error:
        raise ValueError(f"the sketch of worker {rank} does not fit: {error}") from None


def _gathered(blob: bytes, group: Any) -> list[bytes]:
    """Return the bytes of every worker, in the order of the ranks; nothing is pickled."""
    device = "cuda" if "nccl" in dist.get_backend(group) else "cpu"
    n = dist.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(n)]
    dist.all_gather(sizes, torch.tensor([len(blob)], dtype=torch.int64, device=device), group)
    lengths = [int(size) for size in sizes]
    padded = np.zeros(max(lengths), dtype=np.uint8)
    padded[: len(blob)] = np.frombuffer(blob, dtype=np.uint8)
    mine = torch.from_numpy(padded).to(device)
    parts = [torch.empty_like(mine) for _ in range(n)]
    dist.all_gather(parts, mine, group)
    return [
        part[:length].cpu().numpy().tobytes() for part, length in zip(parts, lengths, strict=True)
    ]
