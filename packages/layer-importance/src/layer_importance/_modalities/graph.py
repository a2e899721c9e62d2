"""Nodes and edges."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from layer_importance._batch import input_keys, with_entries
from layer_importance._modality import Modality, shape_words

_EDGES = ("edge_index", "adjacency", "adj", "adjacency_matrix", "adj_t")
_NODES = ("x", "node_features", "features")


class Graph(Modality):
    """Nodes ``[n, d]`` of one graph, a mapping with ``x`` and ``edge_index`` ``[2, E]`` or ``adj``.

    The samples are the nodes; some nodes are no batch, since the edges would not fit them. Those
    without a label (-100) are there and are not judged. Several graphs are padded to as many nodes
    each, ``x`` ``[N, T, d]``, ``adj`` ``[N, T, T]`` and ``mask`` ``[N, T]``: then the samples are
    graphs, and :func:`padded_graphs` makes that of nodes with the number of their graph.

    Spoiled: every node has the features of another node of its graph, or, with ``edges``, every
    edge leads to where another one led.

    Args:
        spoil: ``features`` or ``edges``.
    """

    name = "graph"

    def __init__(self, *, spoil: Literal["features", "edges"] = "features") -> None:
        super().__init__()
        if spoil not in ("features", "edges"):
            raise ValueError(f"spoil must be features or edges, got {spoil!r}")
        self.spoil = spoil

    def recognises(self, batch: Any) -> str:
        """Edges, under one of their usual names."""
        if not isinstance(batch, Mapping):
            return ""
        edges = [key for key in _EDGES if isinstance(batch.get(key), Tensor)]
        return f"edges {edges[0]} {shape_words(batch[edges[0]])}" if edges else ""

    def divisible(self, batch: Any) -> bool:
        """Only graphs padded to as many nodes each can be taken apart."""
        edges = _edges(batch)
        return edges is None or batch[edges].ndim == 3

    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """Features of other nodes, or other edges."""
        edges, keys = _edges(batch), input_keys(batch)
        wanted = edges if self.spoil == "edges" else next((k for k in _NODES if k in batch), None)
        if wanted is None:
            names = _EDGES if self.spoil == "edges" else _NODES
            raise ValueError(f"a graph needs one of {', '.join(names)}, got {', '.join(batch)}")

        def spoiled(key: Any, value: Any) -> Any:
            if key != wanted or key not in keys:
                return value
            if key == edges and len(value) == 2 and not value.is_floating_point():
                order = _order(value.shape[1], generator, value.device)
                return torch.stack([value[0], value[1, order]])
            order = self._orders(batch, value, generator)
            return _reordered(value, order, square=key == edges)

        return with_entries(batch, spoiled)

    def _orders(self, batch: Any, value: Tensor, generator: torch.Generator) -> Tensor:
        """Who takes whose place: nodes ``[n]``, or ``[N, T]`` with padding in its place."""
        if value.ndim < 3:
            return _order(len(value), generator, value.device)
        real = self.mask(batch, value.shape[1])
        rows = []
        for row in range(len(value)):
            order = torch.arange(value.shape[1], device=value.device)
            nodes = order if real is None else order[real[row]]
            order[nodes.clone()] = nodes[_order(len(nodes), generator, value.device)]
            rows.append(order)
        return torch.stack(rows)


def padded_graphs(nodes: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
    """Returns nodes ``[n, d]`` by graph, ``[N, T, d]``, and which are real, ``[N, T]``.

    Args:
        nodes: of all graphs.
        graph: the number of each node's graph, ``[n]``, from 0.

    Example:
        >>> import torch
        >>> nodes = torch.tensor([[1.0], [2.0], [3.0]])
        >>> found, real = padded_graphs(nodes, torch.tensor([0, 1, 1]))
        >>> found[..., 0].tolist(), real.tolist()
        ([[1.0, 0.0], [2.0, 3.0]], [[True, False], [True, True]])
    """
    counts = torch.bincount(graph)
    order = graph.argsort(stable=True)
    begins = (counts.cumsum(0) - counts)[graph[order]]
    places = torch.arange(len(graph), device=graph.device) - begins
    found = nodes.new_zeros(len(counts), int(counts.max()), *nodes.shape[1:])
    found[graph[order], places] = nodes[order]
    real = torch.arange(found.shape[1], device=graph.device) < counts[:, None]
    return found, real


def _edges(batch: Any) -> str | None:
    if not isinstance(batch, Mapping):
        return None
    return next((key for key in _EDGES if isinstance(batch.get(key), Tensor)), None)


def _order(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).to(device)


def _reordered(value: Tensor, order: Tensor, *, square: bool) -> Tensor:
    """Nodes in another order; of an adjacency matrix in rows and columns alike."""
    if value.is_sparse or value.layout == torch.sparse_csr:
        return _reordered(value.to_dense(), order, square=square)
    if order.ndim == 1:
        return value[order][:, order] if square else value[order]
    rows = torch.arange(len(value), device=value.device)
    if square:
        return value[rows[:, None, None], order[:, :, None], order[:, None, :]]
    return value[rows[:, None], order]
