"""The forms a low-rank product can run in, and what counting says about them."""

from collections.abc import Iterator

from lowrank_kernels import _checks

DENSE, FACTORED, PACKED, FUSED = "dense", "factored", "packed", "fused"
FORMS = (DENSE, FACTORED, PACKED, FUSED)
STAIRCASE, MASKED = "staircase", "masked"  # of a rank for each row
BATCHES = tuple(2**k for k in range(10))  # 1..512
LIKED = 16  # the multiple of ranks below which products of matrices leave lanes empty


def round_rank(rank: int, multiple: int = LIKED, *, max_rank: int | None = None) -> int:
    """Return the rank that the hardware likes at least as well: the next multiple.

    It rounds up, so that nothing is lost in accuracy, to `min(R, multiple · ceil(r / multiple))`.
    Vector units and tiles work on blocks of 8 or 16: a rank between costs as much as the next.
    Rank 0 stays 0.

    Args:
        rank: r, at least 0.
        multiple: the block, at least 1.
        max_rank: R, above which nothing is rounded; None is no limit.

    Raises:
        ValueError: `rank` is negative or above `max_rank`, or `multiple` is below 1.
        TypeError: one of them is no int.

    Example:
        >>> [round_rank(r) for r in (0, 1, 16, 17)]
        [0, 16, 16, 32]
        >>> round_rank(97, max_rank=100)
        100
    """
    r, block = _checks.whole("rank", rank, 0), _checks.whole("multiple", multiple, 1)
    rounded = -(-r // block) * block
    if max_rank is None:
        return rounded
    R = _checks.whole("max_rank", max_rank, 0)
    if r > R:
        raise ValueError(f"rank must be in 0..{R}, got {r}")
    return min(rounded, R)


def counted(n: int, m: int, rank: int) -> dict[str, int]:
    """Return the multiplications a row takes, `mn` dense and `r(m + n)` in factors.

    Example:
        >>> counted(4, 6, 2)
        {'dense': 24, 'factored': 20, 'packed': 20}
    """
    return {DENSE: m * n, FACTORED: rank * (m + n), PACKED: rank * (m + n)}


def by_rule(n: int, m: int, rank: int, rows: int) -> tuple[str, ...]:
    """Return the forms from best to worst where nothing was measured.

    Dense from the break-even `r* = mn / (m + n)` on, factors below. Of the two layouts of `up` the
    packed one reads memory in order, which a product with a single row is bound by.
    """
    factors = (PACKED, FACTORED) if rows <= 1 else (FACTORED, PACKED)
    costs = counted(n, m, rank)
    return (DENSE, *factors) if costs[DENSE] <= costs[FACTORED] else (*factors, DENSE)


def break_even(n: int, m: int, R: int) -> int | None:
    """Return the least rank up to R at which the dense form takes no more multiplications."""
    least = -(-n * m // max(n + m, 1))
    return least if least <= R else None


def rank_grid(n: int, m: int, R: int) -> tuple[int, ...]:
    """Return the ranks to measure at: few far below the break-even, more around it, and R.

    Example:
        >>> rank_grid(1024, 1024, 1024)
        (8, 16, 32, 128, 256, 384, 448, 512, 640)
    """
    return tuple(sorted({min(r, R) for r in _grid(n * m / (n + m))} - {0}))


def _grid(break_even: float) -> Iterator[int]:
    yield from (8, LIKED, 2 * LIKED)
    for share in (1 / 16, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 1, 5 / 4):
        yield round_rank(int(share * break_even))
