"""The second pass: what the new units of an atom are in every tensor, if it grows.

A new unit may be a **copy** of an old one, **zero**, the **mean** of the old ones, or **free**:
anything at all. Layers that make units can make them any of these; what reads them says what it
needs: a layer gives free units zero columns and splits the columns of copies, a normalisation
needs units that leave its statistics alone. Where growing by a factor changes a number everywhere
(the mean of squares, say), the power of ``r = old size / new size`` that it changes by is carried
along until a parameter can take it up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map

from neuro_morph._axes import Atom, Axis, atoms_of, growth_of, product_of
from neuro_morph._placing import MASK, Origin, Placing, Value
from neuro_morph._program import Call, Program, Ref


@dataclass(frozen=True)
class New:
    """What the new units are in a tensor.

    Attributes:
        mode: ``"free"``, ``"zero"``, ``"mean"`` or ``"copy"``; None for a tensor that has no new
            units and changes only by a power of ``r``.
        power: everything in the tensor is ``r ** power`` times what it was.
        sources: the parameters whose rows make the units, as far as they may be chosen.
        linear: whether the mean of units made is the mean of these units.
        before: units that are the mean of others once they are multiplied by this parameter.
        scaled: which of the ``sources`` have been multiplied by which parameter since.
    """

    mode: str | None = "free"
    power: float = 0.0
    sources: frozenset[str] = frozenset()
    linear: bool = True
    before: str | None = None
    scaled: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Seen:
    """A tensor that goes into an operation: its axes and its new units."""

    value: Value
    new: New | None

    @property
    def origin(self) -> Origin | None:
        """The parameter it is a view of."""
        return self.value.origin


@dataclass
class Needs:
    """What has to be done to parameters and attributes so that growth changes nothing.

    Attributes:
        rows: how the rows of each parameter that makes units are filled.
        columns: how units come in at each axis of a parameter that reads them, and at which power
            of ``r``.
        powers: parameters that are multiplied by a power of ``r`` along the atom's axis.
        attributes: numbers of modules that are multiplied by a power of ``r``: path, what it is
            for, its value, the power.
        masked: modules that have to leave new units out of their statistics, with what the axis
            they normalise is made of.
        scored: parameters that make what is multiplied with new units: if the model scales the
            products by their number, these can undo it.
    """

    rows: dict[str, str] = field(default_factory=dict)
    columns: dict[tuple[str, int], New] = field(default_factory=dict)
    powers: dict[str, float] = field(default_factory=dict)
    attributes: set[tuple[str, str, float, float]] = field(default_factory=set)
    masked: dict[str, Axis] = field(default_factory=dict)
    scored: frozenset[str] = frozenset()


class CannotGrowError(Exception):
    """The units cannot be added in this way without changing what the network computes."""


class AsksError(Exception):
    """An operation needs the units of some parameters to be made in another way."""

    def __init__(
        self,
        sources: Iterable[str],
        mode: str,
        why: str,
        scaled: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(why)
        self.modes = dict.fromkeys(sources, mode)
        if mode == "mean":  # of what they are once multiplied; the factor of a new unit is one
            self.modes |= {source: f"mean*{factor}" for source, factor in scaled}
            self.modes |= {factor: "one" for _, factor in scaled}


class Valuing:
    """New units in every tensor of a program, for one atom and one way of making them."""

    def __init__(
        self, placing: Placing, atom: Atom, *, way: str, maskable: frozenset[str] = frozenset()
    ) -> None:
        self.placing, self.atom = placing, atom
        self.copies, self.equally = way in ("copy", "equal"), way == "equal"
        self.maskable = maskable if way == "masked" else frozenset()
        self.news: dict[int, New] = {}
        self.needs = Needs()
        self.call: Call | None = None

    @property
    def program(self) -> Program:
        """The program that is looked at."""
        return self.placing.program

    def run(self, rules: dict[str, Any], calls: Iterable[Call], chosen: dict[str, str]) -> Needs:
        """Returns what growth needs with the rows of some parameters ``chosen``.

        Raises:
            CannotGrowError: if it cannot be done so.
            AsksError: if the rows of some parameters have to be made otherwise.
        """
        self.needs = Needs(rows=dict(chosen))
        for names in (self.program.parameters, self.program.buffers):
            for index, name in names.items():
                if any(self.has(axis) for axis in self.placing.values[index].axes):
                    self.news[index] = self.new(name)
        for call in calls:
            self._step(call, rules)
        for label, ref in self.program.outputs:
            if ref.index in self.news:
                raise CannotGrowError(f"the output{label} would change by a factor")
        return self.needs

    def new(self, *names: str) -> New:
        """Returns the units that parameters make together."""
        modes = {self._row(name) for name in names}
        mode = modes.pop() if len(modes) == 1 else "free"
        if mode == "one":
            return New("free", sources=frozenset(names))
        kind, _, factor = mode.partition("*")
        return New(kind, sources=frozenset(names), before=factor or None)

    def _row(self, name: str) -> str:
        if name.endswith(MASK):
            return "zero"
        return self.needs.rows.get(name, "copy" if self.copies else "free")

    def has(self, axis: Axis) -> bool:
        """Whether the atom is in an axis."""
        return any(each is self.atom for each in atoms_of(axis))

    def dims(self, value: Value) -> list[int]:
        """Returns the axes of a tensor that the atom is in."""
        return [d for d, axis in enumerate(value.axes) if self.has(axis)]

    def evenly(self, x: "Seen", dims: Iterable[int]) -> bool:
        """Whether axes of a tensor, taken together, grow by the factor that the atom grows by."""
        whole = growth_of(product_of(x.value.axes[d] for d in dims))
        return all(key.count(id(self.atom)) == 1 for key in whole)

    def out(self, k: int = 0) -> Value:
        """Returns the ``k``-th tensor that comes out of the operation at hand."""
        assert self.call is not None
        ref = self.call.outputs[k]
        return Value(()) if ref is None else self.placing.value(ref)

    def no(self, why: str) -> CannotGrowError:
        """Returns the refusal to go on, naming the operation at hand."""
        self.placing.call = self.call
        return CannotGrowError(f"{why} in {self.placing.where()}")

    def multiply(self, names: Iterable[str], power: float) -> None:
        """Lets parameters take up a power of ``r``."""
        for name in names:
            self.needs.powers[name] = self.needs.powers.get(name, 0.0) + power

    def attribute(self, role: str, value: float, power: float) -> None:
        """Notes that a number of the module at hand has to be multiplied by a power of ``r``."""
        assert self.call is not None
        self.needs.attributes.add(
            (self.call.path[-1] if self.call.path else "", role, value, power)
        )

    def _step(self, call: Call, rules: dict[str, Any]) -> None:
        if not any(ref.index in self.news for ref in call.inputs()):
            return
        self.call = call
        args, kwargs = tree_map(self._seen, (call.args, call.kwargs), is_leaf=_is_ref)
        try:
            result = rules[call.op].value(self, *args, **kwargs)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise self.no("its arguments are not those that are known") from None
        results = result if isinstance(result, list) else [result]
        for ref, new in zip(call.outputs, results, strict=False):
            if ref is not None and new is not None and (new.mode or new.power):
                self.news[ref.index] = new
        self._check(call)

    def _seen(self, leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        return Seen(self.placing.value(leaf), self.news.get(leaf.index))

    def _check(self, call: Call) -> None:
        for ref in call.outputs:
            if ref is None or not self.dims(self.placing.value(ref)):
                continue
            if ref.index not in self.news:
                raise self.no("nothing is known of the new units")


def seen_in(*given: Any) -> list[Seen]:
    """Returns the tensors among arguments, lists looked into."""
    leaves = tree_leaves(given, is_leaf=lambda x: isinstance(x, Seen))
    return [leaf for leaf in leaves if isinstance(leaf, Seen)]


def joined(valuing: Valuing, first: New, second: New) -> New:
    """Returns what the sum of two tensors with new units has."""
    if first.power != second.power:
        raise valuing.no("two tensors that change by different factors are added")
    both = replace(
        first,
        sources=first.sources | second.sources,
        linear=first.linear and second.linear,
        scaled=first.scaled | second.scaled,
    )
    modes = {first.mode, second.mode}
    if first.before != second.before:
        raise valuing.no("units that are the mean of others are added to some that are not yet")
    if len(modes) == 1:
        return both
    if modes == {"free", "zero"}:
        return replace(both, mode="free")
    for one in (first, second):
        if modes == {"free", "mean"} and one.mode == "free" and one.linear and one.sources:
            why = "it is added to units that are the mean of others"
            raise AsksError(one.sources, "mean", why, one.scaled)
    raise valuing.no(f"new units that are {first.mode} and {second.mode} are added")


def _is_ref(leaf: Any) -> bool:
    return isinstance(leaf, Ref)
