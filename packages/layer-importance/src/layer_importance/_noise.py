"""One unit at a time made random: dropout of its branch, or noise on its weights."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from layer_importance._edits import Edit, adds
from layer_importance._streams import channel_dim, over_features
from layer_importance._subject import Subject
from layer_importance._units import Unit


class Noise(Protocol):
    """How a unit is made random.

    Attributes:
        forwards: passes over each batch that it takes beforehand.
    """

    forwards: ClassVar[float]

    def prepared(self, subject: Subject, progress: Callable[[str, int], None]) -> "Noise":
        """Returns the noise once it has seen the data, if it depends on them."""

    def unmet(self, subject: Subject, unit: Unit) -> str:
        """Returns why the unit cannot be made random so; empty if it can."""

    def edit(self, subject: Subject, unit: Unit, y: Tensor, draw: int) -> Edit:
        """Returns the edit of one draw; ``y`` is the unit's output in the unchanged run."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """Each feature of the branch is 0 with probability ``rate``, else divided by ``1 - rate``.

    One draw holds for all samples and tokens, as a draw of the unit's weights does: it takes rows
    out of whatever writes the branch (variational dropout, Gal and Ghahramani, arXiv 1512.05287).
    """

    rate: float = 0.1
    forwards: ClassVar[float] = 0.0

    def prepared(self, subject: Subject, progress: Callable[[str, int], None]) -> Noise:
        """It depends on no data."""
        del subject, progress
        return self

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be in 0..1, 1 excluded, got {self.rate}")

    def unmet(self, subject: Subject, unit: Unit) -> str:
        """Returns why the unit cannot be made random so; empty if it can."""
        del subject, unit
        return ""

    def edit(self, subject: Subject, unit: Unit, y: Tensor, draw: int) -> Edit:
        """Returns the edit of one draw; the same one for units of the same width."""
        generator = subject.drawn(draw)
        width = y.shape[channel_dim(subject, unit, y)]
        kept = torch.rand(width, generator=generator, dtype=torch.float64) >= self.rate
        factor = over_features(subject, unit, kept / (1 - self.rate), y)
        return adds(unit, lambda x, added: added * factor)


@dataclass(frozen=True, slots=True)
class WeightNoise:
    """Normal noise is added to each weight: ``spread`` times the root mean square of its tensor."""

    spread: float = 0.05
    forwards: ClassVar[float] = 0.0

    def prepared(self, subject: Subject, progress: Callable[[str, int], None]) -> Noise:
        """It depends on no data."""
        del subject, progress
        return self

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
        module = subject.module(unit)
        return Edit(
            lambda x, y: y,
            runs=True,
            around=lambda: self._disturbed(module, subject.drawn(draw)),
        )

    @contextmanager
    def _disturbed(self, module: nn.Module, generator: torch.Generator) -> Iterator[None]:
        noises = []
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                size = self.spread * parameter.detach().double().square().mean().sqrt()
                noises.append((parameter, size * noise.to(parameter.device)))
        with added_to(noises):
            yield


@contextmanager
def added_to(noises: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Adds to parameters, and gives them back as they were."""
    kept = [(parameter, parameter.data, noise) for parameter, noise in noises]
    try:
        for parameter, values, noise in kept:
            parameter.data = (values.double() + noise.to(values.device)).to(values.dtype)
        yield
    finally:
        for parameter, values, _ in kept:
            parameter.data = values
