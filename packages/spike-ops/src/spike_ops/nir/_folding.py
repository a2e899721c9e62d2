"""Resistances into the weights before them."""

from typing import Any

import numpy as np

from spike_ops.nir._graph import kind_of
from spike_ops.nir._library import graph_of, library

WEIGHTS = ("Affine", "Linear", "Conv1d", "Conv2d", "Scale")


def without_resistance(graph: Any) -> Any:
    """Return a graph in which r is 1: the weights before a neuron times its r, or a Scale there.

    Weights that only the neuron hears are multiplied; anything else gets a `Scale` behind it. The
    membranes of soft resets, in graphs of their own, are left: their feedback is weighed by r.
    """
    nir = library()
    nodes, edges = dict(graph.nodes), list(graph.edges)
    for name, node in graph.nodes.items():
        r = getattr(node, "r", None)
        if r is None or np.all(r == 1):
            continue
        nodes[name] = _with(nir, node, r=np.ones_like(r))
        for a in [a for a, b in edges if b == name]:
            alone = [b for c, b in edges if c == a] == [name]
            folded = _times(nir, nodes[a], np.asarray(r)) if alone else None
            if folded is not None:
                nodes[a] = folded
                continue
            between = f"{a}_to_{name}"
            nodes[between] = nir.Scale(scale=np.asarray(r))
            edges = [edge for edge in edges if edge != (a, name)]
            edges += [(a, between), (between, name)]
    return graph_of(nodes, edges)


def _with(nir: Any, node: Any, **changed: Any) -> Any:
    return nir.dict2NIRNode(node.to_dict() | changed)


def _times(nir: Any, node: Any, r: Any) -> Any | None:
    """Return a node of weights times r; None if it cannot carry it."""
    kind = kind_of(node)
    if kind not in WEIGHTS:
        return None
    if kind == "Scale":
        return _with(nir, node, scale=node.scale * r)
    if kind.startswith("Conv"):
        if not np.all(r == r.flat[0]):
            return None
        r = np.full(len(node.weight), r.flat[0])
    changed = {"weight": node.weight * r.reshape(-1, *[1] * (node.weight.ndim - 1))}
    if kind != "Linear":
        changed["bias"] = node.bias * r
    return _with(nir, node, **changed)
