"""Which units to take away together, in which order."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch

Order = tuple[int, ...]


def count_up_to(players: int, depth: int) -> int:
    """Returns how many sets of at most ``depth`` players there are."""
    return sum(math.comb(players, size) for size in range(depth + 1))


def every_set(players: int, depth: int) -> Iterator[frozenset[int]]:
    """Yields every set of at most ``depth`` players, small ones first."""
    for size in range(depth + 1):
        yield from map(frozenset, itertools.combinations(range(players), size))


def drawn_orders(
    players: int, depth: int, permutations: int, generator: torch.Generator
) -> list[list[Order]]:
    """Returns, for each of ``permutations``, orders of ``depth`` players.

    A permutation is cut into pieces of ``depth``, round and round until a piece ends where it
    begins. So everyone is in equally many pieces and, on average over permutations, equally often
    at each place, which makes the mean over a player's places unbiased.
    """
    found = []
    for _ in range(permutations):
        order = torch.randperm(players, generator=generator).tolist()
        starts = range(0, math.lcm(players, depth), depth)
        found.append([tuple(order[(s + n) % players] for n in range(depth)) for s in starts])
    return found


def prefixes(orders: Iterable[Sequence[int]]) -> set[frozenset[int]]:
    """Returns the sets that taking players away in these orders goes through."""
    return {frozenset(order[:n]) for order in orders for n in range(len(order) + 1)}
