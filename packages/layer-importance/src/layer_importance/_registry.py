"""Methods by name: those of the package, those registered, those of other packages."""

import difflib
import importlib.metadata
import logging

from layer_importance._entry_points import METHODS, offered
from layer_importance._method import Method
from layer_importance._methods import BUILT_IN
from layer_importance._methods.learned_ranker import LearnedRanker

logger = logging.getLogger(__name__)


class Registry:
    """Names and the methods behind them.

    A name added by hand comes before the one of an entry point (group
    ``layer_importance.methods``), that before a built-in one. An entry point is loaded when it is
    first asked for; one that fails is left out with a warning and listed in ``broken``.
    ``LAYER_IMPORTANCE_NO_PLUGINS=1`` leaves all of them out.
    """

    def __init__(self) -> None:
        self._own: dict[str, type[Method]] = {}
        # the ranker reads the others' scores: it is not one of those that are read
        self._built_in = {m.name: m for m in BUILT_IN} | {LearnedRanker.name: LearnedRanker}
        self.broken: dict[str, str] = {}

    def add_method(self, name: str, method: type[Method]) -> None:
        """Makes ``method`` available under ``name``.

        Raises:
            TypeError: if it is no subclass of :class:`Method`.
        """
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise TypeError(f"method must be a subclass of Method, got {method!r}")
        self._own[name] = method

    def names(self) -> list[str]:
        """Returns all names, built-in ones first."""
        return list(dict.fromkeys([*self._built_in, *offered(METHODS), *self._own]))

    def nearest(self, name: str, *, least: float = 0.6) -> str:
        """Returns a question after the likeliest name, in words; empty if none is near.

        >>> Registry().nearest("fisher")
        ": did you mean 'fisher_information'?"
        """
        names = self.names()
        begins = [one for one in names if name and one.startswith(name)]
        found = begins or difflib.get_close_matches(name, names, n=1, cutoff=least)
        return f": did you mean {found[0]!r}?" if found else ""

    def get(self, name: str) -> type[Method]:
        """Returns the method called ``name``.

        Raises:
            ValueError: if there is none, or its plugin cannot be loaded.
        """
        if name in self._own:
            return self._own[name]
        if (point := offered(METHODS).get(name)) and (loaded := self._load(name, point)):
            return loaded
        if name in self._built_in:
            return self._built_in[name]
        broken = f"; its plugin is broken: {self.broken[name]}" if name in self.broken else ""
        raise ValueError(
            f"method must be one of {', '.join(self.names())}, "
            f"got {name!r}{self.nearest(name)}{broken}"
        )

    def _load(self, name: str, point: importlib.metadata.EntryPoint) -> type[Method] | None:
        try:
            method = point.load()
            if not (isinstance(method, type) and issubclass(method, Method)):
                raise TypeError(f"{point.value} is no subclass of Method")
        except Exception as error:  # whatever somebody else's module does
            self.broken[name] = f"{type(error).__name__}: {error}"
            logger.warning("method %s of %s is left out: %s", name, point.value, self.broken[name])
            return None
        return method


registry = Registry()
"""The registry that :func:`analyze` asks by default."""
