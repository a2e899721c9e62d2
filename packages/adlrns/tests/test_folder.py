import sys
from pathlib import Path

import pytest

from adlrns import _folder
from adlrns._folder import remove_leftovers, restore, write_folder


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
