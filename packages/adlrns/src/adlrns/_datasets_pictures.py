"""Folders of pictures, each read when it is asked for."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from adlrns._datasets import HELD, Task, no_more, option, shuffled
from adlrns._datasets_folders import Classes, classes_in
from adlrns._errors import UseError, need

# pixels a side, at most, of a picture that nothing is asked of: what the reference nets can take in
PICTURES = 128


def open_folders(path: Path, options: dict[str, Any]) -> Task:
    """Returns the pictures of ``train/CLASS`` and ``val/CLASS``, or of ``CLASS`` alone.

    In the latter case a share of each class is the validation part, always the same.
    """
    asked = option(options, "size", None, int)
    no_more(options, "imagenet")
    need("PIL.Image")
    parts = classes_in(path)
    pictures = [file for part in parts for files in part.values() for file in files]
    own = None if asked else _own_size(pictures)
    size = asked or (PICTURES if own is None else min(own))
    train, valid = parts if len(parts) == 2 else _parted(path, parts[0])
    said = "brought to" if own is None else "read at their own" if own[0] == own[1] else "cut to"
    read = f"in 3 channels, {said} {size}x{size} pixels"
    notes = [f"{len(pictures)} pictures of {len(train)} classes, {read}"]
    if len(parts) == 1:
        held = sum(map(len, valid.values()))
        notes.append(
            f"no val: {HELD:.0%} of each class, {held} in all, are kept for the test; drawn by a "
            "fixed seed, they are the same in every run"
        )
    fit = {
        "channels": 3, "image_size": size, "classes": len(train), "in_features": 3 * size * size,
    }  # fmt: skip
    two = Pictures(train, size), Pictures(valid, size)
    told = tuple(f"{path}: {text}" for text in notes)
    return Task(*two, "classification", fit, "accuracy", notes=told)


def _parted(path: Path, classes: Classes) -> tuple[Classes, Classes]:
    """Returns what is trained on, and a fixed share of every class of more than one picture."""
    train, valid = {}, {}
    for name, files in classes.items():
        kept = max(1, round(HELD * len(files))) if len(files) > 1 else 0
        order = shuffled(len(files)).tolist()
        train[name] = [files[i] for i in sorted(order[kept:])]
        valid[name] = [files[i] for i in sorted(order[:kept])]
    if not any(valid.values()):
        raise UseError(f"{path}: must hold a class of at least 2 pictures, got 1 each")
    return train, valid


def _own_size(pictures: Iterable[Path]) -> tuple[int, int] | None:
    """Returns the size of pictures that are all alike and small, None of others."""
    first: tuple[int, int] | None = None
    for path in pictures:
        with _opened(path) as file:
            size = file.size
        first = first or size
        if size != first or min(size) > PICTURES:
            return None
    return first


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures of some classes, scaled on their shorter side and cropped to the middle."""

    def __init__(self, classes: Classes, size: int):
        self.size = size
        self.items = [
            (file, number) for number, files in enumerate(classes.values()) for file in files
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.items[index]
        with _opened(path) as file:
            picture = file.convert("RGB")
        scale = self.size / min(picture.size)
        wide, high = (max(self.size, round(side * scale)) for side in picture.size)
        picture = picture.resize((wide, high))
        left, top = (wide - self.size) // 2, (high - self.size) // 2
        picture = picture.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).movedim(2, 0)
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        return (pixels - mean) / torch.tensor([0.229, 0.224, 0.225])[:, None, None], label


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a picture, whose damage is the user's to know."""
    image: Any = need("PIL.Image")
    try:
        with image.open(path) as file:
            yield file
    except (OSError, SyntaxError, ValueError) as error:
        raise UseError(f"{path}: not a readable picture: {error}") from None
