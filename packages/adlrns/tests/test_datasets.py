import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adlrns._datasets import open_task
from adlrns._datasets_find import find, place, recognise
from adlrns._errors import UseError


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    packed = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes())
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        write_idx(tmp_path / "idx", part, images, np.arange(count, dtype=np.uint8) % 3)
    return tmp_path / "idx"


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar"
    folder.mkdir()
    record = np.zeros((3, 3073), np.uint8)
    record[:, 0] = [1, 2, 9]
    record[:, 1:1025] = 255  # red
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (folder / name).write_bytes(record.tobytes())
    return folder


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    (folder / "train.tsv").write_text("sentence\tlabel\na fine film\t1\nno fun\t0\nfine\t1\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\nfine fun unseen\t1\n")
    return folder


def test_idx_files_are_read_plain_and_compressed(mnist: Path) -> None:
    task = open_task("mnist", mnist)
    assert (len(task.train), len(task.valid), task.model["classes"]) == (12, 5, 3)
    pixels = torch.stack([task.train[i][0] for i in range(12)])
    assert pixels.shape == (12, 1, 6, 6)
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-5)
    assert float(pixels.std()) == pytest.approx(1, abs=1e-5)
    assert task.train[4][1] == 1


def test_a_limit_is_of_training_items(mnist: Path) -> None:
    task = open_task("mnist", mnist, {"limit": 4})
    assert (len(task.train), len(task.valid)) == (4, 5)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _magic(path: Path) -> None:
    path.write_bytes(b"\x00\x00\x08\x01" + path.read_bytes()[4:])


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("train-images-idx3-ubyte", _cut, "field sizes [12, 6, 6] must fit the data, got 431"),
        ("train-images-idx3-ubyte", _magic, "field magic must be 0x00000803, got 0x00000801"),
        ("t10k-labels-idx1-ubyte.gz", _cut, "not a readable gzip file"),
        ("t10k-labels-idx1-ubyte.gz", Path.unlink, "no such file, nor with .gz"),
    ],
)
def test_damaged_idx_files_are_named_with_their_field(
    mnist: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(mnist / name)
    with pytest.raises(UseError) as caught:
        open_task("mnist", mnist)
    assert message in str(caught.value)
    assert name.removesuffix(".gz") in str(caught.value)


def test_cifar_records_are_labels_and_planes_of_colour(cifar: Path) -> None:
    task = open_task("cifar10", cifar)
    assert (len(task.train), len(task.valid)) == (6, 3)
    x, label = task.train[5]
    assert label == 9
    assert x.shape == (3, 32, 32)
    assert float(x[0].min()) == pytest.approx((1 - 0.4914) / 0.2470)
    assert float(x[2].max()) == pytest.approx(-0.4465 / 0.2616)


def test_cifar_pickles_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04.")
    with pytest.raises(UseError, match="this is the pickled version, which is never loaded"):
        open_task("cifar10", tmp_path)


def test_damaged_cifar_records_are_named(cifar: Path) -> None:
    _cut(cifar / "data_batch_2.bin")
    with pytest.raises(UseError, match=r"data_batch_2\.bin: must hold records of 3073 bytes"):
        open_task("cifar10", cifar)


def test_pictures_are_read_when_asked_for(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
            (tmp_path / part / name).mkdir(parents=True)
            image.new("RGB", (30, 20), colour).save(tmp_path / part / name / "1.png")
    task = open_task("imagenet", tmp_path, {"size": 8})
    x, label = task.train[1]
    assert (x.shape, label) == ((3, 8, 8), 1)
    assert float(x[2].mean()) == pytest.approx((1 - 0.406) / 0.225, rel=1e-5)
    (tmp_path / "train/b/1.png").write_bytes(b"no picture")
    task = open_task("imagenet", tmp_path, {"size": 8})  # nothing is read yet
    with pytest.raises(UseError, match=r"1\.png: not a readable picture"):
        task.train[1]


def test_sentences_become_numbers_of_words_of_the_training_part(glue: Path) -> None:
    task = open_task("glue", glue, {"length": 4})
    words = task.vocabulary
    assert words[:3] == ("<pad>", "<unk>", "<sep>")
    assert words[3] == "fine"  # the most frequent one
    x, label = task.valid[0]
    assert [words[i] for i in x] == ["fine", "fun", "<unk>", "<pad>"]
    assert label == 1
    assert task.model == {"vocabulary": len(words), "length": 4, "classes": 2}


def test_pairs_are_joined_and_scores_are_numbers(tmp_path: Path) -> None:
    line = "main\tMSR\t2012\t0\t{}\tone two\tthree"
    for part in ("train", "dev"):
        (tmp_path / f"sts-{part}.csv").write_text("\n".join(line.format(s) for s in (2.5, 5)))
    task = open_task("glue", tmp_path, {"task": "stsbenchmark", "length": 5})
    x, _ = task.train[0]
    assert (task.kind, task.metric, task.model["classes"]) == ("regression", "spearman", 1)
    assert [task.vocabulary[i] for i in x] == ["one", "two", "<sep>", "three", "<pad>"]
    assert sorted(float(task.train[i][1]) for i in range(2)) == [2.5, 5.0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("text\tlabel\na\t1\n", "line 1 must name column 'sentence'"),
        ("sentence\tlabel\n", "must hold at least one example, got none"),
        ("sentence\tlabel\na\n", "example 1 must have at least 2 columns, got 1"),
    ],
)
def test_damaged_tables_are_named_with_line_and_column(glue: Path, text: str, message: str) -> None:
    (glue / "train.tsv").write_text(text)
    with pytest.raises(UseError, match=message) as caught:
        open_task("glue", glue)
    assert str(glue / "train.tsv") in str(caught.value)


def test_comma_separated_sentences_keep_their_commas(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,category\n"yes, please",b\nno,a\n')
    (tmp_path / "test.csv").write_text("text,category\nno no,a\n")
    task = open_task("sentences", tmp_path, {"length": 3})
    found = {task.train[i][1].item(): task.train[i][0].tolist() for i in range(2)}
    assert [task.vocabulary[i] for i in found[1]] == ["yes", ",", "please"]
    assert task.valid[0][1] == 0


def test_text_is_windows_and_what_follows_them(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("abcde" * 60)
    task = open_task("text", path, {"length": 10})
    x, y = task.train[0]
    assert "".join(task.vocabulary[i] for i in x) == "abcdeabcde"
    assert torch.equal(x[1:], y[:-1])
    assert (len(task.train), len(task.valid)) == (26, 2)
    assert task.metric == "perplexity"
    with pytest.raises(UseError, match="must hold more than 1010 characters, got 300"):
        open_task("text", path, {"length": 100})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"limit": 0}, "data.limit must be a whole number of at least 1, got 0"),
        ({"limit": True}, "data.limit must be a whole number of at least 1, got True"),
        ({"task": "rte"}, "data mnist has no option task"),
    ],
)
def test_options_are_checked(mnist: Path, options: dict, message: str) -> None:
    with pytest.raises(UseError, match=message):
        open_task("mnist", mnist, options)


