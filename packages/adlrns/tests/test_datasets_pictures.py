"""Folders of pictures: classes alone or divided, and the size that they are read in."""

from pathlib import Path

import pytest
import torch

from adlrns._datasets import Task, open_task
from adlrns._datasets_find import find, recognise
from adlrns._datasets_pictures import PICTURES
from adlrns._errors import UseError

CLASSES = ("cat", "dog", "newt")
Size = tuple[int, int]


def draw(folder: Path, count: int, size: Size = (8, 8), *, kind: str = "png") -> None:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image.new("RGB", size, (40 * number % 256, 9, 99)).save(folder / f"{number}.{kind}")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    for number, name in enumerate(CLASSES):
        draw(tmp_path / "animals" / name, 10 * (number + 1))
    (tmp_path / "animals" / "notes").mkdir()
    (tmp_path / "animals" / ".thumbnails").mkdir()
    draw(tmp_path / "animals" / ".thumbnails", 1)
    return tmp_path / "animals"


def files(task: Task) -> tuple[dict[Path, int], dict[Path, int]]:
    return dict(task.train.items), dict(task.valid.items)  # type: ignore[attr-defined]


def test_a_folder_of_classes_alone_keeps_a_fifth_of_each_apart_always_the_same(plain: Path) -> None:
    task = open_task(*find(str(plain)))
    train, valid = files(task)
    assert task.model["classes"] == 3
    assert [list(valid.values()).count(k) for k in range(3)] == [2, 4, 6]
    assert len(train) + len(valid) == 60
    assert not train.keys() & valid.keys()
    assert {CLASSES.index(path.parent.name) - label for path, label in train.items()} == {0}
    assert files(open_task(*find(f"imagenet:{plain}"))) == (train, valid)
    assert "no val: 20% of each class, 12 in all, are kept for the test" in task.notes[1]


def test_folders_of_their_own_for_both_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2)):
        for name in CLASSES[:2]:
            draw(tmp_path / part / name, count)
    task = open_task(*find(str(tmp_path)))
    assert [len(part) for part in files(task)] == [10, 4]
    assert len(task.notes) == 1
    draw(tmp_path / "val" / "newt", 1)
    with pytest.raises(UseError, match="must have the same classes, differ in newt"):
        open_task("imagenet", tmp_path)


@pytest.mark.parametrize(
    "sizes, asked, side, said",
    [
        ([(8, 8)], None, 8, "read at their own 8x8"),
        ([(28, 20)], None, 20, "cut to 20x20"),
        ([(8, 8), (9, 8)], None, PICTURES, "brought to 128x128"),
        ([(200, 150)], None, PICTURES, "brought to 128x128"),
        ([(200, 100)], None, 100, "cut to 100x100"),
        ([(8, 8)], 12, 12, "brought to 12x12"),
    ],
)
def test_pictures_that_are_alike_and_small_keep_their_size_and_it_is_said(
    tmp_path: Path, sizes: list[Size], asked: int | None, side: int, said: str
) -> None:
    for name in CLASSES[:2]:
        draw(tmp_path / name, 2, sizes[0])
        draw(tmp_path / name, 1, sizes[-1], kind="jpg")
    task = open_task("imagenet", tmp_path, {} if asked is None else {"size": asked})
    assert task.train[0][0].shape == (3, side, side)
    assert task.model["image_size"] == side
    assert task.model["in_features"] == 3 * side**2
    assert task.notes[0].endswith(f" pictures of 2 classes, in 3 channels, {said} pixels")


def test_a_picture_of_its_own_size_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    draw(tmp_path / "a", 2)
    draw(tmp_path / "b", 2)
    for path in tmp_path.glob("*/*.png"):
        with image.open(path) as file:
            drawn = file.copy()
        drawn.putpixel((3, 5), (255, 0, 0))
        drawn.save(path)
    x = open_task("imagenet", tmp_path).train[0][0]
    assert float(x[0, 5, 3]) == pytest.approx((1 - 0.485) / 0.229)
    assert int((x != x[:, :1, :1]).any(0).sum()) == 1


def test_classes_of_one_picture_are_trained_on(tmp_path: Path) -> None:
    draw(tmp_path / "a", 1)
    draw(tmp_path / "b", 3)
    assert [len(part) for part in files(open_task("imagenet", tmp_path))] == [3, 1]
    for number in (1, 2):
        (tmp_path / "b" / f"{number}.png").unlink()
    with pytest.raises(UseError, match="must hold a class of at least 2 pictures, got 1 each"):
        open_task("imagenet", tmp_path)


