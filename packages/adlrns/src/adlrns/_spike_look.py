"""What lies at a path, of what a spiking network reads; asked before torch is imported."""

from pathlib import Path

from adlrns._datasets_folders import READS, holds_pictures, inside
from adlrns._errors import UseError

# data sets by name: those of images, and those that no spiking network here reads
IMAGES = ("digits", "mnist", "fashion-mnist", "cifar10", "imagenet")
OTHERS = ("glue", "sentences", "text")
_EVENTS = {".aedat", ".bin", ".dat", ".raw"}
_SIGNS = ("train-images-idx3-ubyte*", "data_batch_*", "cifar-10-batches-*")
_READS = (
    f"pictures ({READS}), idx files (train-images-idx3-ubyte), CIFAR-10 (data_batch_*), wav files "
    "(CLASS/NAME.wav or CLASS_NAME.wav) or event files (.aedat, .bin, .dat, .raw as CLASS/FILE, or "
    "in Train and Test)"
)
_BY_NAME = ", ".join(("digits", *(f"{name}:PATH" for name in IMAGES[1:])))


def check_data(data: str) -> None:
    """Raises UseError for a path or name that holds no images, sounds or events."""
    name, colon, rest = data.partition(":")
    if name in OTHERS and (colon or not Path(data).exists()):
        raise UseError(f"DATA {data} must be images, sounds or events, got {name}")
    if colon and name in IMAGES:
        if name != "digits" and not Path(rest).exists():
            raise UseError(f"DATA {data}: no such file or folder")
        return
    path = Path(data)
    if not path.exists():
        _check_name(data)
    elif not path.is_dir():
        raise UseError(f"DATA {data} must be a folder of images, sounds or events, got a file")
    elif not (event_roots(path) or sound_files(path) or _images(path)):
        raise UseError(f"DATA {data} must hold {_READS}, or be {_BY_NAME}, got {inside(path)}")


def event_roots(path: Path) -> list[Path]:
    """Returns the folders of classes: of training and testing, of training alone, or this."""
    split = [path / name for name in ("Train", "Test") if (path / name).is_dir()]
    roots = split or [path]
    held = any(p.suffix.lower() in _EVENTS for p in roots[0].glob("*/*"))
    return roots if held else []


def sound_files(root: Path) -> list[tuple[Path, str]]:
    """Returns files and labels: `CLASS/NAME.wav`, or `CLASS_anything.wav` in one folder."""
    inside = sorted(p for p in root.glob("*/*.wav") if p.parent.name != "recordings")
    if inside:
        return [(path, path.parent.name) for path in inside]
    flat = sorted(root.glob("recordings/*.wav")) or sorted(root.glob("*.wav"))
    return [(path, path.name.partition("_")[0]) for path in flat]


def _images(path: Path) -> bool:
    return holds_pictures(path) or any(any(path.glob(pattern)) for pattern in _SIGNS)


def _check_name(data: str) -> None:
    if data == "digits":
        return
    if data in IMAGES:
        raise UseError(f"DATA {data} needs a path: {data}:PATH")
    raise UseError(f"DATA {data}: no such file or folder, nor one of {_BY_NAME}")
