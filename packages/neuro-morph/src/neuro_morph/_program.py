"""A run of a model as a list of operations, however it was recorded."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Ref:
    """The tensor with a number in a program."""

    index: int


@dataclass(frozen=True)
class Call:
    """One operation.

    Attributes:
        op: its ATen name without overload, ``relu`` for ``aten::relu_`` too.
        args: positional arguments, tensors as :class:`Ref`.
        kwargs: keyword arguments, tensors as :class:`Ref`.
        outputs: the tensors that came out; None where an output is not used.
        path: the modules whose calls were under way, the innermost last.
        given: the sizes that the model gave as numbers; None where that is not known.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref | None, ...]
    path: tuple[str, ...] = ()
    given: tuple[int, ...] | None = None

    def inputs(self) -> Iterator[Ref]:
        """Yields the tensors that go in."""
        leaves = tree_leaves((self.args, self.kwargs), is_leaf=lambda x: isinstance(x, Ref))
        return (leaf for leaf in leaves if isinstance(leaf, Ref))


@dataclass
class Program:
    """What a model does with its example inputs.

    Attributes:
        shapes: the shape of every tensor.
        parameters: names of the tensors that are parameters.
        buffers: names of the tensors that are buffers.
        outputs: the tensors that the model returns, with where they stand in what it returns.
        calls: the operations in the order they ran.
        couplings: axes of parameters that a module keeps a multiple of another: name, axis,
            multiple, name, axis.
        ties: axes whose sizes were read off other tensors: tensor, axis, origin (see ``_sizes``).
        recorded_by: ``"export"`` or ``"dispatch"``.
    """

    recorded_by: str
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    parameters: dict[int, str] = field(default_factory=dict)
    buffers: dict[int, str] = field(default_factory=dict)
    outputs: list[tuple[str, Ref]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    couplings: list[tuple[str, int, int, str, int]] = field(default_factory=list)
    ties: list[tuple[Ref, int, Any]] = field(default_factory=list)

    def add(self, shape: Any) -> Ref:
        """Returns a new tensor of the program."""
        self.shapes.append(tuple(int(each) for each in shape))
        return Ref(len(self.shapes) - 1)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self.shapes[ref.index]


def op_name(schema_name: str) -> str:
    """Returns the name a rule is registered under: ``relu`` for ``aten::relu_``."""
    name = schema_name.split("::")[-1]
    return name.removesuffix("_") if not name.startswith("__") else name
