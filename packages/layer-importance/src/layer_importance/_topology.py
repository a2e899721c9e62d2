"""Connected components over all scales: of points, and of layers as graphs of weights."""

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from torch import Tensor


def deaths(points: Tensor) -> Tensor:
    """Returns the scales at which components merge, ascending, ``[n - 1]``: the bars of ``H_0``.

    Every component of the Vietoris-Rips filtration is born at 0; they die at the lengths of the
    edges of a minimum spanning tree, also of length 0, exactly.

    Args:
        points: ``[n, d]``.
    """
    if len(points) < 2:
        return torch.empty(0, dtype=torch.float64)
    # single linkage merges along the minimum spanning tree
    return torch.from_numpy(np.sort(linkage(_distances(points), method="single")[:, 2]))


def relative_deaths(points: Tensor) -> Tensor:
    """Returns :func:`deaths` over the median distance of two points; zeros if that is 0."""
    if len(points) < 2:
        return torch.empty(0, dtype=torch.float64)
    median = float(np.median(_distances(points)))
    found = deaths(points)
    return found / median if median > 0 else torch.zeros_like(found)


def transport(a: Tensor, b: Tensor) -> float:
    """Returns the mean distance between two sets of as many bars, matched in order.

    With all births at 0 this is their 1-Wasserstein distance, a bar.
    """
    return float((a.sort().values - b.sort().values).abs().mean())


def neural_persistence(W: Tensor) -> float:
    """Returns how unevenly a layer's weights hold it together: 0 to 1.

    The layer is a bipartite graph with weights ``w = |W| / max |W|``, filtered from 1 downwards; a
    component dies with ``w`` of an edge of the maximum spanning tree. The value is the 2-norm of
    the persistences ``1 - w`` over the largest it can be, ``sqrt(m + n - 1)``. 0 for equal weights
    and for zeros.

    Source: Rieck et al., arXiv 1812.09764, definitions 1 and 2 with p = 2.

    Args:
        W: ``[m, n]``.
    """
    largest = W.abs().max() if W.numel() else W.new_zeros(())
    if not largest > 0:
        return 0.0
    edges = _spanning((W.detach().abs() / largest).double().cpu().numpy())
    return float(np.sqrt(np.square(1 - edges).sum() / len(edges)))


def _spanning(w: np.ndarray) -> np.ndarray:
    """Weights of the edges of the maximum spanning tree of a bipartite graph, by Prim."""
    m, n = w.shape
    columns = np.ascontiguousarray(w.T)
    inside, apart = -2.0, -1.0
    reach = np.full(m + n, apart)  # heaviest edge from the tree to each row, then to each column
    reach[0], reach[m:] = inside, w[0]
    edges = np.empty(m + n - 1)
    for number in range(len(edges)):
        place = int(reach.argmax())
        edges[number], reach[place] = reach[place], inside
        near, fresh = (reach[m:], w[place]) if place < m else (reach[:m], columns[place - m])
        np.maximum(near, fresh, out=near, where=near > inside)
    return edges


def _distances(points: Tensor) -> np.ndarray:
    rows = points.detach().to("cpu", torch.float64)
    # not by products of rows: that loses the small distances
    return torch.nn.functional.pdist(rows).numpy()
