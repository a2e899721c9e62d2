import io
import subprocess
import sys

import pytest
from rich.console import Console

from adlrns import __version__, _commands
from adlrns._console import _bar, stage
from adlrns._errors import MissingExtraError, RunError, UseError, need, one_line


def test_prints_its_version(adlrns) -> None:
    assert adlrns("--version").stdout == f"adlrns {__version__}\n"


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adlrns", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"adlrns {__version__}\n"


@pytest.mark.parametrize(
    "command", ["demo", "compress", "analyze", "export", "train", "grow", "experiment", "doctor"]
)
def test_help_of_every_command_has_an_example(adlrns, command: str) -> None:
    assert f"Example: adlrns {command}" in " ".join(adlrns(command, "--help").stdout.split())


def test_help_and_api_do_not_import_torch() -> None:
    script = (
        "import sys, adlrns\n"
        "from adlrns._cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_without_a_command_shows_the_help_as_wrong_use(adlrns) -> None:
    result = adlrns(code=2)
    assert "Usage: adlrns" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    "args, message",
    [
        (["nothing"], "No such command 'nothing'."),
        (["compress"], "Missing argument 'MODEL'."),
        (["compress", "m:f", "--wrong"], "No such option: --wrong"),
        (["compress", "m:f", "--form", "square"], "Invalid value for '--form'"),
        (["compress", "m:f", "--batches", "0"], "Invalid value for '--batches'"),
        (["export", "d"], "Missing option '--to'."),
        (
            ["demo", "--budgets", "half"],
            "must be numbers with commas between, got 'half'",
        ),
        (["demo", "--budgets", "0.5,2"], "--budgets must be in 0..1 and above 0, got 2.0"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(adlrns, args: list[str], message: str) -> None:
    assert message in adlrns.error(*args)


def test_debug_shows_the_traceback(adlrns, place) -> None:
    result = adlrns("compress", "mine:broken", "--data", "data.npy", "--debug", code=1)
    assert isinstance(result.exception.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "command", ["demo", "compress", "analyze", "export", "train", "grow", "experiment", "doctor"]
)
def test_help_of_every_command_names_debug(adlrns, command: str) -> None:
    assert "--debug anywhere shows the traceback" in " ".join(
        adlrns(command, "--help").stdout.split()
    )


def test_help_breaks_lines_only_where_the_terminal_ends(adlrns, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = adlrns("compress", "--help").stdout.split("Example")[0].splitlines()
    body = "\n".join(line.strip() for line in lines).strip().split("\n\n")[-1].splitlines()
    assert body[0].startswith("Watches")
    assert all(len(line) > 60 for line in body[:-1])


@pytest.mark.parametrize(
    "option, value", [("--budget", "half"), ("--batches", "x"), ("--form", "square")]
)
def test_a_value_of_the_wrong_type_is_named_once(adlrns, option: str, value: str) -> None:
    message = adlrns.error("compress", "m:f", option, value)
    assert message.startswith(f"Invalid value for '{option}': ")
    assert message.count(repr(value)) == 1
    assert "alue error" not in message
    assert "unable to parse" not in message


def test_progress_shows_names_as_they_are(capsys) -> None:
    with stage("open mymod:factory d[/x].npy [bold]"):
        pass
    assert capsys.readouterr().err.startswith("open mymod:factory d[/x].npy [bold]: ")


def test_the_moving_bar_shows_names_as_they_are() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with _bar(console) as bar:
        bar.add_task("open mymod:factory d[/x].npy")
        bar.refresh()
    assert "open mymod:factory d[/x].npy" in console.file.getvalue()


def test_an_interrupt_is_exit_code_130(adlrns, place, monkeypatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_commands, "_command", interrupt)
    assert adlrns.error("compress", "mine:make", "--data", "data.npy", code=130) == "interrupted"
    assert not (place / "compressed").exists()


def test_a_missing_module_is_answered_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"needs sklearn.*pip install 'adlrns\[demo\]'"):
        need("sklearn")


def test_a_broken_module_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "onnx.py").write_text("import no_such_thing_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
        need("onnx")
    sys.modules.pop("onnx", None)


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (RuntimeError(), "RuntimeError"),
        (UseError("said well"), "said well"),
        (RunError("said well"), "said well"),
    ],
)
def test_errors_fit_on_one_line(error: Exception, text: str) -> None:
    assert one_line(error) == text


def test_demo_without_scikit_learn_names_the_extra(adlrns, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = adlrns.error("demo", "--out", tmp_path / "d", code=1)
    assert "adlrns[demo]" in message
    assert not (tmp_path / "d").exists()
