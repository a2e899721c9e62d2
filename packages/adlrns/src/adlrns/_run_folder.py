"""Folders of runs that go on where they were cut short."""

import os
from pathlib import Path
from typing import Any

import yaml

from adlrns._beside import naming
from adlrns._config_file import Config
from adlrns._config_yaml import leaves
from adlrns._errors import UseError

NAME = "config.yaml"
_EPOCHS = ("train", "epochs")
# what may differ between a run and its continuation
_FREE = {
    _EPOCHS,
    ("data", "path"),
    ("run", "seeds"),
    ("run", "device"),
    *(("train", k) for k in ("patience", "min_delta", "max_bad_steps")),
    *(("train", k) for k in ("checkpoint_every", "keep_last")),
}


def open_run(out: Path, config: Config, *, resume: bool) -> None:
    """Makes a folder for runs, with the configuration as it was filled in.

    Raises:
        UseError: if it holds something else, another configuration's runs, runs of more epochs, or
            runs that were not asked to go on.
        RunError: if it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UseError(f"--out must be a folder, got the file {out}")
    if out.is_dir() and any(out.iterdir()):
        if not (out / NAME).is_file():
            raise UseError(f"--out must be new, empty or an earlier run, got {out} without {NAME}")
        if not resume:
            raise UseError(f"--out {out} holds a run: --resume goes on, or choose another folder")
        _compare(out, config)
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / NAME, config.to_yaml())


def _compare(out: Path, config: Config) -> None:
    try:
        old = yaml.safe_load((out / NAME).read_text())
        before = dict(leaves(old))
        trained = float(before.get(_EPOCHS, 0))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UseError(f"{out / NAME}: not readable: {error}") from None
    now = dict(leaves(yaml.safe_load(config.to_yaml())))
    if trained > float(now[_EPOCHS]):
        raise UseError(
            f"--resume must not lower train.epochs, which was {before[_EPOCHS]} in {out}, got "
            f"{now[_EPOCHS]}"
        )
    for place in sorted({*before, *now}):
        if before.get(place) != now.get(place) and place not in _FREE:
            raise UseError(
                f"--resume must keep {'.'.join(place)}, which was {_said(before.get(place))} in "
                f"{out}, got {_said(now.get(place))}"
            )


def _said(value: Any) -> str:
    return "not given" if value is None else repr(value)


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
