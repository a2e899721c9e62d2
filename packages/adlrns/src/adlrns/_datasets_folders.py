"""Folders of pictures: where their classes are; asked before torch is imported."""

from pathlib import Path

from adlrns._errors import UseError

READS = "CLASS/PICTURE, or train/CLASS/PICTURE and val/CLASS/PICTURE"
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# of a folder's names, in an error
_NAMED = 3

Classes = dict[str, list[Path]]


def holds_pictures(path: Path) -> bool:
    """Says whether a folder holds classes of pictures, divided or not."""
    if not path.is_dir():
        return False
    return _divided(path) or any(map(_picture, path.glob("[!.]*/*")))


def classes_in(path: Path) -> list[Classes]:
    """Returns the pictures of every class: of training and validation, or of all in one.

    Where there is no part for validation a folder without a picture is no class.

    Raises:
        UseError: if there are no pictures, or less than two classes.
    """
    if _divided(path):
        parts = [_classes(path / name) for name in ("train", "val")]
        if parts[0].keys() != parts[1].keys():
            odd = min(parts[0].keys() ^ parts[1].keys())
            raise UseError(f"{path}: train and val must have the same classes, differ in {odd}")
    else:
        parts = [{name: files for name, files in _classes(path).items() if files}]
    for name, part in zip(("train", "val"), parts, strict=False):
        where, reads = (path, READS) if len(parts) == 1 else (path / name, "CLASS/PICTURE")
        if not any(part.values()):
            raise UseError(f"{where}: must hold pictures as {reads}, got {inside(where)}")
    if len(parts[0]) < 2:
        raise UseError(f"{path}: must hold at least 2 classes, got {next(iter(parts[0]))!r} alone")
    return parts


def inside(path: Path) -> str:
    """Returns what a folder holds, in a few words."""
    if not path.is_dir():
        return "a file"
    names = sorted(each.name for each in path.iterdir())
    if not names:
        return "an empty folder"
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _divided(path: Path) -> bool:
    return (path / "train").is_dir() and (path / "val").is_dir()


def _classes(folder: Path) -> Classes:
    inner = sorted(p for p in folder.glob("[!.]*") if p.is_dir())
    return {each.name: sorted(filter(_picture, each.iterdir())) for each in inner}


def _picture(path: Path) -> bool:
    return path.suffix.lower() in _PICTURES
