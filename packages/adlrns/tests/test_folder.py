import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from adlrns import _folder
from adlrns._beside import prefix, short_name
from adlrns._errors import RunError, UseError
from adlrns._folder import remove_leftovers, restore, write_folder
from adlrns._target import check_contents, check_target

LONG = "n" * 245


def fill(text: str):
    def build(folder: Path) -> None:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text(text)

    return build


def read(folder: Path) -> str:
    return (folder / "inside" / "file").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
def test_replaces_a_folder_whole_and_leaves_nothing_beside_it(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(_folder, "_exchange", lambda one, other: False)
    target = tmp_path / "deep" / "result"
    for text in ("first", "second", "third"):
        write_folder(target, fill(text))
        assert read(target) == text
        assert names(target.parent) == ["result"]


def test_a_failure_leaves_the_old_folder(tmp_path) -> None:
    write_folder(tmp_path / "result", fill("old"))

    def fail(folder: Path) -> None:
        fill("new")(folder)
        raise RuntimeError("made to fail")

    with pytest.raises(RuntimeError, match="made to fail"):
        write_folder(tmp_path / "result", fail)
    assert read(tmp_path / "result") == "old"
    assert names(tmp_path) == ["result"]


def test_an_interrupt_leaves_no_folder(tmp_path) -> None:
    def interrupt(folder: Path) -> None:
        fill("new")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "result", interrupt)
    assert names(tmp_path) == []


def test_leftovers_of_the_dead_go_and_folders_in_use_stay(tmp_path) -> None:
    target = tmp_path / "result"
    (tmp_path / ".result.adlrns-new-dead").mkdir()
    seen = []

    def build(folder: Path) -> None:
        remove_leftovers(target)  # as another process would
        seen.append(folder.exists())
        seen.append((tmp_path / ".result.adlrns-new-dead").exists())
        fill("new")(folder)

    write_folder(target, build)
    assert seen == [True, False]
    assert names(tmp_path) == ["result"]


def test_a_folder_put_aside_comes_back_where_its_successor_never_came(tmp_path) -> None:
    (tmp_path / ".result.adlrns-old-1").mkdir()
    fill("old")(tmp_path / ".result.adlrns-old-1")
    restore(tmp_path / "result")
    assert read(tmp_path / "result") == "old"


def test_the_new_folder_has_ordinary_permissions(tmp_path) -> None:
    write_folder(tmp_path / "result", fill("x"))
    (tmp_path / "other").mkdir()
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_to_a_folder_stays_a_link(tmp_path) -> None:
    write_folder(tmp_path / "real", fill("old"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "link", fill("new"))
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real") == "new"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
def test_two_names_are_swapped_in_one_step_on_linux(tmp_path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert _folder._exchange(tmp_path / "one", tmp_path / "other")
    assert names(tmp_path / "one") == ["other"]
    with pytest.raises(OSError, match="No such file"):
        _folder._exchange(tmp_path / "one", tmp_path / "gone")


@pytest.mark.parametrize("before", [None, "old"])
def test_files_that_appear_while_it_is_built_stay_and_so_does_the_new_folder(tmp_path, before):
    target = tmp_path / "result"
    if before:
        target.mkdir()

    def build(folder: Path) -> None:
        fill("new")(folder)
        target.mkdir(exist_ok=True)
        (target / "notes.txt").write_text("mine")

    with pytest.raises(RunError, match=r"--out must .* got .*result with notes\.txt") as caught:
        write_folder(target, build, check=check_contents)
    assert (target / "notes.txt").read_text() == "mine"
    kept = Path(str(caught.value).rpartition("the new result is ")[2])
    assert read(kept) == "new"
    write_folder(target, fill("newer"))  # the next call leaves it alone
    assert read(kept) == "new"
    assert names(tmp_path) == sorted(["result", kept.name])


@pytest.mark.parametrize(
    "kind, other", [("r[1]", "r1"), ("r*", "rest"), ("r?", "r1"), ("r", "r.x")]
)
def test_a_name_is_no_pattern(tmp_path, kind: str, other: str) -> None:
    for what in ("new", "old"):
        fill(other)(_made(tmp_path, other, what))
    write_folder(tmp_path / kind, fill("x"))
    assert read(tmp_path / kind) == "x"
    restore(tmp_path / other)
    assert read(tmp_path / other) == other


@pytest.mark.parametrize("name", ["r[1]", "r*", LONG])
def test_leftovers_are_found_whatever_the_name(tmp_path, name: str) -> None:
    fill("old")(_made(tmp_path, name, "old"))
    _made(tmp_path, name, "new")
    restore(tmp_path / name)
    assert read(tmp_path / name) == "old"
    remove_leftovers(tmp_path / name)
    assert names(tmp_path) == [name]


def _made(place: Path, name: str, kind: str) -> Path:
    folder = place / f"{prefix(place / name, kind)}1"
    folder.mkdir()
    return folder


def test_what_belongs_to_a_name_with_more_to_it_is_left_alone(tmp_path) -> None:
    other = _made(tmp_path, "r.adlrns-new-x", "old")  # begins as a leftover of r would
    write_folder(tmp_path / "r", fill("x"))
    assert other.exists()


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("name", [LONG, "é" * 122])
def test_a_long_name_is_written_and_replaced(tmp_path, monkeypatch, exchange, name) -> None:
    if not exchange:
        monkeypatch.setattr(_folder, "_exchange", lambda one, other: False)
    for text in ("first", "second"):
        check_target(tmp_path / name / "deeper")
        write_folder(tmp_path / name, fill(text))
        assert read(tmp_path / name) == text
    assert names(tmp_path) == [name]


def test_names_that_begin_alike_are_told_apart() -> None:
    alike = [Path(LONG), Path(LONG + "x"), Path(LONG[:64]), Path(LONG[:65]), Path(LONG[:32])]
    alike += [Path(short_name(path)) for path in alike if len(path.name) > 64]
    assert len({short_name(path) for path in alike}) == len(alike)


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UseError, match=r"can be written, got .*result: Not a directory"):
        check_target(tmp_path / "file" / "result")
    with pytest.raises(UseError, match="File name too long"):
        check_target(tmp_path / "new" / (300 * "x"))
    check_target(tmp_path / "new" / "result")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_parent_that_takes_no_folders_is_refused_at_once() -> None:
    with pytest.raises(UseError, match="can be written, got /proc/x: "):
        check_target(Path("/proc/x"))


def test_a_mount_point_is_refused_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(UseError, match="a mount point cannot be replaced"):
        check_target(tmp_path)


def test_an_error_of_writing_names_the_folder(tmp_path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EFBIG, "File too large")

    with pytest.raises(RunError, match=r"result could not be written: .*File too large"):
        write_folder(tmp_path / "result", fail)
    assert names(tmp_path) == []


@pytest.mark.skipif(_folder.fcntl is None, reason="there are no locks on Windows")
def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch) -> None:
    asked = []

    def flock(handle: int, what: int) -> None:
        asked.append(what)
        assert len(asked) < 9, "asked again and again"
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_folder.fcntl, "flock", flock)
    write_folder(tmp_path / "result", fill("x"))
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("step", ["_lock", "_sync_tree", "_put"])
def test_an_interrupt_at_any_step_leaves_nothing_beside(tmp_path, monkeypatch, step):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_folder, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", lambda folder: (folder / "a").write_text("new"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_half_way_through_removing_leaves_nothing_beside(tmp_path, monkeypatch):
    remove, calls = shutil.rmtree, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(*args, **kwargs)

    monkeypatch.setattr(_folder.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _folder.try_folder(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
