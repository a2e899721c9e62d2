"""`DATA`: where batches come from."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlrns._errors import UseError, need
from adlrns._inputs import example_of
from adlrns._source import HF, called, named

BATCH_SIZE, BATCHES = 32, 64
ARRAYS = (".npy", ".npz", ".safetensors", ".csv")
TEXTS = (".txt", ".jsonl")
_TEXT = "utf-8-sig"  # spreadsheets begin their files with a mark
_LONGEST = 256  # tokens of a sentence; later ones are cut


def open_batches(
    spec: str,
    *,
    batches: int = BATCHES,
    batch_size: int | None = None,
    tokenizer: Path | None = None,
) -> list[Any]:
    """Returns at most so many batches of a file, a function `module:function`, or `digits`.

    Args:
        spec: what the command line says.
        batches: the most that are taken.
        batch_size: samples a batch of a file; a function makes its own batches.
        tokenizer: a local folder with a transformers tokenizer, for sentences.

    Raises:
        UseError: if there are none; naming what is wrong.
    """
    path, size = Path(spec), batch_size or BATCH_SIZE
    found: Iterable[Any]
    if spec == "digits":
        from adlrns.demo import digits

        found = digits().batches(size)
    elif path.suffix in ARRAYS:
        found = _cut(_read(path), size)
    elif path.suffix in TEXTS:
        found = _tokens(_sentences(path), size, tokenizer, batches * size)
    elif ":" in spec:
        if batch_size is not None:
            raise UseError(f"--batch-size is for files, but --data {spec} makes its own batches")
        found = _made(spec)
    else:
        kinds = ", ".join((*ARRAYS, *TEXTS))
        raise UseError(f"--data must be module:function, a file ({kinds}) or digits, got {spec!r}")
    taken = list(islice(found, batches))
    if not taken:
        raise UseError(f"--data {spec} must hold at least one batch, got none")
    _check(spec, taken)
    return taken


def _made(spec: str) -> Iterable[Any]:
    made = called("--data", spec, named("--data", spec))
    if isinstance(made, Tensor) or not isinstance(made, Iterable):
        raise UseError(
            f"--data {spec} must return an iterable of batches, got {type(made).__name__}"
        )
    return made


def _check(spec: str, batches: list[Any]) -> None:
    for number, batch in enumerate(batches):
        try:
            tensors = example_of(batch).tensors
        except (TypeError, ValueError, RuntimeError) as error:
            raise UseError(f"--data {spec}: batch {number}: {error}") from None
        if not tensors or any(tensor.ndim == 0 for tensor in tensors):
            raise UseError(f"--data {spec}: batch {number} must hold tensors with a batch axis")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UseError(f"--data {path}: no such file")
    try:
        return {name: _tensor(array) for name, array in _arrays(path).items()}
    except UseError:
        raise
    except Exception as error:  # whatever a reader makes of a damaged file
        raise UseError(f"--data {path}: not a readable {path.suffix} file: {error}") from None


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {"": np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    return {"": _csv(path)}


def _csv(path: Path) -> np.ndarray:
    with path.open(newline="", encoding=_TEXT) as file:
        lines = [line for line in csv.reader(file) if line]
    if lines and not any(map(_is_number, lines[0])):
        lines = lines[1:]  # a header
    try:
        return np.array([[float(cell) for cell in line] for line in lines])
    except ValueError as error:
        raise UseError(f"--data {path} must hold rows of equally many numbers: {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _tensor(array: Any) -> Tensor:
    tensor = torch.as_tensor(array)
    # networks compute in float32, numpy writes float64
    return tensor.float() if tensor.is_floating_point() else tensor


def _cut(arrays: dict[str, Tensor], size: int) -> Iterator[Any]:
    """Batches of one array, or of several by name as keyword arguments."""
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in arrays.values()}
    if len(lengths) != 1:
        raise UseError(f"--data must hold arrays with equally many samples, got {sorted(lengths)}")
    for start in range(0, lengths.pop(), size):
        part = {name: tensor[start : start + size] for name, tensor in arrays.items()}
        yield next(iter(part.values())) if len(part) == 1 else part


def _sentences(path: Path) -> list[str]:
    if not path.is_file():
        raise UseError(f"--data {path}: no such file")
    lines = [line.strip() for line in path.read_text(encoding=_TEXT).splitlines()]
    if path.suffix == ".txt":
        return [line for line in lines if line]
    return [_sentence(path, n, line) for n, line in enumerate(lines, 1) if line]


def _sentence(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UseError(f"--data {path}: line {number} is no JSON: {error}") from None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UseError(f"--data {path}: line {number} must be a string or have a field text")
    return text


def _tokens(
    sentences: list[str], size: int, folder: Path | None, most: int
) -> Iterator[dict[str, Tensor]]:
    if folder is None:
        raise UseError("--data with sentences needs a tokenizer: a MODEL of the kind hf:PATH")
    transformers: Any = need("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    # sentences of one length need little padding, and padding is not data
    chosen = sorted(sentences[:most], key=len)
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        yield dict(
            tokenizer(part, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        )


def keep_tokenizer(source: Path, folder: Path) -> None:
    """Writes the tokenizer of one folder into another, beside a model's configuration."""
    transformers: Any = need("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        source, local_files_only=True, trust_remote_code=False
    )
    tokenizer.save_pretrained(folder / HF)
