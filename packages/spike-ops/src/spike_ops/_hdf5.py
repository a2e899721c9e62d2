"""HDF5 files from elsewhere, looked at in a process of their own before they are read here.

Damaged files can crash the library of the format, and the process with it, or make it ask for more
memory than there is.
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# where a superblock with addresses of 8 bytes says how long the file is, by its version
LENGTH_AT = {0: 40, 1: 44, 2: 28, 3: 28}
# seconds that reading takes at most, and bytes in each further one
PATIENCE = 60.0
SLOWEST = 1e5


def why_unreadable(path: Path, program: str) -> str:
    """Return why a file cannot be read; nothing if it can.

    Args:
        path: The file.
        program: Python that reads all that will be read, from the file `sys.argv[1]`; it runs in a
            process of its own, and an exception there is a reason.
    """
    return _cut(path) or _failure(path, program)


def _cut(path: Path) -> str:
    """Return how many bytes a file lacks by what its head says."""
    with path.open("rb") as file:
        head = file.read(64)
    version, size = head[8:9], path.stat().st_size
    if not head.startswith(SIGNATURE) or len(head) < 64 or version[0] not in LENGTH_AT:
        return ""  # the library may know better
    (width,) = head[13:14] if version[0] < 2 else head[9:10]
    (told,) = struct.unpack_from("<Q", head, LENGTH_AT[version[0]])
    return f"it has {size} of {told} bytes" if width == 8 and told > size else ""


def _failure(path: Path, program: str) -> str:
    command = [sys.executable, "-P", "-c", program, str(path)]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    limit = PATIENCE + path.stat().st_size / SLOWEST
    try:
        run = subprocess.run(
            command, env=surroundings, capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"HDF5's library was not done after {limit:.0f} s"
    if run.returncode < 0:
        return f"HDF5's library crashes on it (signal {-run.returncode})"
    told = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return " ".join(told)[:200] or "HDF5's library gave up" if run.returncode else ""
