"""Loggers: one line a record, no line twice however often a run is killed and resumed."""

import csv
import io
import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adlrns_models._atomic import write_atomically
from adlrns_models._callbacks import Callback, Record
from adlrns_models._loggers_past import check_new, finite, past_of

if TYPE_CHECKING:
    from adlrns_models._trainer import ADLRNSTrainer


class JSONLLogger(Callback):
    """One JSON object a line for each epoch, and each step if ``steps``.

    Numbers that are not finite become ``null``. What a killed run wrote after its last checkpoint
    is taken out when it is resumed, and written again. Where lines of your own would go with it,
    which have no epoch, or no epoch in the file shows that it is this run's log, it is copied
    first, to the same name with ``.1``, ``.2`` and so on.

    Raises:
        ValueError: when training begins, if the file holds another run's log: there is one and the
            run is not resumed, or its epochs are others than those that the run has behind it.

    Example:
        >>> from adlrns_models import JSONLLogger
        >>> logger = JSONLLogger("train.jsonl", steps=True)
    """

    def __init__(self, path: str | PathLike[str], *, steps: bool = False):
        self.path, self.steps = Path(path), steps

    def on_train_begin(self, trainer: "ADLRNSTrainer") -> None:
        """Keeps the lines up to the step at which the run goes on."""
        if not (trainer.is_first and self.path.exists()):
            return
        check_new(trainer, self.path)
        lines = self.path.read_text(encoding="utf-8").splitlines()
        past = past_of(trainer, self.path, [_record(line) for line in lines])
        kept = [line for line, is_past in zip(lines, past, strict=True) if is_past]
        write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())

    def on_batch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Writes a line, if steps are wanted."""
        if self.steps:
            self._write(trainer, {"event": "step", **record})

    def on_epoch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Writes a line."""
        self._write(trainer, {"event": "epoch", **record})

    def _write(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        if trainer.is_first:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: finite(v) for k, v in record.items()}) + "\n")


class CSVLogger(Callback):
    """One row for each epoch, under a header; columns are those of the first record.

    Rows are taken out and written again, and another run's are refused, as by
    :class:`JSONLLogger`.

    Example:
        >>> from adlrns_models import CSVLogger
        >>> logger = CSVLogger("train.csv")
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)

    def on_train_begin(self, trainer: "ADLRNSTrainer") -> None:
        """Keeps the rows of the epochs that the run has behind it."""
        if trainer.is_first and self.path.exists():
            check_new(trainer, self.path)
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            past = past_of(trainer, self.path, [{} if None in r.values() else r for r in rows])
            self._rewrite([row for row, is_past in zip(rows, past, strict=True) if is_past])

    def on_epoch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Writes a row, after a header if it is the first."""
        if trainer.is_first:
            new = not self.path.exists() or not self.path.stat().st_size
            if new:
                self._rewrite([record])
                return
            with self.path.open(newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file))
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns, extrasaction="ignore").writerow(record)

    def _rewrite(self, rows: list[Record]) -> None:
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())


class TensorBoardLogger(Callback):
    """Scalars of steps and epochs for TensorBoard (extra ``tensorboard``).

    Raises:
        ImportError: naming the extra, when training begins without it.
    """

    def __init__(self, directory: str | PathLike[str]):
        self.directory = Path(directory)
        self._writer: Any = None

    def on_train_begin(self, trainer: "ADLRNSTrainer") -> None:
        """Opens the event file; what a killed run wrote beyond its checkpoint is hidden."""
        if not trainer.is_first:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                'TensorBoardLogger needs TensorBoard: pip install "adlrns-models[tensorboard]"'
            ) from error
        self._writer = SummaryWriter(str(self.directory), purge_step=trainer.step + 1)

    def on_batch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Writes the numbers of a step under ``step/``."""
        self._write("step", record)

    def on_epoch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Writes the numbers of an epoch under ``epoch/``."""
        self._write("epoch", record)

    def on_train_end(self, trainer: "ADLRNSTrainer") -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, group: str, record: Record) -> None:
        if self._writer is not None:
            for name, value in record.items():
                if name != "step":
                    self._writer.add_scalar(f"{group}/{name}", value, record["step"])


def _record(line: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        return {}  # half a line: the run was killed while it wrote
    return record if isinstance(record, dict) else {}
