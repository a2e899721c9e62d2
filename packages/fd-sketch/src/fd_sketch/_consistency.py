"""What the fields of a saved sketch owe each other: a checksum does not make a file true."""

from typing import TYPE_CHECKING

import numpy as np

from fd_sketch._batch import total_limit
from fd_sketch._buffer import FOLD_BELOW

if TYPE_CHECKING:
    from fd_sketch._format import Record

ROUNDING = 1e-3  # of the mass, above what many shrinks in float32 add up to
TINY = 1e-290  # masses near the end of the range of float64 lose their digits


def check_consistent(record: "Record") -> None:
    """Check that some rows could have led to this state.

    Raises:
        ValueError: a field contradicts others; the message names it.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        _check_moments(record)
        if record.method == "ExactGram":
            _check_matrix(record)
        else:
            _check_rows(record)


def _expect(field: str, rule: str, got: object, fine: bool) -> None:
    if not fine:
        raise ValueError(f"data: {field} must be {rule}, got {got}")


def _check_moments(record: "Record") -> None:
    m = record.moments
    if not record.dtype or m.n_seen == 0:
        empty = not (m.weight or m.total or record.delta or np.any(m.mean) or np.any(m.diagonal))
        _expect("total", "0 with all else where no row was seen", m.total, empty)
    if not record.dtype:
        _expect("n_seen", "0 without a dtype", m.n_seen, m.n_seen == 0 and m.n_skipped == 0)
        _expect("scale", "1 without a dtype", record.scale, record.scale == 1.0)
        return
    limit = total_limit(record.dtype)
    _expect("total", f"at most {limit}", m.total, m.total <= limit)
    trace = float(np.sum(m.diagonal))
    close = abs(m.total - trace) <= 1e-6 * trace + TINY
    _expect("total", f"{trace}, the sum of the diagonal", m.total, close)
    if not record.center:
        # the mean square is at least the square of the mean
        least = m.weight * np.square(m.mean)
        fine = bool(np.all(least <= m.diagonal * (1.0 + 1e-6) + TINY))
        _expect("mean", "within the diagonal", "more than the rows can have", fine)


def _check_rows(record: "Record") -> None:
    """Check that what is kept, and what is lost, is not more than all."""
    m, scale = record.moments, record.scale
    _expect("scale", f"in {FOLD_BELOW}..1", scale, FOLD_BELOW <= scale <= 1.0)
    squares = np.sum(np.square(record.rows.astype(np.float64) * scale), axis=0)
    room = ROUNDING * m.total + TINY
    _expect(
        "rows",
        "within the diagonal",
        "more in a column",
        bool(np.all(squares <= m.diagonal + room)),
    )
    left = m.total - float(np.sum(squares))
    _expect(
        "delta", f"at most {left}, the mass that is lost", record.delta, record.delta <= left + room
    )


def _check_matrix(record: "Record") -> None:
    """Check that the matrix is one of second moments."""
    C, m = record.rows, record.moments
    unused = {"sketch_size": 0, "buffer_size": 0, "delta": 0.0, "scale": 1.0, "alpha": 1.0}
    for name, value in unused.items():
        got = getattr(record, name)
        _expect(name, f"{value} for an exact moment", got, got == value)
    if len(C) == 0:
        return
    room = ROUNDING * m.total + TINY
    same = bool(np.all(np.abs(np.diagonal(C) - m.diagonal) <= room))
    _expect("rows", "of the saved diagonal", "another", same)
    _expect("rows", "symmetric", "another matrix", bool(np.all(np.abs(C - C.T) <= room)))
    try:
        np.linalg.cholesky(C + room * np.eye(len(C)))
    except np.linalg.LinAlgError:
        raise ValueError(
            "data: rows must be a positive semi-definite matrix, got another"
        ) from None
