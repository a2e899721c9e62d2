"""What other packages offer by entry points."""

import importlib.metadata
import logging
import os
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

METHODS = "layer_importance.methods"
TASKS = "layer_importance.tasks"
ADAPTERS = "layer_importance.adapters"
PLANNERS = "layer_importance.planners"
EXECUTORS = "layer_importance.executors"

broken: dict[str, str] = {}
"""Those that could not be loaded, as ``group/name``, with the reason."""


def offered(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Returns what packages offer in a group, by name; nothing is loaded.

    ``LAYER_IMPORTANCE_NO_PLUGINS=1`` leaves all of them out.
    """
    if os.environ.get("LAYER_IMPORTANCE_NO_PLUGINS"):
        return {}
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def loaded(group: str, name: str, wrong: Callable[[Any], str]) -> Any:
    """Returns what a package offers under a name; ``None`` if nothing does.

    One that cannot be loaded, or of which ``wrong`` says that it is something else, is left out
    with a warning, and the reason is in :data:`broken`.
    """
    point = offered(group).get(name)
    if point is None:
        return None
    try:
        found = point.load()
        if why := wrong(found):
            raise TypeError(f"{point.value} {why}")
    except Exception as error:  # whatever somebody else's module does
        why = broken[f"{group}/{name}"] = f"{type(error).__name__}: {error}"
        logger.warning("%s of %s is left out: %s", name, point.value, why)
        return None
    return found


def no_subclass(of: type) -> Callable[[Any], str]:
    """Returns what says of anything but a subclass that it is none."""

    def wrong(found: Any) -> str:
        fits = isinstance(found, type) and issubclass(found, of)
        return "" if fits else f"is no subclass of {of.__name__}"

    return wrong


def no_function(found: Any) -> str:
    """Says of what cannot be called that it is no function."""
    return "" if callable(found) else "is no function"
