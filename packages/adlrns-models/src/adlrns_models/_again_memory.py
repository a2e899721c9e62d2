"""What a layer's last calls decided by, kept for checkpointing to run them again."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from adlrns_models._gate import Gate

# calls of a layer that may lie between one and its second run
LIMIT = 256
Buffers = list[tuple[nn.Module, dict[str, Tensor]]]


class Basis(NamedTuple):
    """What a call decided by, beside its input and the parameters.

    Attributes:
        forced: the rank it was forced to.
        limit: the largest rank that the budget afforded.
        scheduled: the rank that the scheduler allowed, if it was asked.
        attributes: of the gate, those that are plain values.
        buffers: copies of the gate's, and of its parts'.
        moment: how often each parameter has been written to.
        is_ambiguous: whether another call drew the same number and decided by something else.
    """

    forced: int | None
    limit: int | Tensor
    scheduled: int | None
    attributes: dict[str, Any]
    buffers: Buffers
    moment: tuple[int, ...] = ()
    is_ambiguous: bool = False

    def contradicts(self, other: "Basis") -> bool:
        """Whether a call of this basis may wait for a backward pass that would take the other."""
        if self.moment != other.moment:
            return False  # an optimizer has stepped: that pass is over
        same = self[:3] == other[:3] and _known(self.attributes) == _known(other.attributes)
        return self.is_ambiguous or not (same and _same(self.buffers, other.buffers))


class Graph:
    """Stands for a call as long as its backward pass may come."""

    def __init__(self, in_force: Hashable):
        self.in_force = in_force


class Waiting:
    """Under which budget and rank by force those calls ran that may be run again."""

    def __init__(self) -> None:
        self._graphs: WeakValueDictionary[int, Graph] = WeakValueDictionary()
        self._over: list[Graph] = []  # reached by a backward pass, which may just run them again
        # use_reentrant=True runs a call without gradients first: nothing tells when it is over
        self._without: deque[Hashable] = deque(maxlen=LIMIT)

    def add(self, y: Tensor, in_force: Hashable) -> None:
        """Remembers the call that gave ``y``, and forgets those whose backward pass is over."""
        over, self._over = self._over, []
        for graph in over:
            self._graphs.pop(id(graph), None)
        if y.grad_fn is not None:
            graph = Graph(in_force)
            self._graphs[id(graph)] = graph
            y.register_hook(lambda gradient: self._over.append(graph))  # which keeps it alive
        elif not y.is_inference():  # what is has no backward pass
            self._without.append(in_force)

    def all_under(self, in_force: Hashable) -> bool:
        """Whether all of them ran under these."""
        graphs = [graph for ref in self._graphs.valuerefs() if (graph := ref()) is not None]
        calls = [*(graph.in_force for graph in graphs), *self._without]
        return all(each == in_force for each in calls)


class Memory:
    """What the last calls of a layer decided by.

    A call that checkpointing runs again has nothing in common with the first run but its input and
    the state of torch's generator, which is put back for it. So each call draws a number from the
    generator, in training: the second run draws the same, and finds by it what the first decided
    by. Calls that began in the same state draw the same, and must have decided by the same.
    """

    def __init__(self) -> None:
        self.bases: OrderedDict[int, Basis] = OrderedDict()
        self.waiting = {True: Waiting(), False: Waiting()}  # in training, and in eval mode
        self._copies: dict[tuple[nn.Module, str], tuple[Tensor, int, Tensor]] = {}

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        return Memory, ()  # graphs stay where they are

    def add(self, key: int, basis: Basis) -> None:
        """Keeps a basis, and forgets the oldest of too many."""
        before = self.bases.pop(key, None)
        is_ambiguous = before is not None and before.contradicts(basis)
        self.bases[key] = basis._replace(is_ambiguous=is_ambiguous)
        while len(self.bases) > LIMIT:
            self.bases.popitem(last=False)

    def copies(self, gate: "Gate") -> Buffers:
        """Returns copies of a gate's buffers; those that have not moved are copied once."""
        found: Buffers = []
        for module in gate.modules():
            own = {name: b for name, b in module._buffers.items() if b is not None}
            if own:
                found.append((module, {name: self._copy(module, name, own[name]) for name in own}))
        return found

    def _copy(self, module: nn.Module, name: str, buffer: Tensor) -> Tensor:
        if buffer.is_inference():  # counts no versions
            return buffer.clone()
        same, version, copy = self._copies.get((module, name), (None, 0, buffer))
        if same is not buffer or version != buffer._version:
            copy = buffer.detach().clone()
            self._copies[module, name] = buffer, buffer._version, copy
        return copy


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    """Returns those that are not None: what a gate keeps of its layer is none at first."""
    return {name: value for name, value in attributes.items() if value is not None}


def _same(one: Buffers, other: Buffers) -> bool:
    return all(
        a is b or ((a.device, a.dtype) == (b.device, b.dtype) and torch.equal(a, b))
        for (_, mine), (_, others) in zip(one, other, strict=True)
        for a, b in zip(mine.values(), others.values(), strict=True)
    )
