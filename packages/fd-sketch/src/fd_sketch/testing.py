"""Laws that every covariance sketch keeps, as functions for the tests of third parties.

A law takes `make_sketch`, which returns a new empty sketch, and rows `X` [N, d]. It raises an
`AssertionError` that says what is wrong by how much. Laws that depend on it take `center` and
`decay`, which must be those of the sketches that are made. `check_all` checks what the protocol
`CovarianceSketch` promises; `check_covariance` and `check_components` are for sketches that
answer these questions too, as those of this package do.

Example:
    >>> import numpy as np
    >>> from fd_sketch import FrequentDirections
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> check_bounds(lambda: FrequentDirections(8, 3), X)
"""

from fd_sketch._arrays import Array
from fd_sketch._expect import MakeSketch, check_made, exact_moments, rounding, split
from fd_sketch._laws_of_bounds import (
    check_bounds,
    check_energy_rank,
    check_merge,
    check_quadratic_form,
    check_rotation,
    check_scale,
    check_splits,
    check_statistics,
    check_weights,
    check_zero_rows,
)
from fd_sketch._laws_of_estimates import check_components, check_covariance
from fd_sketch._laws_of_state import (
    check_bad_rows_are_skipped,
    check_copy_and_reset,
    check_determinism,
    check_errors_change_nothing,
    check_merge_with_empty,
    check_queries_change_nothing,
    check_round_trip,
)
from fd_sketch._laws_of_windows import check_window

__all__ = [
    "exact_moments",
    "rounding",
    "split",
    "check_all",
    "check_bounds",
    "check_statistics",
    "check_splits",
    "check_queries_change_nothing",
    "check_determinism",
    "check_copy_and_reset",
    "check_merge",
    "check_merge_with_empty",
    "check_weights",
    "check_scale",
    "check_rotation",
    "check_zero_rows",
    "check_bad_rows_are_skipped",
    "check_errors_change_nothing",
    "check_quadratic_form",
    "check_energy_rank",
    "check_round_trip",
    "check_covariance",
    "check_components",
    "check_window",
]


def check_all(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check every law of `CovarianceSketch`.

    The law of sliding windows, which are none, is `check_window`.

    Args:
        make_sketch: Returns a new empty sketch at every call.
        X: Rows, [N, d], of the library and dtype to check with.
        center: Whether the sketches that are made are centred.
        decay: Their decay.

    Raises:
        TypeError: `make_sketch` cannot be called, or returns something else than a sketch.
        ValueError: it returns a sketch of another `center` or `decay`.
        AssertionError: a law is broken; the message says by how much.
    """
    check_made(make_sketch, center=center, decay=decay)
    for law in (
        check_bounds,
        check_statistics,
        check_merge,
        check_weights,
        check_zero_rows,
        check_quadratic_form,
    ):
        law(make_sketch, X, center=center, decay=decay)
    check_rotation(make_sketch, X, center=center)
    check_energy_rank(make_sketch, X, center=center)
    if decay == 1.0:
        check_splits(make_sketch, X, center=center)
    check_merge_with_empty(make_sketch, X)
    check_scale(make_sketch, X)
    check_queries_change_nothing(make_sketch, X)
    check_determinism(make_sketch, X)
    check_copy_and_reset(make_sketch, X)
    check_bad_rows_are_skipped(make_sketch, X)
    check_errors_change_nothing(make_sketch, X)
    check_round_trip(make_sketch, X)
