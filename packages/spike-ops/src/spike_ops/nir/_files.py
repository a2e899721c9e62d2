"""Graphs in files: HDF5, by the library of the format."""

from pathlib import Path
from typing import Any

from spike_ops._hdf5 import why_unreadable
from spike_ops._whole import whole
from spike_ops.nir._errors import NirError
from spike_ops.nir._library import library

RULE = "the file must hold a graph of known nodes"
# bytes of values that a byte of a file may stand for: deflate packs about a thousand into one
DENSEST = 2000
READ_ALL = f"""
import math, os, sys, h5py
left = {DENSEST} * os.path.getsize(sys.argv[1]) + 1_000_000
def read(group, above):
    global left
    address = h5py.h5o.get_info(group.id).addr
    if address in above:
        raise ValueError("a group must not hold itself")
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise ValueError("it must hold everything itself, not by links to other files")
        item = group[name]
        if isinstance(item, h5py.Group):
            read(item, above | {{address}})
        elif isinstance(item, h5py.Dataset):
            left -= math.prod(item.shape or ()) * item.dtype.itemsize
            if left < 0:
                raise ValueError("its arrays must not be larger than such a file can hold")
            if item.external or item.is_virtual:
                raise ValueError("it must hold everything itself, not by links to other files")
            item[()]
with h5py.File(sys.argv[1], "r") as file:
    read(file["node"], frozenset())
"""


def read(path: str | Path, *, check: bool = True) -> Any:
    """Return the graph of a file as the library's `nir.NIRGraph`, as it stands there.

    Needs nir (`pip install 'spike-ops[nir]'`), whose HDF5 library reads the file. Damaged files can
    crash that library, and the process with it; `check` finds them out. Whether the graph can be
    run is for `from_nir` to say.

    Args:
        path: The file.
        check: Read everything once in a process of its own first, so that what crashes there, asks
            for unreasonable memory or leads to other files is refused here. Leave it out for files
            that are known to be whole.

    Raises:
        FileNotFoundError: There is no such file.
        NirError: The file is cut short, damaged, no HDF5, or holds no graph of known nodes.
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
    if check and (reason := why_unreadable(Path(path), READ_ALL)):
        raise NirError(str(path), f"{RULE}: {reason}")
    try:
        graph = nir.read(path, type_check=False)
    except Exception as error:  # whatever h5py and the library find wrong, by assertions too
        raise NirError(str(path), f"{RULE}: {str(error) or type(error).__name__}") from error
    return graph


def write(graph: Any, path: str | Path) -> None:
    """Write a graph to a file (HDF5), which every reader of NIR takes.

    Args:
        graph: A `nir.NIRGraph`, as `to_nir` returns it.
        path: The file; it is there whole or not at all, and what was there stays until then.

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
    with whole(Path(path)) as part:
        nir.write(part, graph)
