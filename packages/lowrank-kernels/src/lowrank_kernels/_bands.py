"""Cut a falling staircase of ranks into few rectangles.

Rows sorted by falling rank make a staircase: `S(t)` rows have a rank above t, and the product
needs the area below it. A band `(a, b]` of ranks with all its `S(a)` rows is a rectangle, one pair
of matrix products; k of them cover the staircase from above. The cuts are chosen greedily: each
next one takes away the most area, until what it takes away is worth less than two more calls.
"""

from bisect import bisect_left
from typing import NamedTuple

# a cut is a multiple of this: matrix products are slower at widths between, by up to a third
STEP = 16
# what one more pair of calls costs, in multiplications of one thread of a processor
CALLS = 1_000_000
LIMIT = 8
_SAMPLES = 64


class Band(NamedTuple):
    """Ranks `start..stop` of the first `rows` rows; from row `exact` on the ranks end within it."""

    rows: int
    start: int
    stop: int
    exact: int


class _Part(NamedTuple):
    """A band that may be cut: the area the best cut takes away, and where it is."""

    gain: int
    cut: int
    rows: int
    start: int
    stop: int
    low: int
    high: int


def cut(ranks: list[int], features: int) -> tuple[Band, ...]:
    """Return few bands that cover falling ranks, where a direction costs `features` a row.

    Example:
        >>> for band in cut([512] * 100 + [16] * 900, 2048):
        ...     print(band)
        Band(rows=1000, start=0, stop=16, exact=1000)
        Band(rows=100, start=16, stop=512, exact=100)
    """
    least = CALLS // max(1, features)
    top, rising = ranks[0], [-r for r in ranks]
    sample = {-(-r // STEP) * STEP for r in ranks[:: max(1, len(ranks) // _SAMPLES)]}
    edges = sorted(t for t in sample if 0 < t < top)
    rows = [bisect_left(rising, -t) for t in edges]

    def part(S: int, start: int, stop: int, low: int, high: int) -> _Part:
        gain, best = least, -1
        for i in range(low, high):
            area = (S - rows[i]) * (stop - edges[i])
            if area > gain:
                gain, best = area, i
        return _Part(gain, best, S, start, stop, low, high)

    parts = [part(bisect_left(rising, 0), 0, top, 0, len(edges))]
    while len(parts) < LIMIT and (p := max(parts)).cut >= 0:
        parts.remove(p)
        t, S = edges[p.cut], rows[p.cut]
        parts += part(p.rows, p.start, t, p.low, p.cut), part(S, t, p.stop, p.cut + 1, p.high)
    parts.sort(key=lambda p: p.start)
    return tuple(Band(p.rows, p.start, p.stop, bisect_left(rising, 1 - p.stop)) for p in parts)


def cut_exactly(ranks: list[int]) -> tuple[Band, ...]:
    """Return a band for each rank there is: none ends within one."""
    rising = [-r for r in ranks]
    edges = [0, *sorted({r for r in ranks if r})]
    counts = [bisect_left(rising, -t) for t in edges]
    return tuple(
        Band(S, start, stop, S) for S, start, stop in zip(counts, edges, edges[1:], strict=False)
    )