@pytest.mark.parametrize(
    "folders, name, message",
    [
        (["only"], None, "must hold at least 2 classes, got 'only' alone"),
        (["train/only", "val/only"], None, "must hold at least 2 classes, got 'only' alone"),
        (["train/a", "train/b"], None, "pictures as CLASS/PICTURE, or train/CLASS/PICTURE and val"),
        (
            ["train/a", "train/b"],
            "imagenet",
            "or train/CLASS/PICTURE and val/CLASS/PICTURE, got 't",
        ),
        (["deep/down/a"], None, "must hold the files of a known data set (pictures as CLASS/"),
        (["deep/down/a"], None, ", got 'deep'; or give NAME:PATH with one of mnist, "),
    ],
)
def test_what_is_neither_is_told_all_that_is_read(
    tmp_path: Path, folders: list[str], name: str | None, message: str
) -> None:
    for folder in folders:
        draw(tmp_path / folder, 2)
    with pytest.raises(UseError) as caught:
        open_task(name or recognise(tmp_path), tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_without_pictures_is_named(tmp_path: Path, part: str) -> None:
    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / folder).mkdir(parents=True)
        draw(tmp_path / folder, 0 if folder.startswith(part) else 1)
    message = f"{part}: must hold pictures as CLASS/PICTURE, got 'a', 'b'"
    with pytest.raises(UseError, match=message):
        open_task("imagenet", tmp_path)


def test_a_picture_that_cannot_be_read_is_named_when_sizes_are_looked_at(plain: Path) -> None:
    (plain / "dog" / "3.png").write_bytes(b"no picture")
    with pytest.raises(UseError, match=r"dog/3\.png: not a readable picture"):
        open_task("imagenet", plain)


COMMANDS = {
    "grow": (
        "grow",
        "adlrns_mlp",
        "--net",
        "hidden=4",
        "--epochs",
        "1",
        "--no-tournament",
        "--data",
    ),
    "train": ("train", "c.yaml", "--data"),
    "spike": ("spike", "--hidden", "4", "--epochs", "1", "--steps", "2", "--size", "8"),
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_reads_them_and_says_how(adlrns, place, plain, command: str) -> None:
    (place / "c.yaml").write_text("model: {type: adlrns_mlp, hidden: [4]}\ntrain: {epochs: 1}\n")
    result = adlrns(*COMMANDS[command], plain, "--out", "o")
    assert "note: " in result.stderr
    assert f"{plain}: 60 pictures of 3 classes, " in result.stderr
    assert " 8x8 pixels\n" in result.stderr
    assert f"{plain}: no val: 20% of each class" in result.stderr


def test_the_size_that_growth_is_asked_for_is_kept_and_told_in_the_page(
    adlrns, place: Path, plain: Path
) -> None:
    command = (*COMMANDS["grow"], plain, "--out", "g")
    adlrns(*command, "--size", "5")
    assert "brought to 5x5 pixels" in (place / "g/report.html").read_text()
    message = adlrns.error(*command, "--size", "6", "--resume")
    assert message == "--resume must keep --size, which was 5 in g, got 6"
    assert "Invalid value for '--size'" in adlrns.error(*command, "--size", "0")


def test_a_size_of_what_are_no_pictures_is_refused(adlrns, place: Path) -> None:
    pytest.importorskip("sklearn")
    command = (*COMMANDS["grow"], "digits", "--size", "8", "--out", "g")
    assert adlrns.error(*command) == "--size is for folders of pictures, got digits"
    assert not (place / "g").exists()


def test_a_net_that_cannot_take_the_size_names_the_way_out(adlrns, place, plain: Path) -> None:
    del place
    net = ("grow", "adlrns_vit", "--net", "patch=3", "--data", plain, "--out", "g")
    assert adlrns.error(*net).endswith(
        "got 8; --size, or data.size in a file, brings pictures to another"
    )


def test_pixels_are_numbers_that_a_net_can_take(plain: Path) -> None:
    x, label = open_task("imagenet", plain).valid[0]
    assert x.dtype == torch.float32
    assert label in range(3)
