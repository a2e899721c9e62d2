"""Graphs in files: HDF5, by the library of the format."""

from pathlib import Path
from typing import Any

from spike_ops.nir._errors import NirError
from spike_ops.nir._library import library


def read(path: str | Path) -> Any:
    """Return the graph of a file as the library's `nir.NIRGraph`, as it stands there.

    Needs nir (`pip install 'spike-ops[nir]'`), whose HDF5 library reads the file. Whether the graph
    can be run is for `from_nir` to say.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        NirError: The file is cut short, no HDF5, or holds no graph of known nodes.
        ImportError: nir is not installed.

    Example:
        >>> import tempfile
        >>> from spike_ops.neuron import LIF
        >>> from spike_ops.nir import to_nir
        >>> file = Path(tempfile.mkdtemp()) / "net.nir"
        >>> write(to_nir(LIF(), (3,), dt=1e-3), file)
        >>> sorted(read(file).nodes)
        ['input', 'net', 'output']
    """
    nir = library()
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must be a file, got {path}")
    try:
        graph = nir.read(path, type_check=False)
    except Exception as error:  # whatever h5py and the library find wrong, by assertions too
        told = str(error) or type(error).__name__
        raise NirError(str(path), f"the file must hold a graph of known nodes: {told}") from error
    return graph


def write(graph: Any, path: str | Path) -> None:
    """Write a graph to a file (HDF5), which every reader of NIR takes.

    Args:
        graph: A `nir.NIRGraph`, as `to_nir` returns it.
        path: The file; it is written anew.

    Raises:
        TypeError: It is no graph.
        ImportError: nir is not installed.

    Example:
        >>> import tempfile
        >>> from spike_ops.neuron import IF
        >>> from spike_ops.nir import to_nir
        >>> write(to_nir(IF(), (3,), dt=1e-3), Path(tempfile.mkdtemp()) / "net.nir")
    """
    nir = library()
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph, got {type(graph).__name__}")
    nir.write(path, graph)
