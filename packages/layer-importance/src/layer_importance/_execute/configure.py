"""What configurations say about the depth, put right after blocks are gone."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from layer_importance._hints import counts_layers, is_configuration, is_integer, items, nested

_PER_LAYER = re.compile(r"\w*(layer|block|type|pattern|depth|rope|window|sparse|kv)\w*")
_PLACES = re.compile(r"\w*(layers?|idxs?|index|indices|indexes|layer_ids)")
_SIDES = frozenset({"encoder", "decoder", "text", "vision", "audio", "language", "image", "speech"})


def reconfigure(model: nn.Module, container: str, count: int, kept: Sequence[int]) -> None:
    """Changes what the configurations around a chain say about its depth.

    Those are the one of the chain's nearest ancestor that has one, the same object wherever the
    model's own configuration holds it, and the model's own where it is of the same class. Changed
    are numbers of layers equal to ``count`` (those of the other side of the model are left alone:
    ``decoder_layers`` is not the encoder's), the chain's entry in a list of stages, lists with one
    entry a layer, and lists of layers' places; so are modules that hold such a list, and numbers
    of layers in the module around the chain.

    Args:
        model: the model, its configurations are changed.
        container: path of the chain.
        count: how many blocks it had.
        kept: places of those that stay.
    """
    for config in _around(model, container):
        for key, value in items(config):
            new = _stage(value, container, count, kept) if counts_layers(key) else None
            if new is None and isinstance(value, list | tuple | str):
                new = _per_layer(key, value, count, kept)
            if new is not None:
                _set(config, key, new)
                _share(model, value, new)
        for key in _counters(config, container, count):
            _set(config, key, len(kept))
    owner = model.get_submodule(container.rpartition(".")[0])
    for key, value in list(vars(owner).items()):
        if is_integer(value) and value == count and counts_layers(key):
            setattr(owner, key, len(kept))


def _share(model: nn.Module, old: Any, new: Any) -> None:
    """Gives modules that hold a configuration's list the new one."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if value is old and isinstance(old, list):
                setattr(module, name, new)


def repeat_less(model: nn.Module, path: str, count: int, fewer: int) -> bool:
    """Lowers the number of runs of the module at ``path``; says whether any configuration had it.

    Args:
        model: the model, its configurations are changed.
        path: of the module that runs several times.
        count: how often it runs.
        fewer: how many runs are to go.
    """
    found = [
        (config, key) for config in _around(model, path) for key in _counters(config, path, count)
    ]
    for config, key in found:
        _set(config, key, count - fewer)
    return bool(found)


def _around(model: nn.Module, container: str) -> list[Any]:
    own = model.__dict__.get("config")
    nearest = own
    parts = container.split(".") if container else []
    for end in range(len(parts) + 1):
        module = model.get_submodule(".".join(parts[:end]))
        nearest = module.__dict__.get("config", nearest)
    if nearest is None:
        return []
    found = [nearest]
    for config in nested(own) if own is not None else ():
        if config is not nearest and type(config) is type(nearest):
            twins = sum(type(other) is type(nearest) for other in nested(own))
            if twins == 1:  # a copy made for one side of the model
                found.append(config)
    return found


def _counters(config: Any, container: str, count: int) -> list[str]:
    """Names of the numbers of layers that are this chain's."""
    names = [k for k, v in items(config) if is_integer(v) and v == count and counts_layers(k)]
    words = set(re.split(r"[._]", container))
    here = _SIDES & words
    mine = [name for name in names if here & set(name.split("_"))]
    return mine or [name for name in names if not _SIDES & set(name.split("_"))]


def _stage(value: Any, container: str, count: int, kept: Sequence[int]) -> Any:
    """A list of stages with this chain's entry changed: the one that its path numbers."""
    if not isinstance(value, list | tuple) or not all(map(is_integer, value)):
        return None
    for number in re.findall(r"\d+", container):
        for place in (int(number), int(number) - 1):
            if 0 <= place < len(value) and value[place] == count:
                return [*value[:place], len(kept), *value[place + 1 :]]
    return None


def _per_layer(key: str, value: Any, count: int, kept: Sequence[int]) -> Any:
    if len(value) == count and _PER_LAYER.fullmatch(key):
        entries = [value[place] for place in kept]
        return "".join(entries) if isinstance(value, str) else entries
    if isinstance(value, str) or not value or not all(map(is_integer, value)):
        return None
    ascending = all(a < b for a, b in itertools.pairwise(value))
    if ascending and 0 <= value[0] < count and _PLACES.fullmatch(key):
        # places beyond the end, as defaults for deeper models name them, stay beyond it
        beyond = [place - count + len(kept) for place in value if place >= count]
        return [kept.index(place) for place in value if place in kept] + beyond
    return None


def _set(config: Any, key: str, value: Any) -> None:
    if isinstance(config, dict):
        config[key] = value
    elif not is_configuration(config) or hasattr(config, "to_dict"):
        config.__dict__[key] = value  # no check of one field against others half-way through
    else:
        object.__setattr__(config, key, value)
