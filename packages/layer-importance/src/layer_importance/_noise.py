"""One unit at a time made random: dropout of its branch, or noise on its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layer_importance._edits import Edit, adds
from layer_importance._streams import channel_dim, over_features
from layer_importance._subject import Subject
from layer_importance._units import Unit


@dataclass(frozen=True, slots=True)
class Dropout:
    """Each feature of the branch is 0 with probability ``rate``, else divided by ``1 - rate``.

    One draw holds for all samples and tokens, as a draw of the unit's weights does: it takes rows
    out of whatever writes the branch (variational dropout, Gal and Ghahramani, arXiv 1512.05287).
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be in 0..1, 1 excluded, got {self.rate}")

    def unmet(self, subject: Subject, unit: Unit) -> str:
        """Returns why the unit cannot be made random so; empty if it can."""
        del subject, unit
        return ""

    def edit(self, subject: Subject, unit: Unit, y: Tensor, draw: int) -> Edit:
        """Returns the edit of one draw; the same one for units of the same width."""
        generator = torch.Generator().manual_seed(_seed(subject, draw))
        width = y.shape[channel_dim(subject, unit, y)]
        kept = torch.rand(width, generator=generator, dtype=torch.float64) >= self.rate
        factor = over_features(subject, unit, kept / (1 - self.rate), y)
        return adds(unit, lambda x, added: added * factor)


@dataclass(frozen=True, slots=True)
class WeightNoise:
    """Normal noise is added to each weight: ``spread`` times the root mean square of its tensor."""

    spread: float = 0.05

    def __post_init__(self) -> None:
        if not self.spread >= 0:
            raise ValueError(f"spread must be at least 0, got {self.spread}")

    def unmet(self, subject: Subject, unit: Unit) -> str:
        """Returns why the unit cannot be made random so; empty if it can."""
        if not any(p.is_floating_point() for p in subject.module(unit).parameters()):
            return "has no floating weights"
        return ""

    def edit(self, subject: Subject, unit: Unit, y: Tensor, draw: int) -> Edit:
        """Returns the edit of one draw."""
        del y
        module, seed = subject.module(unit), _seed(subject, draw)
        return Edit(lambda x, y: y, runs=True, around=lambda: self._disturbed(module, seed))

    @contextmanager
    def _disturbed(self, module: nn.Module, seed: int) -> Iterator[None]:
        generator = torch.Generator().manual_seed(seed)
        kept = [(p, p.data) for p in module.parameters() if p.is_floating_point()]
        try:
            for parameter, values in kept:
                noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
                size = self.spread * values.double().square().mean().sqrt()
                noisy = values.double() + size * noise.to(values.device)
                parameter.data = noisy.to(values.dtype)
            yield
        finally:
            for parameter, values in kept:
                parameter.data = values


def _seed(subject: Subject, draw: int) -> int:
    """Of one draw; those of neighbouring seeds do not overlap."""
    return (subject.seed * 1_000_003 + draw) % 2**63
