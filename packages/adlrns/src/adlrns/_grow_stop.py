"""Ctrl-C that waits until a step is whole."""

import signal
import threading
from typing import Any


class Interrupts:
    """Holds an interrupt back until somebody asks for it; a second one comes at once.

    Use as a context. Outside the main thread, and where interrupts are ignored, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        heard = signal.getsignal(signal.SIGINT)
        if callable(heard) and threading.current_thread() is threading.main_thread():
            self._before = heard
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._give_back()

    def check(self) -> None:
        """Raises KeyboardInterrupt if there was one."""
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
        self._give_back()

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
