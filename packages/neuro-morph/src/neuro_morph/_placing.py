"""The first pass over a program: what every axis of every tensor is made of."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_map

from neuro_morph._axes import Atom, Axis, Const, atoms_of, fix, growth_of, product_of, size_of
from neuro_morph._program import Call, Program, Ref
from neuro_morph._sizes import Over, Read, Times
from neuro_morph._unify import unify

_READ = "its size is read off an axis that does not grow"
MASK = "unit_mask"  # the buffer of a MaskedLayerNorm
STATISTICS = ("running_mean", "running_var", MASK)


@dataclass(frozen=True)
class Origin:
    """The parameter or buffer that a tensor is a view of.

    Attributes:
        name: its name in the model.
        dims: which of its axes each axis of the view is, None for one it has not.
    """

    name: str
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Value:
    """What the axes of a tensor are made of, and whose view it is."""

    axes: tuple[Axis, ...]
    origin: Origin | None = None

    def dim(self, dim: int) -> int:
        """Returns ``dim`` counted from the front."""
        return dim % len(self.axes) if self.axes else 0


@dataclass(frozen=True)
class Role:
    """What an axis of a parameter is there for.

    Attributes:
        name: the parameter or buffer.
        dim: its axis.
        axis: the part of that axis that was used.
        kind: ``"out"``: rows that make units; ``"in"``: columns that read them; ``"scale"`` and
            ``"shift"``: one number for each unit; ``"mean"``, ``"var"``: statistics of each unit.
    """

    name: str
    dim: int
    axis: Axis
    kind: str


@dataclass(frozen=True)
class Number:
    """A number in a module that is the size of an axis, or may be.

    Attributes:
        paths: the modules whose calls were under way, the innermost last.
        axis: the axis.
        attribute: what the innermost module calls it, None if that is not known.
        place: where in its operation it stood: numbers in one place are the more likely the same.
        literal: whether the model gave it as a number, not one it read off a shape.
    """

    paths: tuple[str, ...]
    axis: Axis
    attribute: str | None = None
    place: tuple[str, int] = ("", 0)
    literal: bool = False


class Placing:
    """Axes of every tensor of a program, filled operation by operation.

    Attributes:
        program: the program.
        values: what is known of each tensor.
        roles: what the axes of parameters are used for.
        numbers: sizes of axes that modules hold as numbers.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values: dict[int, Value] = {}
        self.roles: list[Role] = []
        self.numbers: list[Number] = []
        self.call: Call | None = None
        self._add_state(program.parameters, grows=True)
        self._add_state(program.buffers, grows=False)

    def run(self, rules: "dict[str, Any]") -> "Placing":
        """Returns itself with every operation placed."""
        for call in self.program.calls:
            self.call = call
            self._place(call, rules.get(call.op))
        self._couple()
        self._tie()
        for label, ref in self.program.outputs:
            self.fix(self.value(ref), f"it is the model's output{label}")
        return self

    def value(self, ref: Ref) -> Value:
        """Returns what is known of a tensor; of one that came from nowhere, that it is constant."""
        if ref.index not in self.values:
            self.values[ref.index] = self.constant(self.program.shape(ref))
        return self.values[ref.index]

    def shape(self, k: int = 0) -> tuple[int, ...]:
        """Returns the shape of the ``k``-th output of the operation at hand."""
        assert self.call is not None
        ref = self.call.outputs[k]
        assert ref is not None
        return self.program.shape(ref)

    def constant(self, shape: Iterable[int]) -> Value:
        """Returns a tensor whose axes do not grow."""
        return Value(tuple(Const(size) for size in shape))

    def meet(self, first: Axis, second: Axis) -> None:
        """Makes two axes the same; if one cannot grow, so cannot the other."""
        unify(first, second, f"it meets an axis that does not grow in {self.where()}")

    def fix(self, value: Value, reason: str) -> None:
        """Makes every axis of a tensor one that does not grow."""
        for axis in value.axes:
            fix(axis, reason)

    def where(self) -> str:
        """Returns the operation at hand and the module it ran in."""
        assert self.call is not None
        path = self.call.path[-1] if self.call.path else ""
        return f"{self.call.op} of {path!r}" if path else self.call.op

    def uses(self, value: Value, dim: int, kind: str) -> None:
        """Notes what an axis is there for if it is one of a parameter."""
        if value.origin is None:
            return
        own = value.origin.dims[value.dim(dim)]
        if own is not None:
            self.roles.append(Role(value.origin.name, own, value.axes[value.dim(dim)], kind))

    def number(self, axis: Axis, attribute: str | None = None, place: int = 0) -> None:
        """Notes that the modules at hand hold the size of an axis, or may hold it."""
        assert self.call is not None
        if any(True for _ in atoms_of(axis)):
            where = self.call.op, place
            literal = attribute is None and self.call.given is not None
            self.numbers.append(Number(self.call.path, axis, attribute, where, literal))

    def _place(self, call: Call, rule: Any) -> None:
        args, kwargs = tree_map(
            lambda x: self.value(x) if isinstance(x, Ref) else x,
            (call.args, call.kwargs),
            is_leaf=lambda x: isinstance(x, Ref),
        )
        if rule is None:
            results = self._unknown(call)
        else:
            results = self._ruled(call, rule, args, kwargs)
        results = [results] if isinstance(results, Value) else list(results)
        for ref, value in zip(call.outputs, results, strict=False):
            if ref is not None:
                self._check(ref, value)
                self.values[ref.index] = value

    def _ruled(self, call: Call, rule: Any, args: Any, kwargs: Any) -> Any:
        try:
            return rule.place(self, *args, **kwargs)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            return self._unknown(call, "its arguments are not those that are known")

    def _unknown(self, call: Call, why: str = "no rule is known") -> list[Value]:
        for ref in call.inputs():
            self.fix(self.value(ref), f"{why} for {self.where()}")
        return [
            self.constant(self.program.shape(ref)) if ref is not None else Value(())
            for ref in call.outputs
        ]

    def _couple(self) -> None:
        names = {**self.program.parameters, **self.program.buffers}
        held = {name: self.values[index] for index, name in names.items()}
        for name, dim, multiple, other, its in self.program.couplings:
            if name in held and other in held:
                whole = product_of([Const(multiple), held[other].axes[its]])
                unify(held[name].axes[dim], whole, f"{name!r} is kept as wide as {other!r}")

    def _tie(self) -> None:
        for ref, dim, origin in self.program.ties:
            axes = self.value(ref).axes
            mine, whole = axes[dim], self._sized(origin)
            if isinstance(origin, Over):  # c // heads, beside heads
                before = axes[dim - 1] if dim else Const(1)
                whole = self._sized(origin.whole) if size_of(before) == origin.by else None
                mine = product_of([before, mine])
            if whole is not None and growth_of(mine) != growth_of(whole):
                unify(mine, whole, _READ)

    def _sized(self, origin: Any) -> Axis | None:
        """Returns the axis whose size a number is, None if that is not known."""
        if isinstance(origin, Read):
            return self.value(origin.ref).axes[origin.dim]
        if isinstance(origin, int):
            return Const(origin)
        if isinstance(origin, Times):
            parts = self._sized(origin.first), self._sized(origin.second)
            return None if parts[0] is None or parts[1] is None else product_of(parts)  # type: ignore[arg-type]
        return None

    def _check(self, ref: Ref, value: Value) -> None:
        sizes = tuple(size_of(axis) for axis in value.axes)
        if sizes != self.program.shape(ref):
            raise AssertionError(f"{self.where()}: placed {sizes}, came {self.program.shape(ref)}")

    def _add_state(self, names: dict[int, str], *, grows: bool) -> None:
        seen: dict[str, Value] = {}
        for index, name in names.items():
            shape = self.program.shapes[index]
            if name in seen:  # tied: one tensor under several names
                self.values[index] = seen[name]
                continue
            own = grows or name.rsplit(".", 1)[-1] in STATISTICS
            axes = tuple(
                Atom(n, _axis_name(name, d)) if own and n > 1 else Const(n)
                for d, n in enumerate(shape)
            )
            self.values[index] = seen[name] = Value(axes, Origin(name, tuple(range(len(shape)))))


def renamed(value: Value, axes: Iterable[Axis], dims: Iterable[int | None] | None) -> Value:
    """Returns a view of ``value`` with these axes, of which ``dims`` are its own."""
    if value.origin is None or dims is None:
        return Value(tuple(axes))
    own = tuple(value.origin.dims[d] if d is not None else None for d in dims)
    return Value(tuple(axes), replace(value.origin, dims=own))


def is_floating(dtype: Any) -> bool:
    """Whether a dtype argument is one of floating point numbers."""
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _axis_name(name: str, dim: int) -> str:
    return name.removesuffix(".weight") if dim == 0 else f"{name}[{dim}]"
