"""The configuration of a grown model of the transformers library, where one describes it."""

import copy
import re
from typing import Any

import torch
from torch import Tensor

from neuro_morph._arguments import check_kind
from neuro_morph._checking import change_between, outputs_of
from neuro_morph._configuration_search import Changes, Numbers, Search, changed, read, write
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._morpher import Morpher

_ROUNDING = 1e-3


def fit_config(morpher: Morpher) -> dict[str, tuple[Any, Any]]:
    """Changes ``model.config`` so that it builds the grown model; returns what has changed.

    ``model.save_pretrained(folder)`` then writes what ``from_pretrained(folder)`` reads. A
    configuration has one number for all layers: if they were not grown alike there is none, nor for
    new layers and connections. The spec is the way then: ``morpher.spec.save(file)``, and later
    ``ArchitectureSpec.load(file).replay(type(model)(config))``.

    Numbers of the configuration that have a size that grew are tried, then what it leaves open
    (``n_inner`` of GPT-2), as few of them as will do. They are kept if the configuration can be
    written and read, and builds a model with all the shapes of this one which computes what it
    does, whatever its weights.

    Args:
        morpher: the run.

    Raises:
        TypeError: if the model has no configuration that it could be built from.
        GrowthRefusedError: if no configuration builds it, naming why; nothing has changed.
    """
    check_kind(Morpher, morpher=morpher)
    model: Any = morpher.model
    config = vars(model).get("config")
    if not hasattr(config, "to_dict"):
        raise TypeError(f"{type(model).__name__} has no configuration that it is built from")
    search = Search(model, config, _grown_numbers(morpher))
    refused: list[str] = []
    for changes in search.fitting():
        tried = changed(config, changes)
        refusal = _refusal(tried)
        if refusal is not None:
            refused.append(f"{_shown(changes)} would, but {type(config).__name__} says: {refusal}")
        elif _computes_the_same(morpher, tried):
            old = {".".join(key): (read(config, key), value) for key, value in changes.items()}
            for key, value in changes.items():
                write(config, key, value)
            return old
    raise GrowthRefusedError(
        f"no {type(config).__name__} builds this {type(model).__name__}: "
        f"{refused[0] if refused else _reason(search)}; save its spec beside its state, and replay "
        "that into the model as it was built"
    )


def _grown_numbers(morpher: Morpher) -> Numbers:
    """Returns the numbers of modules that growth has changed: shapes alone say too little.

    Twice as many heads and heads of twice the size have the same shapes.
    """
    found: Numbers = {}
    modules = dict(morpher.model.named_modules())
    for step in morpher.spec.steps:
        for path, name, value in step.attributes:
            plain = type(value) in (int, float)
            if plain and path in modules and vars(modules[path]).get(name) == value:
                found[path, name] = value
    return found


def _refusal(config: Any) -> str | None:
    """Returns why a configuration cannot be written and read again, None if it can."""
    read_again = getattr(type(config), "from_dict", copy.deepcopy)
    try:
        read_again(config.to_dict())
    except Exception as error:  # a library may check its configurations in any way
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return None


def _reason(search: Search) -> str:
    """Returns what no configuration builds: what was added, layers unlike, or what differs."""
    mine, its = search.shapes, search.start.shapes
    added = next((name for name in mine if name not in its), None)
    if added is not None:
        return f"{added!r} is in none of them: they describe nothing that was added"
    gone = next((name for name in its if name not in mine), None)
    if gone is not None:
        return f"{gone!r} is in all of them and not in the model"
    return _unlike(search) or _difference(search)


def _unlike(search: Search) -> str | None:
    """Returns two tensors of layers that are built alike and have grown unlike, if there are."""
    first: dict[Any, str] = {}
    for name, shape in search.shapes.items():
        kind = re.sub(r"\d+", "*", name), search.start.shapes[name]
        other = first.setdefault(kind, name)
        if search.shapes[other] != shape:
            return (
                f"{name!r} is {shape}, not {search.shapes[other]} as {other!r}: a configuration "
                "has one number for layers that are alike"
            )
    return None


def _difference(search: Search) -> str:
    changes, seen = search.best()
    wrong = search.wrong(seen)
    if not wrong:
        return "what has its shapes computes something else"
    name = wrong[0]
    if isinstance(name, tuple):
        its, mine = seen.numbers.get(name, "missing"), search.grown[name]
        name = ".".join(part for part in name if part)
    else:
        its, mine = str(seen.shapes.get(name)), str(search.shapes[name])
    by = f"{_shown(changes)} builds it" if changes else "it is built"
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{name!r} is {mine}, not {its} as {by}{more}"


def _shown(changes: Changes) -> str:
    return ", ".join(f"{'.'.join(key)}={value!r}" for key, value in changes.items()) or "it"


def _computes_the_same(morpher: Morpher, config: Any) -> bool:
    """Whether a configuration builds a model that computes what this does, with any weights."""
    model = morpher.model
    with torch.random.fork_rng(devices=()):
        other, own = type(model)(config), copy.deepcopy(model)
    first = next(model.parameters())
    other.to(device=first.device, dtype=first.dtype)
    with torch.no_grad():
        for scale in (0.0, 1.0):
            own.load_state_dict({k: _noisy(v, scale) for k, v in model.state_dict().items()})
            other.load_state_dict(own.state_dict())
            mine, its = (outputs_of(each, morpher.inputs) for each in (own, other))
            if not change_between(mine, its).within(_ROUNDING if scale else morpher.tolerance):
                return False
    return True


def _noisy(tensor: Tensor, scale: float) -> Tensor:
    """Returns a tensor with noise added to its entries that makes products of rows of size 1."""
    if not scale or not tensor.is_floating_point() or tensor.dim() < 2:
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + (scale * noise / tensor[0].numel() ** 0.5).to(tensor)
