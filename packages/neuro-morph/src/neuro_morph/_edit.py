"""What every edit of a network offers to the transaction that carries it out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._attributes import AttributeEdit
from neuro_morph._edits import TensorEdit
from neuro_morph._graph import GrowthGraph
from neuro_morph._inputs import ExampleInputs
from neuro_morph._undo import UndoLog


@dataclass
class Site:
    """Where an edit works.

    Attributes:
        model: the model.
        graph: its growth graph.
        inputs: example inputs of it.
        generator: the source of new numbers.
        optimizers: what trains the model.
    """

    model: nn.Module
    graph: GrowthGraph
    inputs: ExampleInputs
    generator: torch.Generator
    optimizers: Sequence[Optimizer] = ()


@dataclass
class Performed:
    """What an edit has done.

    Attributes:
        tensors: parameters and buffers that grew.
        attributes: numbers of modules that changed beside the sizes of known classes.
        added: names of parameters that are new, with the path of the module they stand beside:
            they join the parameter groups of the optimizers that its parameters are in.
        recipe: what builds new modules again without data, as JSON can hold it.
        ramps: columns that come in slowly: parameter, axis, the columns, steps.
        named: numbers that are named after what grew (of heads): those that nothing needs follow,
            too, if the model then computes what it did.
        check: raises an exception if the model does not make the tensors that were planned.
        inexact: why training cannot go on as if nothing had grown although all units are copies,
            None if it can.
        note: what is worth knowing of the edit though it was made, None if nothing is.
    """

    tensors: list[TensorEdit] = field(default_factory=list)
    attributes: list[AttributeEdit] = field(default_factory=list)
    added: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    ramps: list[tuple[str, int, Tensor, int]] = field(default_factory=list)
    named: list[AttributeEdit] = field(default_factory=list)
    check: Callable[[], None] = lambda: None
    inexact: str | None = None
    note: str | None = None

    def rounds(self) -> bool:
        """Whether tensors are only as near to what they should be as their dtypes allow."""
        return not self.tensors or any(edit.rounds() for edit in self.tensors)

    def built(self) -> dict[str, Any]:
        """Returns what a spec holds of new modules: how they are built, what they hold."""
        return {"built": self.recipe, "added": self.added} if self.recipe else {}


Variant = Callable[[UndoLog], Performed]


@runtime_checkable
class Edit(Protocol):
    """A change of a network that keeps what it computes."""

    @property
    def op(self) -> str:
        """The kind of edit."""
        ...

    @property
    def target(self) -> str:
        """What is edited."""
        ...

    def detail(self) -> dict[str, Any]:
        """Returns the settings, as JSON can hold them."""
        ...

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields ways to carry the edit out, the likeliest first.

        Each writes everything it touches into the undo log it is given. The first after which the
        model still computes what it did is kept.
        """
        ...
