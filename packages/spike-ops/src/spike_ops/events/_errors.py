"""What is wrong with a file of events, and where."""

from pathlib import Path


class EventFileError(ValueError):
    """A file of events that is damaged, cut off or of another format.

    Attributes:
        file: The file.
        offset: The byte where it stops making sense.
        rule: What must hold there, and what came.

    Example:
        >>> import tempfile
        >>> from spike_ops.events import read_events
        >>> path = Path(tempfile.mkdtemp()) / "cut.bin"
        >>> _ = path.write_bytes(bytes(8))
        >>> try:
        ...     read_events(path)
        ... except EventFileError as error:
        ...     print(error.offset, error.rule)
        5 records must have 5 bytes, the last one has 3
    """

    def __init__(
        self, message: str, *, file: str | Path = "", offset: int = 0, rule: str = ""
    ) -> None:
        super().__init__(message)
        self.file, self.offset, self.rule = Path(file), offset, rule


class Broken(Exception):  # noqa: N818 - a fact about bytes; the error is made of it
    """Bytes that break a rule; becomes an `EventFileError` where the file's name is known."""

    def __init__(self, offset: int, rule: str) -> None:
        super().__init__(offset, rule)
        self.offset, self.rule = int(offset), rule

    def in_file(self, file: str | Path) -> EventFileError:
        """Return the error that names the file."""
        message = f"{file}: byte {self.offset}: {self.rule}"
        return EventFileError(message, file=file, offset=self.offset, rule=self.rule)
