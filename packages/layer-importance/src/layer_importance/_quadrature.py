"""Integrals and derivatives along a path from few points on it."""

import numpy
import torch
from torch import Tensor


def gauss_legendre(points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns nodes in 0..1, their weights, and the matrix that differentiates at the nodes.

    ``weights @ f(nodes)`` is the integral of a polynomial of degree up to ``2 points - 1``, and
    ``matrix @ f(nodes)`` the derivative, at the nodes, of one of degree below ``points``: that of
    the polynomial through all nodes, from barycentric weights.

    Source: Berrut and Trefethen, SIAM Review 2004, section 9.3.

    Example:
        >>> nodes, weights, matrix = gauss_legendre(3)
        >>> round(float(weights @ nodes**5), 12), torch.allclose(matrix @ nodes**2, 2 * nodes)
        (0.166666666667, True)
    """
    x, w = numpy.polynomial.legendre.leggauss(points)
    apart = x[:, None] - x[None, :] + numpy.eye(points)
    barycentric = 1 / apart.prod(1)
    matrix = barycentric[None, :] / barycentric[:, None] / apart
    matrix -= numpy.diag(matrix.diagonal())
    matrix -= numpy.diag(matrix.sum(1))
    # from -1..1 to 0..1
    return tuple(torch.from_numpy(a) for a in ((x + 1) / 2, w / 2, 2 * matrix))  # type: ignore[return-value]
