"""What singular values say: how many directions, how heavy a tail, what is above chance."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LONGEST_SCAN = 256


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of an ``[m, n]`` matrix, all of them or the leading ones.

    Attributes:
        values: descending.
        energy: sum of squares of all, also of those that are not in ``values``.
        shape: ``(m, n)``.
    """

    values: Tensor
    energy: float
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """How many singular values there are."""
        return min(self.shape)

    @property
    def complete(self) -> bool:
        """Whether all are known."""
        return len(self.values) == self.size


def spectrum(W: Tensor, *, exact: int = 1024, leading: int = 128, seed: int = 0) -> Spectrum:
    """Returns the singular values of a matrix, in float64.

    All of them where the smaller side is at most ``exact``; otherwise the ``leading`` ones by a
    randomised range finder with two power iterations, and the exact energy of the rest.

    Source: Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4.
    """
    W = W.detach().to("cpu", torch.float64)
    m, n = W.shape
    energy = float(W.square().sum())
    if min(m, n) <= exact:
        return Spectrum(_all_values(W), energy, (m, n))
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(n, leading + 16, generator=generator, dtype=torch.float64)
    Q = torch.linalg.qr(W @ start).Q
    for _ in range(2):
        Q = torch.linalg.qr(W @ torch.linalg.qr(W.T @ Q).Q).Q
    return Spectrum(_all_values(Q.T @ W)[:leading], energy, (m, n))


def _all_values(W: Tensor) -> Tensor:
    if min(W.shape) <= 256:
        return torch.linalg.svdvals(W)
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()


def effective_rank(spectrum: Spectrum) -> float:
    """Returns ``exp(H(p))`` with ``p`` the singular values over their sum; 0 for zeros.

    1 for a matrix of rank one, ``n`` for an orthogonal one. What is not known of a spectrum is
    taken to be as even as its energy allows.

    Source: Roy and Vetterli, EUSIPCO 2007, def. 1.
    """
    values = spectrum.values
    hidden = spectrum.size - len(values)
    if hidden:
        rest = max(spectrum.energy - float(values.square().sum()), 0.0)
        even = torch.full((hidden,), (rest / hidden) ** 0.5, dtype=torch.float64)
        values = torch.cat([values, even.clamp_max(float(values[-1]))])
    total = values.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def stable_rank(spectrum: Spectrum) -> float:
    """Returns ``|W|_F^2 / |W|_2^2``; 0 for zeros.

    Source: Rudelson and Vershynin, arXiv math/0503442.
    """
    largest = float(spectrum.values[0]) ** 2
    return spectrum.energy / largest if largest > 0 else 0.0


def hill(values: Tensor, tail: int) -> float:
    """Returns the tail index ``a`` of ``P(X > x) ~ x^-a`` from the ``tail`` largest values.

    Raises:
        ValueError: if there are not more values than that, or one of them is not positive.

    Source: Hill, Annals of Statistics 3 (1975), eq. 2.
    """
    if not 0 < tail < len(values):
        raise ValueError(f"tail must be in 1..{len(values) - 1}, got {tail}")
    top = values.double().sort(descending=True).values[: tail + 1]
    if not top[-1] > 0:
        raise ValueError("values of the tail must be positive")
    return float(1 / (top[:-1] / top[-1]).log().mean())


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A density ``~ x^-alpha`` above ``minimum``.

    Attributes:
        alpha: the exponent; the tail index plus one.
        minimum: where the tail begins.
        distance: largest difference of the two distribution functions above it.
        tail: how many values are in it.
    """

    alpha: float
    minimum: float
    distance: float
    tail: int


def power_law(values: Tensor, *, fewest: int = 8) -> PowerLaw | None:
    """Returns the power law that the upper values follow best; ``None`` below ``fewest`` of them.

    Maximum likelihood for each place where the tail may begin; the place is the one with the
    smallest distance of Kolmogorov and Smirnov. At most 256 places are tried, evenly by rank.

    Source: Clauset, Shalizi and Newman, arXiv 0706.1062, eq. 3.1 and 3.9; as a measure of how well
    trained a layer is: Martin and Mahoney, arXiv 1810.01075.
    """
    x = np.sort(values.double().numpy())
    x = x[x > 0]
    best: PowerLaw | None = None
    if len(x) < fewest:
        return None
    logs = np.log(x)
    starts = np.unique(np.linspace(0, len(x) - fewest, _LONGEST_SCAN).astype(int))
    for start in starts:
        tail = logs[start:] - logs[start]
        if not tail[-1] > 0:
            continue
        slope = len(tail) / tail.sum()
        fitted = -np.expm1(-slope * tail)
        steps = np.arange(len(tail) + 1) / len(tail)
        distance = float(max((steps[1:] - fitted).max(), (fitted - steps[:-1]).max()))
        if best is None or distance < best.distance:
            best = PowerLaw(1 + float(slope), float(x[start]), distance, len(tail))
    return best


def chance_edge(shape: tuple[int, int], variance: float) -> float:
    """Returns the largest singular value that a matrix of independent entries has.

    ``sqrt(variance) (sqrt m + sqrt n)``, widened by two and a half scales of the fluctuation of
    the largest one, which chance exceeds once in a few hundred.

    Source: Marchenko and Pastur (1967); the fluctuation: Johnstone, Annals of Statistics 29 (2001),
    theorem 1.1.
    """
    m, n = shape
    edge = m**0.5 + n**0.5
    scale = edge * (m**-0.5 + n**-0.5) ** (1 / 3)
    return float((variance * (edge**2 + 2.5 * scale)) ** 0.5)


def above_chance(spectrum: Spectrum) -> int:
    """Returns how many singular values are above those of independent entries of the same size."""
    m, n = spectrum.shape
    return int((spectrum.values > chance_edge((m, n), spectrum.energy / (m * n))).sum())
