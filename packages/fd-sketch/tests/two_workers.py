"""What each of two workers does; torchrun starts it, test_distributed.py reads what it writes."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch.distributed import all_reduce

D = 12


def rows(rank):
    rng = np.random.default_rng(rank)
    return (rng.standard_normal((70 + 30 * rank, D)) * np.logspace(0, -1, D) + rank).astype("f4")


def sketches(rank):
    """The sketch of a worker in each scene."""
    X = rows(rank)
    here = FrequentDirections(D, 4).partial_fit(torch.from_numpy(X))
    return {
        "same": FrequentDirections(D, 5).partial_fit(X),
        "sizes": FrequentDirections(D, 4 + 3 * rank, buffer_size=2 + 5 * rank).partial_fit(X),
        "centred": FrequentDirections(D, 5, center=True).partial_fit(X),
        "exact": ExactGram(D).partial_fit(X),
        "first empty": FrequentDirections(D, 5).partial_fit(X)
        if rank
        else FrequentDirections(D, 5),
        "both empty": FrequentDirections(D, 5),
        "torch": here,
        "other features": FrequentDirections(D + rank, 5),
        "other centring": FrequentDirections(D, 5, center=bool(rank)).partial_fit(X),
        "other method": ExactGram(D) if rank else FrequentDirections(D, 5),
        "no sketch": None if rank else FrequentDirections(D, 5),
    }


def main(folder):
    dist.init_process_group("gloo")
    rank, words = dist.get_rank(), []
    for name, sketch in sketches(rank).items():
        before = sketch and sketch.to_bytes()
        try:
            merged = all_reduce(sketch)
        except ValueError as error:
            words.append(f"{name}: {error}")
            continue
        (folder / f"{name}.{rank}").write_bytes(merged.to_bytes())
        words.append(f"{name}: {type(merged.sketch()).__name__} {sketch.to_bytes() == before}")
    (folder / f"words.{rank}").write_text("\n".join(words))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # threads of gloo can abort a process whose interpreter is being torn down
