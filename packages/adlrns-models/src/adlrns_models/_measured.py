"""What a call of an elastic model takes on one machine, layer by layer and rank by rank."""

import itertools
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Measured:
    """Measured costs of one call, on inputs like those given.

    ``latency_s = rest_s + sum of the layers' times``; ``energy_j = idle_j + watts * latency_s``, a
    line through what the whole network takes dense and at its cheapest.

    Attributes:
        ranks: measured ranks of each layer, rising; the last is full rank, run as a dense weight.
        seconds: median time of the layer at these ranks, inside calls of the whole network.
        rest_s: median of what such a call takes beside its elastic layers.
        idle_j, watts: see above; None without a meter.
        meter: name of the energy meter, or None.
        machine: where it was measured, with how many threads and in which precision; times of
            another machine say nothing.
    """

    ranks: Mapping[str, Sequence[int]]
    seconds: Mapping[str, Sequence[float]]
    rest_s: float
    idle_j: float | None
    watts: float | None
    meter: str | None
    machine: Mapping[str, str]

    def layer_s(self, name: str, ranks: Sequence[int]) -> list[float]:
        """Returns the predicted seconds of a layer within the network at each of ``ranks``.

        Times of factors never fall with the rank: what was measured is made monotone first
        (pool adjacent violators). Full rank is its own measurement.
        """
        known, times = self.ranks[name], self.seconds[name]
        full = known[-1]
        if len(known) == 1:
            return [times[-1]] * len(ranks)
        between = np.interp(ranks, known[:-1], monotone(times[:-1])).tolist()
        return [times[-1] if r >= full else t for r, t in zip(ranks, between, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, names: Iterable[str]) -> "Measured":
        """Returns what :meth:`to_dict` returned.

        Args:
            values: plain values.
            names: the layers they must be of.

        Raises:
            ValueError: if a field is missing, unknown or impossible.
        """
        try:
            found = cls(**values)
            ranks = {str(n): [int(r) for r in rs] for n, rs in found.ranks.items()}
            seconds = {str(n): [float(t) for t in ts] for n, ts in found.seconds.items()}
            told = {str(key): str(value) for key, value in found.machine.items()}
            rest, *energy = (
                None if v is None else float(v) for v in (found.rest_s, found.idle_j, found.watts)
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"damaged: {error}") from error
        times = [rest, *itertools.chain(*seconds.values()), *(v for v in energy if v is not None)]
        if not all(t is not None and 0.0 <= t < float("inf") for t in times):
            raise ValueError("times and energies must be finite and not negative")
        if not set(names) == ranks.keys() == seconds.keys():
            raise ValueError("ranks and seconds must be of the elastic layers")
        if not all(_agree(ranks[name], seconds[name]) for name in ranks):
            raise ValueError("ranks must rise, with one time each")
        return replace(found, ranks=ranks, seconds=seconds, machine=told)


def _agree(ranks: Sequence[int], seconds: Sequence[float]) -> bool:
    return len(ranks) == len(seconds) > 0 and all(
        a < b for a, b in itertools.pairwise((-1, *ranks))
    )


def monotone(values: Sequence[float]) -> list[float]:
    """Returns the non-decreasing sequence nearest to ``values`` in least squares."""
    blocks: list[list[float]] = []  # mean, count
    for value in values:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (before, more) = blocks.pop(), blocks.pop()
            blocks.append([(mean * count + before * more) / (count + more), count + more])
    return [mean for mean, count in blocks for _ in range(int(count))]


def conditions_of(model: nn.Module) -> dict[str, str]:
    """Returns what times depend on beside the network: where it runs, and in which precision."""
    device = next(model.parameters()).device
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "processor": _processor(),
        "device": name,
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "precision": " and ".join(sorted(types)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
