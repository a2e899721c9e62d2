"""The library of the format, imported where it is used."""

import importlib
from typing import Any


def library() -> Any:
    """Return the module `nir`.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise ImportError("graphs of NIR need the library nir: pip install 'spike-ops[nir]'") from (
            error
        )


def graph_of(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Any:
    """Return a `nir.NIRGraph`, with the types of its nodes where the library can tell them.

    It takes the height of a kernel for its width too, and the channels of a group for all, and
    finds graphs with such layers wrong that are right.
    """
    graph = library().NIRGraph
    try:
        return graph(dict(nodes), list(edges))
    except ValueError:
        return graph(nodes, edges, type_check=False)
