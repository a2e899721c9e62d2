"""Images, sounds and events of the user's, as what goes into a spiking network."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from adlrns._console import remark
from adlrns._datasets import HELD, open_task, shuffled
from adlrns._datasets_find import find
from adlrns._errors import UseError
from adlrns._spike_look import event_roots, sound_files
from adlrns._spike_settings import Settings
from adlrns._spike_sounds import read_wav, spectrogram
from spike_ops.events import EventFileError, EventFolder, Events, to_frames

# options that are not for every sort of data
_OF_SOME = {"bands": "sounds", "size": "folders of pictures"}


class Material(NamedTuple):
    """Two parts of a data set, and how their items become time.

    Attributes:
        train: items `(x, label)`.
        valid: the same, never trained on.
        kind: `images`, `sounds` or `events`.
        classes: their names.
        shape: of one step of one item.
        options: of the command that only such data have.
    """

    train: Dataset[Any]
    valid: Dataset[Any]
    kind: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    options: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, int]:
        """How many items each part holds."""
        return len(self.train), len(self.valid)  # type: ignore[arg-type]

    @property
    def chance(self) -> float:
        """The share of items that a guess among the classes gets right."""
        return 1 / len(self.classes)


def open_material(settings: Settings) -> Material:
    """Returns what `DATA` holds: event files and sounds by their names, else images.

    Raises:
        UseError: if nothing can be read there, an item's file is damaged, or an option was given
            that such data do not have.
    """
    material = _opened(settings)
    for name in sorted(settings.asked - {*material.options}):
        got = material.kind if name == "bands" else settings.data
        raise UseError(f"--{name} is for {_OF_SOME[name]}, got {got}")
    return material


def _opened(settings: Settings) -> Material:
    path = Path(settings.data)
    if path.is_dir():
        if found := event_roots(path):
            return _events(found, settings)
        if files := sound_files(path):
            return _sounds(files, settings)
    return _images(settings)


def _images(settings: Settings) -> Material:
    found = find(settings.data)
    options = {"size": settings.size} if found.name == "imagenet" else {}
    task = open_task(found.name, found.path, options)
    for text in task.notes:
        remark(text)
    if "channels" not in task.model:
        raise UseError(f"DATA {settings.data} must be images, sounds or events, got {found.name}")
    side, classes = int(task.model["image_size"]), int(task.model["classes"])
    shape = (int(task.model["channels"]), side, side)
    train, valid = _first(task.train, settings.limit), _first(task.valid, settings.limit)
    names = tuple(map(str, range(classes)))
    return Material(train, valid, "images", names, shape, ("encoding", *options))


def _sounds(files: list[tuple[Path, str]], settings: Settings) -> Material:
    classes = tuple(sorted({label for _, label in files}))
    if len(classes) < 2:
        raise UseError(f"DATA {settings.data} must have at least 2 classes, got {classes[0]!r}")
    mixed = [files[i] for i in shuffled(len(files)).tolist()]
    parts = [[mixed[i] for i in part] for part in _parted(len(files), settings.limit)]
    train, valid = (_heard(part, classes, settings) for part in parts)
    return Material(train, valid, "sounds", classes, (settings.bands,), ("bands",))


def _heard(
    files: list[tuple[Path, str]], classes: tuple[str, ...], settings: Settings
) -> Dataset[Any]:
    heard = [
        spectrogram(*read_wav(path), steps=settings.steps, bands=settings.bands)
        for path, _ in files
    ]
    return TensorDataset(
        torch.stack(heard), torch.tensor([classes.index(label) for _, label in files])
    )


def _events(roots: list[Path], settings: Settings) -> Material:
    parts = [_folder(root, settings.steps) for root in roots]
    classes = tuple(parts[0].classes)
    if len(classes) < 2:
        raise UseError(f"DATA {roots[0]} must have at least 2 classes, got {classes[0]!r}")
    if any(tuple(part.classes) != classes for part in parts):
        raise UseError(f"DATA {settings.data}: Train and Test must have the same classes")
    items: list[Dataset[Any]] = [Named(part) for part in parts]
    if len(items) == 2:
        train, valid = (_first(part, settings.limit, mix=True) for part in items)
    else:
        train, valid = (Subset(items[0], part) for part in _parted(len(parts[0]), settings.limit))
    return Material(train, valid, "events", classes, tuple(train[0][0].shape[1:]))


def _folder(root: Path, steps: int) -> EventFolder:
    def framed(events: Events) -> Tensor:
        return (to_frames(events, steps) > 0).float()

    try:
        return EventFolder(root, transform=framed)
    except (ValueError, OSError) as error:
        raise UseError(f"DATA: {error}") from None


class Named(Dataset[Any]):
    """Recordings whose damage is the user's to know."""

    def __init__(self, folder: EventFolder):
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            return self.folder[index]
        except EventFileError as error:
            raise UseError(str(error)) from None


def _parted(count: int, most: int | None) -> tuple[list[int], list[int]]:
    """Returns which items to train on and which to keep apart, at most so many of each.

    Raises:
        UseError: if there are too few for both.
    """
    order, held = shuffled(count).tolist(), max(1, round(HELD * count))
    if held >= count:
        raise UseError(f"DATA must hold at least 2 items, got {count}")
    return order[held:][:most], order[:held][:most]


def _first(items: Dataset[Any], most: int | None, *, mix: bool = False) -> Dataset[Any]:
    """Returns at most so many items; of a set that is sorted by class, a fixed draw."""
    count = len(items)  # type: ignore[arg-type]
    if most is None or most >= count:
        return items
    return Subset(items, shuffled(count)[:most].tolist() if mix else range(most))
