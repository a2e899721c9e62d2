"""One network for every budget."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from torch import nn

from adlrns_models._budgets import (
    KINDS,
    MEASURED,
    check_kind_of_cost,
    frontier_of,
    full_cost_of,
    limit_of,
)
from adlrns_models._calibrate import (
    Forward,
    default_forward,
)
from adlrns_models._checks import check_budget, check_int
from adlrns_models._elastic_file import load_parts, save_elastic
from adlrns_models._elastic_ranks import RanksInForce
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._measure import evaluating, measure
from adlrns_models._measured import Measured
from adlrns_models._profile import LayerProfile
from adlrns_models._serving import ranks_here
from rank_sched import EnergyMeter, Frontier, OperatingPoint

Budget = float | Mapping[str, float]
BUDGETS = (*KINDS, "loss")


class ElasticModel(nn.Module):
    """A network whose layers run at the ranks that a budget affords; one set of weights for all.

    Made by :func:`make_elastic` or :meth:`load`. Calling it calls the network. Without gradients a
    layer above its break-even rank runs as one dense weight, and one that has stayed at a rank for
    some calls from a copy of the active part of ``up``: at most two more ``[m, n]`` a layer.
    Optimizers and changes in place are noticed, changes through ``.data`` are not; set the budget
    again after such. A graph of ``torch.compile`` holds the rank as a variable and always runs two
    factors: above break-even it costs more than the budget says, so settle such a model first.

    Attributes:
        network: the network, its layers adaptive.
        profiles: by layer name, its size and loss curve.
        info: where it came from: calibration's hash, versions, settings; saved with it.
        measured: what :meth:`measure` found, None before.
    """

    def __init__(
        self,
        network: nn.Module,
        profiles: Mapping[str, LayerProfile],
        *,
        multiple_of: int | None = None,
        info: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = network
        self.profiles = dict(profiles)
        self.multiple_of = multiple_of
        self.info = dict(info or {})
        self._layers = {name: _adaptive(network, name) for name in self.profiles}
        for layer in self._layers.values():
            layer._serve()
        self._in_force = RanksInForce(self._layers)
        self._compiled: Callable[..., Any] | None = None
        self._frontiers: dict[tuple[object, ...], Frontier] = {}
        found = self.info.get("measured")
        self.measured = None if found is None else Measured.from_dict(found, self.profiles)

    def forward(self, *args: Any, budget: Budget | None = None, **kwargs: Any) -> Any:
        """Returns the network's output at the ranks in force, or within ``budget``.

        A call sees the ranks of one operating point, though other threads may change them while it
        runs. A graph of ``torch.compile(elastic)`` knows the ranks of :meth:`at` around it, and
        otherwise asks each layer in turn; one of :meth:`compile` is as good as no graph.

        Args:
            *args: the network's.
            budget: for this call alone: a share of the dense FLOPs, or one of the keywords of
                :meth:`set_budget` with its value, such as ``{"latency_s": 0.01}``.
            **kwargs: the network's.
        """
        if torch.compiler.is_compiling():
            if budget is not None:
                raise RuntimeError("budget must be None in a compiled call: use at() around it")
            return self.network(*args, **kwargs)
        with ranks_here(self._in_force.now() if budget is None else self._ranks_at(budget)):
            run = self.network if self._compiled is None else self._compiled
            return run(*args, **kwargs)

    @contextmanager
    def at(
        self, *, ranks: Mapping[str, int] | None = None, **budget: Any
    ) -> Iterator[OperatingPoint | None]:
        """Runs calls inside a ``with`` block at other ranks, for this thread or task alone.

        Args:
            ranks: of the layers named; the others keep theirs.
            budget: one budget, as for :meth:`set_budget`, in place of ``ranks``.

        Yields:
            The operating point of the budget, None for ``ranks``.

        Raises:
            ValueError, TypeError: as :meth:`set_ranks` and :meth:`set_budget` do.

        Example:
            >>> import torch
            >>> from adlrns_models import make_elastic
            >>> x = torch.randn(64, 16)
            >>> elastic = make_elastic(torch.nn.Linear(16, 32), [x])
            >>> with elastic.at(flops=0.5):
            ...     cheap = elastic(x)
            >>> bool(torch.equal(cheap, elastic(x)))
            False
        """
        if ranks is not None and budget:
            raise TypeError(f"give ranks or a budget, not both, got {sorted(budget)} beside ranks")
        point = None if ranks is not None else self.point_for(**budget)
        asked = ranks if point is None else point.ranks
        assert asked is not None
        chosen = self._in_force.checked(asked)
        with ranks_here({**self._in_force.now(), **chosen}):
            yield point

    def _ranks_at(self, budget: Budget) -> dict[AdaptiveLayer, int]:
        asked: dict[str, Any] = dict(budget) if isinstance(budget, Mapping) else {"flops": budget}
        return self._in_force.checked(self.point_for(**asked).ranks)

    def frontier(self, cost: str = "flops", form: str = "factored") -> Frontier:
        """Returns the operating points that no other beats, for one kind of cost.

        Args:
            cost: ``"flops"`` per sample, ``"parameters"`` or ``"memory_bytes"`` of the elastic
                layers' weights; ``"latency_s"`` or ``"energy_j"`` of these layers in one call, as
                :meth:`measure` found.
            form: how layers are stored: ``"factored"`` (as they run) or ``"identity"`` (as
                :func:`materialize_model` can settle them, cheaper).

        Raises:
            ValueError: for an unknown cost or form.
        """
        check_kind_of_cost(cost, form)
        sizes = tuple(layer.down.element_size() for layer in self._layers.values())
        key = (cost, form, sizes if cost == "memory_bytes" else ())
        if key not in self._frontiers:
            self._frontiers[key] = frontier_of(self, cost, form)
        return self._frontiers[key]

    def full_cost(self, cost: str = "flops") -> float:
        """Returns the cost at full rank: of the elastic layers, or of a call where measured."""
        check_kind_of_cost(cost, "factored")
        return full_cost_of(self, cost)

    def measure(
        self,
        batch: Any,
        *,
        forward: Forward = default_forward,
        repeats: int = 20,
        meter: EnergyMeter | None = None,
    ) -> Measured:
        """Measures what calls on inputs like ``batch`` take here, for budgets in such units.

        Every elastic layer is timed at some ranks where it runs, inside calls of the whole network;
        operating points take turns. :meth:`save` keeps the result; another machine, or other thread
        counts, need their own. Calls of compiled graphs are not what is measured. Meanwhile a layer
        holds a copy of the active part of ``up`` for each of these ranks, and one dense weight.

        Args:
            batch: one batch, as for :func:`make_elastic`. Times are those of its size.
            forward: ``forward(model, batch)``, for other kinds of batches.
            repeats: timed calls of each kind, whose median counts.
            meter: measures energy as well, in windows of a second or more.

        Example:
            >>> import torch
            >>> from adlrns_models import make_elastic
            >>> x = torch.randn(1024, 256)
            >>> elastic = make_elastic(torch.nn.Linear(256, 512), [x])
            >>> measured = elastic.measure(x, repeats=3)
            >>> point = elastic.set_budget(latency_s=1.0)
            >>> elastic.ranks()
            {'': 256}
        """
        check_int("repeats", repeats, 1)
        with evaluating(self), torch.compiler.set_stance("force_eager"):
            self.measured = measure(self, batch, forward=forward, repeats=repeats, meter=meter)
        self.info["measured"] = self.measured.to_dict()
        for cost in MEASURED:
            self._frontiers.pop((cost, "factored", ()), None)
        return self.measured

    def set_budget(
        self,
        *,
        flops: float | None = None,
        parameters: float | None = None,
        memory_bytes: float | None = None,
        latency_s: float | None = None,
        energy_j: float | None = None,
        loss: float | None = None,
        form: str = "factored",
    ) -> OperatingPoint:
        """Runs at the best ranks within one budget from now on, and returns them.

        Args:
            flops: share ``0..1`` of the dense FLOPs of the elastic layers.
            parameters: share ``0..1`` of their dense weights.
            memory_bytes: bytes of their weights, in the form they are counted in.
            latency_s: seconds of a call of the whole network, on inputs like those of
                :meth:`measure`, which must have run.
            energy_j: joules of such a call.
            loss: largest predicted loss; the fewest FLOPs that keep it.
            form: the form that the cost is counted in, see :meth:`frontier`. A model budgeted as
                ``"identity"`` keeps to the budget when it is settled in that form.

        Raises:
            TypeError: unless exactly one budget is given, as a number.
            ValueError: if the budget is out of range or below the smallest possible; the ranks
                then stay as they were.

        Example:
            >>> import torch
            >>> from adlrns_models import make_elastic
            >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8))
            >>> elastic = make_elastic(model, [torch.randn(64, 16)])
            >>> point = elastic.set_budget(flops=0.5)
            >>> bool(point.cost <= 0.5 * elastic.full_cost())
            True
        """
        point = self.point_for(
            flops=flops,
            parameters=parameters,
            memory_bytes=memory_bytes,
            latency_s=latency_s,
            energy_j=energy_j,
            loss=loss,
            form=form,
        )
        self._in_force.put(self._in_force.checked(point.ranks), point)
        return point

    def point_for(self, *, form: str = "factored", **budget: Any) -> OperatingPoint:
        """Returns the operating point that :meth:`set_budget` would choose, and changes nothing.

        Args:
            form: as for :meth:`set_budget`.
            budget: one of the budgets of :meth:`set_budget`.

        Raises:
            TypeError, ValueError: as :meth:`set_budget` does.
        """
        if unknown := sorted(budget.keys() - set(BUDGETS)):
            raise TypeError(f"budget must be one of {', '.join(BUDGETS)}, got {unknown[0]!r}")
        name, value = check_budget(**(dict.fromkeys(BUDGETS) | budget))
        if name == "loss":
            return self.frontier("flops", form).at_loss(value)
        return self.frontier(name, form).at(limit_of(self, name, form, value))

    def set_ranks(self, ranks: Mapping[str, int]) -> None:
        """Runs the named layers at the given ranks from now on, all of them or none.

        Raises:
            ValueError: for an unknown layer or a rank outside ``0..max_rank``.
        """
        self._in_force.put(self._in_force.checked(ranks), None)

    def ranks(self) -> dict[str, int]:
        """Returns the rank in force of every elastic layer."""
        return {name: layer.current_rank() for name, layer in self._layers.items()}

    def layers(self) -> dict[str, AdaptiveLayer]:
        """Returns the elastic layers by name."""
        return dict(self._layers)

    @property
    def operating_point(self) -> OperatingPoint | None:
        """The point that the last budget chose, for everybody: a call may run at others.

        None before the first, and where the ranks in force are no longer its own: after
        :meth:`set_ranks`, a layer's ``set_rank`` or adaptation, or another model's state.
        """
        return self._in_force.point

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Runs calls of this model by a compiled network; arguments are those of ``torch.compile``.

        Budgets are chosen outside its one graph, by the call too: ``elastic(x, budget=0.3)``. The
        network itself stays as it is, and copies of the model are not compiled.
        """
        # no submodule: its parameters are the network's, and names must stay
        self.__dict__["_compiled"] = torch.compile(self.network, *args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the state, of one operating point though budgets move meanwhile."""
        with ranks_here(self._in_force.now()):
            return super().state_dict(*args, **kwargs)

    def save(self, directory: str | PathLike[str]) -> None:
        """Writes ``directory/elastic.safetensors``: weights of every rank, and how to use them.

        The file appears whole or not at all; an older one is replaced.
        """
        with ranks_here(self._in_force.now()):  # of one point, though budgets move meanwhile
            save_elastic(self, directory)

    @classmethod
    def load(cls, directory: str | PathLike[str], model: nn.Module) -> "ElasticModel":
        """Returns the elastic model saved in ``directory``.

        Args:
            directory: where :meth:`save` wrote.
            model: the plain network it was made from (any weights); it is not changed.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: naming file and field, if it is damaged, foreign, newer, or of another
                architecture.
        """
        network, profiles, multiple_of, info = load_parts(directory, model)
        return cls(network, profiles, multiple_of=multiple_of, info=info)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def _step_of(self, name: str) -> int:
        if self.multiple_of is not None:
            return self.multiple_of
        # products like ranks in eights; a small layer has too few ranks to give any away
        return 8 if self.profiles[name].size.max_rank >= 256 else 1


def _adaptive(network: nn.Module, name: str) -> AdaptiveLayer:
    layer = network.get_submodule(name) if name else network
    if not isinstance(layer, AdaptiveLayer):
        raise ValueError(f"profiles must name adaptive layers of network, got {name!r}")
    return layer
