"""The whole of `adlrns export`."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adlrns._beside import naming, short_name
from adlrns._console import say, stage
from adlrns._export_file import check_file
from adlrns._exporters import EXPORTERS
from adlrns._saved import load
from adlrns._source import open_model

# the sizes of the batch that is recorded and of the one that is compared
_RECORDED, _COMPARED = 2, 5


def run(folder: Path, target: str, out: Path | None, model: str | None) -> None:
    """Writes the materialised model of a folder as a program, whole or not at all."""
    suffix, exporter = EXPORTERS[target]
    path = (out or folder.resolve().with_name(folder.resolve().name + suffix)).absolute()
    check_file(path, suffix)
    with stage(f"open {folder}"):
        saved = load(folder, open_model(model).model if model else None)
    with naming(path), _scratch(path) as scratch:
        # exporters look at the suffix of the file
        unfinished = scratch / f"model{suffix}"
        with stage(f"export and check {target}"):
            text = exporter(
                saved.materialized, saved.example(_RECORDED), saved.example(_COMPARED), unfinished
            )
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    say(f"written: {path}")
    say(f"checked on {_COMPARED} made-up samples: {text}")


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder on the same file system, gone in the end."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{short_name(path)}.") as scratch:
        yield Path(scratch)
