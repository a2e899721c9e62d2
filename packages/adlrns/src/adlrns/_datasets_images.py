"""Images: scikit-learn's digits, idx files, CIFAR-10 records."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlrns._datasets import Task, no_more, option, tensors
from adlrns._errors import UseError

# of all training pixels; the usual numbers of the three sets
_SHIFT = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}
_RECORD = 1 + 3 * 32 * 32


def open_digits(path: Path, options: dict[str, Any]) -> Task:
    """Returns scikit-learn's digits; no file is read."""
    del path
    from adlrns.demo import digits

    limit = option(options, "limit", None, int)
    no_more(options, "digits")
    data = digits()
    train, valid = tensors(data.train_x, data.train_y, limit), tensors(data.test_x, data.test_y)
    return Task(train, valid, "classification", _image(1, 8, 10), "accuracy")


def open_idx(path: Path, options: dict[str, Any]) -> Task:
    """Returns MNIST or a set in its format: four idx files in a folder, ``.gz`` or plain."""
    limit = option(options, "limit", None, int)
    no_more(options, "mnist")
    parts = []
    for part in ("train", "t10k"):
        pixels = _idx(path, f"{part}-images-idx3-ubyte", 3).astype(np.float32) / 255
        labels = _idx(path, f"{part}-labels-idx1-ubyte", 1).astype(np.int64)
        if len(pixels) != len(labels):
            raise UseError(f"{path}: {part} must have a label an image, got {len(labels)} labels")
        parts.append((torch.from_numpy(pixels)[:, None], torch.from_numpy(labels)))
    (x, y), (test_x, test_y) = parts
    mean, spread = x.mean(), x.std()
    train = tensors((x - mean) / spread, y, limit)
    valid = tensors((test_x - mean) / spread, test_y)
    classes = int(y.max()) + 1
    return Task(train, valid, "classification", _image(1, x.shape[2], classes), "accuracy")


def _idx(folder: Path, name: str, axes: int) -> np.ndarray:
    """Reads an array of unsigned bytes: magic number, sizes, data, big-endian."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise UseError(f"{folder / name}: no such file, nor with .gz")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UseError(f"{path}: not a readable gzip file: {error}") from None
    start = 4 + 4 * axes
    if len(raw) < start or raw[:4] != bytes([0, 0, 8, axes]):
        raise UseError(f"{path}: field magic must be 0x0000080{axes}, got 0x{raw[:4].hex()}")
    sizes = struct.unpack(f">{axes}I", raw[4:start])
    if len(raw) - start != np.prod(sizes, dtype=object):
        raise UseError(
            f"{path}: field sizes {list(sizes)} must fit the data, got {len(raw) - start} bytes"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)


def open_cifar10(path: Path, options: dict[str, Any]) -> Task:
    """Returns CIFAR-10 in its binary version: records of a label and 3,072 bytes."""
    limit = option(options, "limit", None, int)
    no_more(options, "cifar10")
    folder = path / "cifar-10-batches-bin"
    folder = folder if folder.is_dir() else path
    train = sorted(folder.glob("data_batch_*.bin"))
    if not train:
        python = next(folder.rglob("data_batch_1"), None)
        hint = "; this is the pickled version, which is never loaded" if python else ""
        raise UseError(f"{folder}: must hold data_batch_*.bin, the binary version, got none{hint}")
    x, y = (torch.cat(part) for part in zip(*map(_records, train), strict=True))
    test_x, test_y = _records(folder / "test_batch.bin")
    fit = _image(3, 32, 10)
    return Task(tensors(x, y, limit), tensors(test_x, test_y), "classification", fit, "accuracy")


def _records(path: Path) -> tuple[Tensor, Tensor]:
    if not path.is_file():
        raise UseError(f"{path}: no such file")
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % _RECORD:
        raise UseError(f"{path}: must hold records of {_RECORD} bytes, got {len(raw)} bytes")
    rows = raw.reshape(-1, _RECORD)
    if rows[:, 0].max() > 9:
        raise UseError(f"{path}: field label must be in 0..9, got {rows[:, 0].max()}")
    mean, spread = (torch.tensor(v)[:, None, None] for v in _SHIFT["cifar10"])
    x = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    return (x - mean) / spread, torch.from_numpy(rows[:, 0].astype(np.int64))


def _image(channels: int, size: int, classes: int) -> dict[str, Any]:
    return {
        "channels": channels,
        "image_size": size,
        "classes": classes,
        "in_features": channels * size * size,
    }
