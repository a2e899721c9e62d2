"""What stands in `adlrns.json`: where a folder's models came from and how to call them."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from adlrns._errors import RunError

NAME = "adlrns.json"
FORMAT = 1
_PACKAGES = (
    "adlrns",
    "adlrns-models",
    "fd-sketch",
    "layer-importance",
    "lowrank-kernels",
    "neuro-morph",
    "rank-sched",
    "spike-ops",
    "torch",
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Source(_Part):
    """Where the architecture comes from."""

    kind: Literal["factory", "hf", "timm"]
    spec: str  # module:factory, the local folder the model was read from, or its name in timm


class Input(_Part):
    """One input of the model, as calibration saw it."""

    name: str | None  # of the keyword argument; None for the positional one
    shape: list[int]  # of the first batch; the first axis is the batch
    dtype: str
    high: int | None  # largest value of an integer input: examples stay in the vocabulary


class Calibration(_Part):
    """The data that the factors were fitted to."""

    data: str
    samples: int = Field(ge=1)
    sha256: str


class Budget(_Part):
    """What was asked for."""

    cost: Literal["flops", "parameters"]
    share: float = Field(gt=0, le=1)
    form: Literal["auto", "dense", "factored", "identity", "fastest"]


class Point(_Part):
    """What was chosen: the ranks of `model.safetensors`."""

    ranks: dict[str, int]
    loss: float
    cost: float
    dense_cost: float


class Manifest(_Part):
    """The whole of `adlrns.json`."""

    format: int
    versions: dict[str, str]
    source: Source
    calibration: Calibration
    budget: Budget
    point: Point
    inputs: list[Input]
    files: dict[str, str]  # name to SHA-256

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"must name files inside the folder, got {name!r}")
        return files

    def write(self, folder: Path) -> None:
        """Writes `adlrns.json` into a folder."""
        (folder / NAME).write_text(self.model_dump_json(indent=2) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions of those packages that are installed whose code decides a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprints(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file in a folder but `adlrns.json`, by its name there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != NAME:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def read_manifest(folder: Path, *, check_files: bool = True) -> Manifest:
    """Returns the manifest of a folder; its files are there and what they were.

    Raises:
        RunError: naming file and field.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} must be a folder written by adlrns, got no {NAME}") from None
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: not readable JSON: {error}") from error
    manifest = _parse(path, content)
    if check_files:
        for name, digest in manifest.files.items():
            _check_file(folder / name, digest)
    return manifest


def _parse(path: Path, content: Any) -> Manifest:
    number = content.get("format") if isinstance(content, dict) else None
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise RunError(f"{path}: field format must be in 1..{FORMAT}, got {number!r}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{path}: field {field}: {first['msg']}, got {first['input']!r:.80}"
        ) from None


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise RunError(f"{path}: no such file, though {NAME} lists it")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise RunError(f"{path}: damaged: its SHA-256 is not the one that {NAME} lists")
