"""The ranks of an elastic model's layers: of one operating point, whichever thread asks."""

import threading
from collections.abc import Mapping
from typing import Any

from adlrns_models._checks import check_int
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._serving import rank_here
from rank_sched import OperatingPoint


class RanksInForce:
    """Reads and writes the ranks of some layers all at once."""

    def __init__(self, layers: Mapping[str, AdaptiveLayer]):
        self.layers = dict(layers)
        self._point: OperatingPoint | None = None
        self._lock = threading.Lock()

    def now(self) -> dict[AdaptiveLayer, int]:
        """Returns the ranks of one moment: those that this call has said, else those in force."""
        with self._lock:
            return {layer: rank_here(layer) for layer in self.layers.values()}

    def checked(self, ranks: Mapping[str, int]) -> dict[AdaptiveLayer, int]:
        """Returns ``ranks`` by layer, if there are such layers and they have such ranks."""
        for name, rank in ranks.items():
            if name not in self.layers:
                raise ValueError(f"ranks must name elastic layers, got {name!r}")
            check_int(f"ranks[{name!r}]", rank, 0, self.layers[name].max_rank)
        return {self.layers[name]: rank for name, rank in ranks.items()}

    def put(self, ranks: Mapping[AdaptiveLayer, int], point: OperatingPoint | None) -> None:
        """Has the layers run at ``ranks``, which are those of ``point`` if there is one."""
        with self._lock:  # a call that begins now sees all of them or none
            old = {layer: layer._assign(rank) for layer, rank in ranks.items()}
            self._point = point
        for layer, rank in old.items():  # a callback may fail: by now all ranks are set
            layer._announce(rank)

    @property
    def point(self) -> OperatingPoint | None:
        """The operating point that was put, if the ranks in force are still its own."""
        with self._lock:
            point = self._point
            if point is None or any(self.layers[n]._rank != r for n, r in point.ranks.items()):
                return None
            return point

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