def test_what_lies_at_a_path_is_recognised(mnist: Path, cifar: Path, glue: Path) -> None:
    assert [recognise(path) for path in (mnist, cifar, glue)] == ["mnist", "cifar10", "glue"]
    assert find(str(mnist), "fashion-mnist").name == "fashion-mnist"
    assert find(f"fashion-mnist:{mnist}").path == mnist
    assert find("digits").path is None
    with pytest.raises(UseError, match="no such file or folder"):
        find("nowhere")
    with pytest.raises(UseError, match="must hold the files of a known data set"):
        find(str(glue.parent))


def test_a_path_wins_over_the_name_that_a_configuration_says(mnist: Path, cifar: Path) -> None:
    assert find(str(mnist), "digits").name == "mnist"
    assert find(str(cifar), "fashion-mnist").name == "cifar10"
    assert find(str(cifar), "cifar10").name == "cifar10"
    (mnist.parent / "notes.txt").write_text("x")
    assert (
        find(str(mnist.parent / "notes.txt"), "mnist").name == "mnist"
    )  # its opener knows why not


def test_a_configuration_whose_name_and_path_disagree_is_refused(mnist: Path, cifar: Path) -> None:
    assert place(mnist, "fashion-mnist") == ("fashion-mnist", mnist)
    assert place(cifar, None) == ("cifar10", cifar)
    with pytest.raises(UseError, match="must hold fashion-mnist, as data.name says, got cifar10"):
        place(cifar, "fashion-mnist")
    with pytest.raises(UseError, match="must hold digits, as data.name says, got mnist"):
        place(mnist, "digits")
    with pytest.raises(UseError, match=r"data\.path .*nowhere: no such file or folder"):
        place(mnist / "nowhere", "digits")


@pytest.mark.parametrize("part", ["", "empty", "empty.csv", "nowhere"])
def test_digits_take_no_path(tmp_path: Path, part: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UseError, match="data digits must have no path"):
        open_task("digits", tmp_path / part)
    found = place(tmp_path, "digits")  # nothing is recognised there
    with pytest.raises(UseError, match="data digits must have no path"):
        open_task(*found)
