"""Random numbers that belong to a sample, whatever batch it comes in."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 2**64


class Draws(torch.Generator):
    """A source of random numbers for a batch, with one of its own for each sample.

    What :func:`uniform` takes from it for a sample depends on the seed and on the place of the
    sample among all, in no way on the batch. Two samples that are alike are two draws. Anything
    else that draws from it gets numbers that depend on the place of the batch's first sample.

    Args:
        seed: of all numbers.
        first: place of the first sample among all.
        count: how many samples there are.
        device: of numbers that are drawn without :func:`uniform`.

    Example:
        >>> whole, part = uniform(Draws(0, 5, 3), [3, 2]), uniform(Draws(0, 6, 2), [2, 2])
        >>> torch.equal(whole[1:], part)
        True
    """

    own: list[torch.Generator]

    def __new__(
        cls, seed: int, first: int, count: int, device: torch.device | str = "cpu"
    ) -> "Draws":
        """Makes one for a batch."""
        found = super().__new__(cls, device=device)  # type: ignore[call-arg]
        seeds = [_mixed(seed, first + place) for place in range(count)]
        found.own = [torch.Generator().manual_seed(one) for one in seeds]
        found.manual_seed(_mixed(seed, first))
        return found


def _mixed(seed: int, place: int) -> int:
    """A number for each pair, without any pattern: neighbours have nothing in common."""
    # the finaliser of splitmix64 (Steele et al., OOPSLA 2014), once for either
    value = 0
    for part in (seed, place):
        value = (value + part * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % _WORD
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % _WORD
        value ^= value >> 31
    return value >> 1


def uniform(
    generator: torch.Generator, shape: Sequence[int], *, where: Tensor | None = None
) -> Tensor:
    """Returns numbers of ``0..1``, 1 excluded, ``[N, ...]``, float64, on the CPU.

    Args:
        generator: where they come from; from :class:`Draws`, those of a sample are its own.
        shape: how many; samples first.
        where: which places count, ``[N, ...]``: numbers are given out to these in their order, so
            that padding changes none. The others get zeros.
    """
    own = getattr(generator, "own", [])
    if not shape or len(own) != shape[0]:
        found = torch.rand(
            *shape, generator=generator, dtype=torch.float64, device=generator.device
        )
        return found.cpu()
    found = torch.zeros(*shape, dtype=torch.float64)
    inside = torch.ones(*shape, dtype=torch.bool) if where is None else where.cpu().expand(*shape)
    for row, (places, source) in enumerate(zip(inside, own, strict=True)):
        found[row][places] = torch.rand(int(places.sum()), generator=source, dtype=torch.float64)
    return found
