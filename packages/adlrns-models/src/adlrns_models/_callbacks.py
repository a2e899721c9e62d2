"""What may listen while a model trains."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adlrns_models._trainer import ADLRNSTrainer

Record = dict[str, Any]


class Callback:
    """Listens to a training run; every method does nothing until a subclass says otherwise.

    With several workers each has its callbacks, and ``trainer.is_first`` tells which one may write.

    Example:
        >>> from adlrns_models import Callback
        >>> class Stop(Callback):
        ...     def on_epoch_end(self, trainer, record):
        ...         trainer.stop = record["train_loss"] < 0.1
    """

    def on_train_begin(self, trainer: "ADLRNSTrainer") -> None:
        """Called before the first step; ``trainer.step`` says where a resumed run goes on."""

    def on_batch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Called after each optimizer step, with step, epoch, loss, penalty and learning rate."""

    def on_epoch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Called after each epoch and its validation, with what ``history`` has just got."""

    def on_train_end(self, trainer: "ADLRNSTrainer") -> None:
        """Called after the last step, also when training fails."""


class ProgressBar(Callback):
    """A bar on the terminal, if ``tqdm`` is installed (extra ``train``); nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, trainer: "ADLRNSTrainer") -> None:
        """Opens the bar."""
        try:
            tqdm = importlib.import_module("tqdm.auto").tqdm
        except ImportError:
            return
        # disable=None: no bar where the output is no terminal
        disable = None if trainer.is_first else True
        total, done = trainer.total_steps, trainer.step
        self._bar = tqdm(total=total, initial=done, unit="step", disable=disable)

    def on_batch_end(self, trainer: "ADLRNSTrainer", record: Record) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.set_postfix(epoch=record["epoch"], loss=record["loss"], refresh=False)
            self._bar.update()

    def on_train_end(self, trainer: "ADLRNSTrainer") -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
