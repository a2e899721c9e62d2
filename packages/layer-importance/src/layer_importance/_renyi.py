"""Entropy and mutual information of order two from kernel matrices, in bits."""

import torch
from torch import Tensor


def entropy(K: Tensor) -> float:
    """Returns ``-log2 tr((K / tr K)^2)`` of a kernel matrix ``[n, n]``, in bits.

    0 for ``n`` points that are all alike, ``log2 n`` for ``n`` that have nothing in common.

    Source: Giraldo, Rao and Principe, arXiv 1211.2459, def. 1 with order 2.
    """
    return float(-(K.square().sum() / K.trace().square()).log2())


def mutual_information(K: Tensor, L: Tensor) -> float:
    """Returns ``S(K) + S(L) - S(K o L)``, in bits, with ``o`` entry by entry.

    Source: Yu et al., arXiv 1804.06537, eq. 5.
    """
    return entropy(K) + entropy(L) - entropy(K * L)


def cosine(rows: Tensor) -> Tensor:
    """Returns the cosines of rows, ``[n, n]``; a row of zeros is like none but itself."""
    norms = rows.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, rows / norms, 0.0)
    K = unit @ unit.T
    return K - K.diagonal().diag() + torch.eye(len(K), dtype=K.dtype)


def same(labels: Tensor) -> Tensor:
    """Returns 1 where two rows of labels are the same, ``[n, n]``."""
    return (labels[:, None] == labels[None]).all(2).to(torch.float64)


def near(values: Tensor) -> Tensor:
    """Returns ``exp(-d^2 / 2 m^2)`` of values ``[n, k]``, ``m`` the median of their distances."""
    distances = torch.cdist(values, values)
    apart = distances[distances > 0]
    scale = apart.median() if len(apart) else torch.ones((), dtype=values.dtype)
    return (-distances.square() / (2 * scale.square())).exp()
