"""Numbers in modules that follow the sizes of their tensors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any

from torch import nn

from neuro_morph._axes import Atom, atoms_of, fix, resolve, size_of
from neuro_morph._entries import entries_of
from neuro_morph._groups import GrowthGroup
from neuro_morph._placing import Number
from neuro_morph._unify import unify
from neuro_morph._valuing import CannotGrowError, Needs

_VIEWS = ("view", "reshape", "_unsafe_view", "unflatten")
_CHOICES = 16  # of epsilons with one value in one module
Sizes = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class AttributeEdit:
    """A number of a module before and after.

    Attributes:
        path: the module's path.
        name: the attribute.
        old: its value.
        new: its new value.
    """

    path: str
    name: str
    old: Any
    new: Any


def _linear(module: Any) -> dict[str, Any]:
    out, into = module.weight.shape
    return {"in_features": into, "out_features": out}


def _convolution(module: Any) -> dict[str, Any]:
    rows, columns = module.weight.shape[:2]
    first, second = (
        ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    )
    return {first: rows, second: columns * module.groups}


def _batch_norm(module: Any) -> dict[str, Any]:
    held = module.weight if module.weight is not None else module.running_mean
    return {} if held is None else {"num_features": len(held)}


def _layer_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"normalized_shape": tuple(module.weight.shape)}


def _group_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"num_channels": len(module.weight)}


def _embedding(module: Any) -> dict[str, Any]:
    return {"embedding_dim": module.weight.shape[1]}


def _recurrent(module: Any) -> dict[str, Any]:
    lead = "_l0" if hasattr(module, "weight_ih_l0") else ""
    into, state = (getattr(module, f"weight_{kind}{lead}").shape[1] for kind in ("ih", "hh"))
    return {"input_size": into, "hidden_size": state}


def _conv1d(module: Any) -> dict[str, Any]:
    return {"nx": module.weight.shape[0], "nf": module.weight.shape[1]}


# by the names of classes, so that those of libraries that are not installed can stand here too
SIZES: dict[str, Sizes] = {
    "Linear": _linear,
    "NonDynamicallyQuantizableLinear": _linear,
    "_ConvNd": _convolution,
    "_NormBase": _batch_norm,
    "LayerNorm": _layer_norm,
    "RMSNorm": _layer_norm,
    "GroupNorm": _group_norm,
    "Embedding": _embedding,
    "Conv1D": _conv1d,
    "RNNBase": _recurrent,
    "RNNCellBase": _recurrent,
}


def couplings_of(model: nn.Module) -> list[tuple[str, int, int, str, int]]:
    """Returns the axes that modules of known classes keep multiples of others."""
    found = []
    for path, module in model.named_modules():
        if any(kind.__name__ == "MultiheadAttention" for kind in type(module).__mro__):
            lead = f"{path}." if path else ""
            found.append((f"{lead}in_proj_weight", 0, 3, f"{lead}out_proj.weight", 0))
    return found


def sizes_of(module: nn.Module) -> dict[str, Any]:
    """Returns the numbers that a module of a known class should hold for the tensors it has."""
    for kind in type(module).__mro__:
        known = SIZES.get(kind.__name__)
        if known is not None:
            return {k: v for k, v in known(module).items() if hasattr(module, k)}
    return {}


def counts(
    group: GrowthGroup, size: int, numbers: Iterable[Number]
) -> Iterator[tuple[str, str, int]]:
    """Yields module, attribute and new value of the numbers known to be sizes of grown axes."""
    for number in numbers:
        if number.attribute is not None and number.paths and _has(number, group):
            grown = len(entries_of(number.axis, group.atom, size)[0])
            yield number.paths[-1], number.attribute, grown


def candidates(
    model: nn.Module, group: GrowthGroup, size: int, numbers: Iterable[Number], *, inner: bool
) -> list[AttributeEdit]:
    """Returns numbers of modules that may be sizes of grown axes: they have their value.

    Args:
        model: the model.
        group: what grows.
        size: how many units it will have.
        numbers: the axes whose sizes modules gave to operations.
        inner: whether to look only in the modules that gave them, not in those around.
    """
    found: dict[tuple[str, str], AttributeEdit] = {}
    for number in numbers:
        if number.attribute is None and _has(number, group):
            old, new = size_of(number.axis), len(entries_of(number.axis, group.atom, size)[0])
            for path in number.paths[-1:] if inner else number.paths:
                for name in integers_of(model.get_submodule(path), old):
                    found.setdefault((path, name), AttributeEdit(path, name, old, new))
    return list(found.values())


def integers_of(module: nn.Module, value: int) -> list[str]:
    """Returns the attributes of a module that hold an integer and are not known to be a size."""
    known = sizes_of(module)
    return [
        name
        for name, held in vars(module).items()
        if type(held) is int and held == value and name not in known and not name.startswith("_")
    ]


def fix_literals(model: nn.Module, numbers: Iterable[Number]) -> None:
    """Fixes axes that a model views with numbers it holds nowhere: they are in its code."""
    for number in numbers:
        axis = resolve(number.axis)
        if number.literal and number.place[0] in _VIEWS and isinstance(axis, Atom):
            inner = model.get_submodule(number.paths[-1] if number.paths else "")
            around = [model.get_submodule(path) for path in number.paths]
            if not any(_holds(m, axis.size) for m in (*around, *inner.modules())):
                where = f" of {number.paths[-1]!r}" if number.paths and number.paths[-1] else ""
                fix(axis, f"its size is a number in the code{where}")


def _holds(module: nn.Module, value: int) -> bool:
    return any(type(held) is int and held == value for held in vars(module).values())


def tie_numbers(model: nn.Module, numbers: Iterable[Number]) -> None:
    """Makes axes one whose sizes a module holds as one number: they can only grow together."""
    seen: dict[tuple[str, int, tuple[str, int]], Number] = {}
    for number in numbers:
        if number.attribute is not None or not number.paths:
            continue
        key = number.paths[-1], size_of(number.axis), number.place
        first = seen.setdefault(key, number)
        if first is not number and integers_of(model.get_submodule(key[0]), key[1]):
            unify(first.axis, number.axis, f"{key[0]!r} holds one number for two sizes")


def epsilons(model: nn.Module, needs: Needs, ratio: float) -> list[list[AttributeEdit]]:
    """Returns sets to try of small numbers of normalisations that take up a factor of growth.

    Where several numbers of a module have the value, those named after an epsilon are meant.

    Raises:
        CannotGrowError: if a module does not hold its own.
    """
    choices: list[list[list[AttributeEdit]]] = []
    for path, _, value, power in sorted(needs.attributes):
        held = vars(model.get_submodule(path))
        names = [n for n, v in held.items() if _is_epsilon(n, v, value)]
        if not names:
            raise CannotGrowError(f"no attribute of {path!r} holds its {value:g}")
        named = [n for n in names if "eps" in n.lower()]
        edits = [AttributeEdit(path, n, held[n], value * ratio**power) for n in named or names]
        alone = [[edit] for edit in edits] if len(edits) > 1 else []
        choices.append([edits, *alone] if named else [*alone, edits])
    return [[*chain(*choice)] for choice in islice(product(*choices), _CHOICES)]


def _is_epsilon(name: str, held: Any, value: float) -> bool:
    return (held == value and type(held) is float) or (held is None and name == "eps")


def _has(number: Number, group: GrowthGroup) -> bool:
    return any(atom is group.atom for atom in atoms_of(number.axis))
