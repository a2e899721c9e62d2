"""An elastic model that keeps its time while it serves, and its quality under watch."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from layer_importance._depth_controller import DepthController
from layer_importance._elastic_depth import ElasticDepth
from layer_importance._quality_guard import QualityGuard, disagreement


class DepthServing:
    """Calls an elastic model at the depth that the load allows.

    Each call runs at one level from beginning to end. Its seconds go to the controller, which sets
    the level of the next. A small share of the calls (``shadow``) runs a second time at level 0,
    outside of what is timed, and the guard compares; at an alarm the level at hand may no longer be
    used, until :meth:`reset`. Safe under threads; switch gradients off around it to serve.

    Args:
        elastic: the model with its gates.
        controller: what chooses the level.
        guard: what watches the quality; none if not given.
        shadow: share of the calls that are compared.
        distance: ``distance(output, full_output)``, ``[N]`` in 0..1.
        clock: what tells the time, in seconds.
        seed: of which calls are compared.

    Raises:
        ValueError: if the controller has another number of levels, or ``shadow`` is no share.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(8, 8)
        ...         self.norm = nn.LayerNorm(8)
        ...     def forward(self, x):
        ...         return x + self.layer(self.norm(x))
        >>> net, x = nn.Sequential(*[Block() for _ in range(4)]), torch.randn(2, 8)
        >>> elastic = ElasticDepth(net, ["3", "2"], example=x)
        >>> serving = DepthServing(elastic, DepthController(2, target_s=60.0))
        >>> serving(x).shape, serving.level
        (torch.Size([2, 8]), 0)
    """

    def __init__(
        self,
        elastic: ElasticDepth,
        controller: DepthController,
        *,
        guard: QualityGuard | None = None,
        shadow: float = 0.02,
        distance: Callable[[Any, Any], Tensor] = disagreement,
        clock: Callable[[], float] = time.perf_counter,
        seed: int = 0,
    ) -> None:
        if controller.ceiling != elastic.levels:
            raise ValueError(
                f"controller must have {elastic.levels} levels as the model has, "
                f"got {controller.ceiling}"
            )
        if not 0 <= shadow <= 1:
            raise ValueError(f"shadow must be in 0..1, got {shadow}")
        self.elastic, self.controller, self.guard = elastic, controller, guard
        self._shadow, self._distance, self._clock = shadow, distance, clock
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def level(self) -> int:
        """The level of the next call."""
        return self.controller.level

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the model's answer."""
        level = self.controller.level
        with self.elastic.at(level):
            start = self._clock()
            output = self.elastic.model(*args, **kwargs)
            took = self._clock() - start
        self.controller.observe(max(took, 0.0), level=level)
        if self.guard is not None and level and self._is_compared():
            self._compare(self.guard, level, output, args, kwargs)
        return output

    def reset(self) -> None:
        """Allows all levels again."""
        self.controller.limit(self.elastic.levels)

    def _is_compared(self) -> bool:
        with self._lock:
            return self._random.random() < self._shadow

    def _compare(
        self, guard: QualityGuard, level: int, output: Any, args: Any, kwargs: Any
    ) -> None:
        with self.elastic.at(0):
            full = self.elastic.model(*args, **kwargs)
        if guard.observe(self._distance(output, full)):
            self.controller.limit(min(level - 1, self.controller.ceiling))
