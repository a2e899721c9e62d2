"""What a command says when it cannot go on, and how to bring what is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


class UseError(Exception):
    """The command was called wrongly: one line on stderr, exit code 2."""

    exit_code = 2


class RunError(Exception):
    """The command was called rightly and failed: one line on stderr, exit code 1."""

    exit_code = 1


class CutShortError(RunError):
    """Ctrl-C: one line on stderr that says what is kept, exit code 130."""

    exit_code = 130


class MissingExtraError(RunError):
    """A package that only an extra brings is not installed."""

    def __init__(self, module: str, extra: str):
        super().__init__(f"needs {module}, which is not installed: pip install 'adlrns[{extra}]'")


@contextmanager
def from_user(where: str) -> Iterator[None]:
    """Says of an error in the caller's own code which argument it came by.

    Raises:
        RunError: from whatever was raised inside but this module's own errors.
    """
    try:
        yield
    except (UseError, RunError):
        raise
    except Exception as error:
        raise RunError(f"{where}: {one_line(error)} (--debug shows where)") from error


EXTRAS = {
    "PIL": "images",
    "sklearn": "demo",
    "matplotlib": "report",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "timm": "timm",
    "transformers": "hf",
    "nir": "nir",
}
"""The extra that brings each optional module."""


def need(*modules: str) -> ModuleType:
    """Returns the last of the optional modules, imported; all must be there.

    Raises:
        MissingExtraError: naming the extra that brings the missing one.
    """
    for module in modules:
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            raise MissingExtraError(module, EXTRAS[module.partition(".")[0]]) from None
    return found


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line; its type where the message alone says little."""
    text = " ".join(str(error).split())
    if isinstance(error, UseError | RunError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
