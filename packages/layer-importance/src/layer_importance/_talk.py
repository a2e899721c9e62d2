"""Bytes between processes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_FINE, _BROKEN = b"\x01", b"\x00"  # the first byte of what a process sends


class Talk:
    """Bytes between all processes; a failure of one reaches all."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self._heard_of_it = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tells the others of an error inside, so that none waits for this one."""
        try:
            yield
        except Exception as error:
            if not self._heard_of_it:
                self._gathered(_BROKEN + f"{type(error).__name__}: {error}".encode())
            raise

    def exchange(self, data: bytes) -> list[bytes]:
        """Returns what every process sent, in the order of ranks."""
        letters = self._gathered(_FINE + data)
        for rank, letter in enumerate(letters):
            if letter[:1] != _FINE:
                self._heard_of_it = True
                raise RuntimeError(f"process {rank} failed: {letter[1:].decode()}")
        return [letter[1:] for letter in letters]

    def agree(self, facts: dict[str, Any]) -> None:
        """Raises where processes were given different things."""
        told = [json.loads(one) for one in self.exchange(json.dumps(facts).encode())]
        for rank, other in enumerate(told):
            for what, value in told[0].items():
                if other[what] != value:
                    self._heard_of_it = True
                    raise ValueError(
                        f"{what} must be the same in every process, got {value!r:.80} in process "
                        f"0 and {other[what]!r:.80} in process {rank}"
                    )

    def _gathered(self, data: bytes) -> list[bytes]:
        device = "cuda" if "nccl" in dist.get_backend(self.group) else "cpu"
        sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(self.world)]
        mine = torch.tensor([len(data)], dtype=torch.int64, device=device)
        dist.all_gather(sizes, mine, self.group)
        lengths = [int(size) for size in sizes]
        padded = np.zeros(max(lengths), dtype=np.uint8)
        padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        sent = torch.from_numpy(padded).to(device)
        parts = [torch.empty_like(sent) for _ in range(self.world)]
        dist.all_gather(parts, sent, self.group)
        found = zip(parts, lengths, strict=True)
        return [part[:length].cpu().numpy().tobytes() for part, length in found]
