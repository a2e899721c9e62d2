"""What becomes of damaged NIR files: read or refused by name, and nothing else.

Writes a network, changes bytes of its file at random, and reads it. The process that reads must
live to the end; a file that crashes HDF5's library in the process that looks first is refused.

    python packages/spike-ops/benchmarks/nir_damage.py --files 1000

Needs the extra `spike-ops[nir]`.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spike_ops.neuron import LIF, Diagonal, Recurrent
from spike_ops.nir import NirError, Stepwise, from_nir, to_nir, write

SHAPE = (1, 6, 6)


def example() -> nn.Module:
    """Return a network with most kinds of nodes."""
    torch.manual_seed(0)
    return nn.Sequential(
        Stepwise(nn.Conv2d(1, 2, 3)), LIF(2.0, reset="soft"), Stepwise(nn.AvgPool2d(2)),
        nn.Flatten(2), nn.Linear(8, 4), Recurrent(LIF(4.0), Diagonal(4)), nn.Linear(4, 2),
    )  # fmt: skip


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with some of them changed, cut out or put in, where they are not zero."""
    changed, used = bytearray(data), np.flatnonzero(np.frombuffer(data, np.uint8))
    for _ in range(int(rng.integers(1, 9))):
        place, length = int(rng.choice(used)), int(rng.integers(1, 9))
        match rng.integers(0, 8):
            case 0:
                del changed[place : place + length]
            case 1:
                changed[place:place] = rng.bytes(length)
            case 2:
                changed[place : place + length] = bytes([int(rng.choice([0, 255]))]) * length
            case 3:
                changed[place : place + length] = rng.bytes(length)
            case _:
                changed[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def outcome(path: Path) -> str:
    """Return what reading a file and building its network comes to."""
    try:
        from_nir(path, dt=1e-3)
    except NirError as error:
        if "crashes" in error.rule:
            return "refused: crashes HDF5's library"
        if "was not done" in error.rule:
            return "refused: HDF5's library hangs"
        return "refused: file" if error.node == str(path) else "refused: node"
    return "read"


def main() -> None:
    """Print how many files came to what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, found, begun = np.random.default_rng(asked.seed), Counter[str](), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        write(to_nir(example(), SHAPE, dt=1e-3), path)
        whole = path.read_bytes()
        for _ in range(asked.files):
            path.write_bytes(damaged(whole, rng))
            found[outcome(path)] += 1
    for told, count in sorted(found.items()):
        print(f"{count:6d} {told}")
    print(f"{asked.files} files of {len(whole)} bytes in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
