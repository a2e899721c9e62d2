"""What a model says of itself: how many layers it has, which classes are whole blocks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import nn

_COUNT = re.compile(
    r"(n|num|number_of)_(\w+_)?(layers?|blocks?|hidden_groups)"
    r"|(?!min_|max_)(\w+_)?(n_)?(layers?|depths?)"
    r"|num_block_repeats|\w*(blocks|layers)_per_stage"
)
_KINDS = re.compile(r"\w*layers?_(block_)?types?|\w*block_types?|\w*pattern")


@dataclass(frozen=True, slots=True)
class Hints:
    """What configurations and class attributes of a model say; all of it may be empty.

    Attributes:
        counts: numbers of layers that a configuration names, of stages too.
        stages: lists of such numbers, one for each stage.
        blocks: names of classes that must not be split over devices: most are blocks.
    """

    counts: frozenset[int] = frozenset()
    stages: frozenset[tuple[int, ...]] = frozenset()
    blocks: frozenset[str] = frozenset()


def hints(model: nn.Module) -> Hints:
    """Returns what the configurations in ``model`` and its modules' classes say.

    A configuration is any ``config`` attribute that holds plain attributes or a mapping; numbers
    of layers are what its keys call so (``num_hidden_layers``, ``depths``, ``encoder_layers``).
    """
    named = [pair for config in configurations(model) for pair in items(config)]
    counts = {count for key, value in named for count in _counts(key, value)}
    stages = {tuple(v) for key, v in named if isinstance(v, list | tuple) and _is_stages(key, v)}
    blocks = {
        str(name)
        for module in model.modules()
        for name in getattr(module, "_no_split_modules", None) or ()
    }
    return Hints(frozenset(counts), frozenset(stages), frozenset(blocks))


def configurations(model: nn.Module) -> list[Any]:
    """Returns the configurations of a model and its modules, nested ones too, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        if (config := module.__dict__.get("config")) is not None:
            found.update((id(one), one) for one in nested(config))
    return list(found.values())


def nested(config: Any, depth: int = 4) -> Iterator[Any]:
    """Yields a configuration and those inside it."""
    yield config
    for _, value in items(config) if depth else ():
        if is_configuration(value):
            yield from nested(value, depth - 1)


def is_configuration(value: Any) -> bool:
    """Whether a value is a configuration of its own: more than a number, a text or a list."""
    return hasattr(value, "to_dict") or (is_dataclass(value) and not isinstance(value, type))


def items(config: Any) -> list[tuple[str, Any]]:
    """Returns names and values of a configuration, private ones left out."""
    if isinstance(config, Mapping):
        pairs = list(config.items())
    elif is_dataclass(config) and not hasattr(config, "to_dict"):
        pairs = [(f.name, getattr(config, f.name)) for f in fields(config)]
    else:
        pairs = list(getattr(config, "__dict__", {}).items())
    return [(key, value) for key, value in pairs if isinstance(key, str) and key[:1] != "_"]


def counts_layers(key: str) -> bool:
    """Whether a configuration's key names a number of layers.

    >>> [key for key in ("n_layer", "encoder_layers", "hidden_size") if counts_layers(key)]
    ['n_layer', 'encoder_layers']
    """
    return _COUNT.fullmatch(key) is not None


def _counts(key: str, value: Any) -> list[int]:
    if is_integer(value):
        return [value] if counts_layers(key) else []
    if not isinstance(value, list | tuple) or not value:
        return []
    if _KINDS.fullmatch(key):
        return [len(value)]
    return [*value, sum(value)] if _is_stages(key, value) else []


def _is_stages(key: str, value: Sequence[Any]) -> bool:
    return len(value) > 1 and counts_layers(key) and all(map(is_integer, value))


def is_integer(value: Any) -> bool:
    """Whether a value is a number of something: an ``int`` that is no ``bool``."""
    return isinstance(value, int) and not isinstance(value, bool)
