"""One network for every budget."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from torch import nn

from adlrns_models._elastic_budget import Budgeted
from adlrns_models._elastic_file import load_parts, save_elastic
from adlrns_models._elastic_ranks import RanksInForce
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._measured import Measured
from adlrns_models._profile import LayerProfile
from adlrns_models._serving import ranks_here
from rank_sched import OperatingPoint

Budget = float | Mapping[str, float]


class ElasticModel(Budgeted):
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
        self._frontiers = {}
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

    def set_ranks(self, ranks: Mapping[str, int]) -> None:
        """Runs the named layers at the given ranks from now on, all of them or none.

        Raises:
            ValueError: for an unknown layer or a rank outside ``0..max_rank``.
        """
        self._in_force.put(self._in_force.checked(ranks), None)

    def ranks(self) -> dict[str, int]:
        """Returns the rank in force of every elastic layer."""
        return {name: layer.current_rank() for name, layer in self._layers.items()}

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


def _adaptive(network: nn.Module, name: str) -> AdaptiveLayer:
    layer = network.get_submodule(name) if name else network
    if not isinstance(layer, AdaptiveLayer):
        raise ValueError(f"profiles must name adaptive layers of network, got {name!r}")
    return layer
