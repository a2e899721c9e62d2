"""What `adlrns spike` says to other programs."""

import json
import sys
from typing import Any

from adlrns._spike_settings import Settings


class Lines:
    """Lines of JSON on stdout as it is before a moving bar takes the terminal, if asked for."""

    def __init__(self, settings: Settings):
        self._asked, self._out = settings.json, sys.stdout

    def record(self, kind: str, values: dict[str, Any]) -> None:
        """Prints a record above a moving bar, never into it."""
        if self._asked:
            line = json.dumps({"record": kind, **values}, ensure_ascii=False)
            print(line, file=None if self._out.isatty() else self._out, flush=True)
