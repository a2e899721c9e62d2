"""The whole of `adlrns export`."""

import os
import tempfile
from pathlib import Path

from adlrns._console import say, stage
from adlrns._exporters import EXPORTERS
from adlrns._saved import load
from adlrns._source import open_model

# the sizes of the batch that is recorded and of the one that is compared
_RECORDED, _COMPARED = 2, 5


def run(folder: Path, target: str, out: Path | None, model: str | None) -> None:
    """Writes the materialised model of a folder as a program, whole or not at all."""
    suffix, exporter = EXPORTERS[target]
    path = (out or folder.resolve().with_name(folder.resolve().name + suffix)).absolute()
    with stage(f"open {folder}"):
        saved = load(folder, open_model(model).model if model else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        # exporters look at the suffix of the file
        unfinished = Path(scratch) / f"model{suffix}"
        with stage(f"export and check {target}"):
            text = exporter(
                saved.materialized, saved.example(_RECORDED), saved.example(_COMPARED), unfinished
            )
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    say(f"written: {path}")
    say(f"checked on {_COMPARED} made-up samples: {text}")
