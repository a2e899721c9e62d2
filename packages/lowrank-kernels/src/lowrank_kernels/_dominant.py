"""Rows of a matrix of which all others are small combinations."""

import torch
from torch import Tensor


def dominant_rows(A: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return r rows of `A [m, r]`, the others, and their coefficients, none above `bound`.

    `A[others] = T A[chosen]` with `|T| <= bound`. Gaussian elimination with partial pivoting gives
    a first choice; then, as long as some `|T_ij| > bound`, row i takes the place of chosen row j.
    Each exchange multiplies the volume `|det A[chosen]|` by `|T_ij|`, so the exchanges end.

    Elimination alone bounds T by `2^(r-1)` only. The coefficients do not depend on the scale of
    the columns; an orthonormal basis of them is worked on, which also serves a rank-deficient A.

    Args:
        A: `[m, r]` in float64, `r <= m`.
        bound: above 1.

    Returns:
        `chosen [r]`, `others [m - r]`, `T [m - r, r]`.

    Source: Goreinov, Oseledets, Savostyanov, Tyrtyshnikov, Zamarashkin, "How to find a good
    submatrix" (2010); Gu and Eisenstat, SIAM J. Sci. Comput. 17 (1996), for the bound it implies.

    Example:
        >>> A = torch.tensor([[1.0, 0.0], [9.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> chosen, others, T = dominant_rows(A, 2.0)
        >>> chosen.tolist(), others.tolist(), T.abs().max() <= 2
        ([1, 2], [0], tensor(True))
    """
    m, r = A.shape
    if r == 0:
        rows = torch.arange(m, device=A.device)
        return rows[:0], rows, A
    Q = torch.linalg.qr(A).Q  # [m, r]
    chosen = _eliminated(Q)
    others, T = _rest(Q, chosen)
    while T.numel() and T.abs().max() > bound:
        chosen = _exchanged(Q, chosen, bound)
        others, T = _rest(Q, chosen)
    return chosen, others, T


def _eliminated(Q: Tensor) -> Tensor:
    """Return the rows that elimination with partial pivoting chooses."""
    rows = list(range(Q.shape[0]))
    # exchanges, one after the other: the permutation as a matrix would take m² numbers
    for i, pivot in enumerate(torch.linalg.lu_factor(Q).pivots.tolist()):
        rows[i], rows[pivot - 1] = rows[pivot - 1], rows[i]
    return torch.tensor(rows[: Q.shape[1]], device=Q.device)


def _rest(Q: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that were not chosen, and their coefficients computed from scratch."""
    left = torch.ones(Q.shape[0], dtype=torch.bool, device=Q.device)
    left[chosen] = False
    others = left.nonzero().flatten()
    return others, torch.linalg.solve(Q[chosen], Q[others], left=False)


def _exchanged(Q: Tensor, chosen: Tensor, bound: float) -> Tensor:
    """Return a better choice; coefficients of all rows are updated, `[m, r]`, rank one each."""
    chosen = chosen.clone()
    B = torch.linalg.solve(Q[chosen], Q, left=False)
    # a little below the bound, so that rounding in the updates does not bring it back
    limit = 1 + (bound - 1) * (1 - 1e-6)
    while True:
        i, j = divmod(int(B.abs().argmax()), B.shape[1])
        if abs(float(B[i, j])) <= limit:
            return chosen
        row, column = B[i].clone(), B[:, j] / B[i, j]
        row[j] -= 1
        B.addr_(column, row, alpha=-1)
        chosen[j] = i
