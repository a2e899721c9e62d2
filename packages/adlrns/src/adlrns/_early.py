"""What can be said of `DATA` before the model is made, which may take minutes."""

from pathlib import Path

from adlrns._batches import ARRAYS, TEXTS
from adlrns._errors import UseError, from_user
from adlrns._source import named


def check_data(spec: str) -> None:
    """Refuses a file that is not there and a function that cannot be imported or called.

    Raises:
        UseError: naming the part that is wrong.
        RunError: if importing the module fails.
    """
    path = Path(spec)
    if path.suffix in (*ARRAYS, *TEXTS):
        if not path.is_file():
            raise UseError(f"--data {path}: no such file")
    elif ":" in spec:
        with from_user(f"--data {spec}"):
            made = named("--data", spec)
        if not callable(made):
            raise UseError(f"--data {spec} must be callable, got {type(made).__name__}")
    elif spec != "digits":
        kinds = ", ".join((*ARRAYS, *TEXTS))
        raise UseError(f"--data must be module:function, a file ({kinds}) or digits, got {spec!r}")
