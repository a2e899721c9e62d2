"""Which form of each layer is the fastest: all are timed on what the layer is given."""

import copy
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._calibrate import Forward
from adlrns_models._forms import FORMS, effective_form, settle, weight_count
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._measure_clock import seconds_of
from adlrns_models._serving import ranks_here
from adlrns_models._wrap import iter_adaptive_layers, set_rank_change_callback

Call = Callable[[], object]
Timer = Callable[[Mapping[str, Call], torch.device], Mapping[str, float]]

# forms this much slower than the fastest count as fast: the one with the fewest weights is taken
NEAR = 0.05
# timed calls of each form, fewer where they take long
TURNS, LEAST_TURNS, ENOUGH_S = 60, 5, 1.0


@torch.no_grad()
def fastest_forms(
    model: nn.Module, ranks: Sequence[int], batch: Any, *, forward: Forward, timer: Timer
) -> list[str]:
    """Returns a form for each adaptive layer, as modules are ordered; "auto" if it did not run.

    A layer is timed when it is called, on its very input; a shared one once for each kind of
    input, which counts as often as it comes.
    """
    twin = copy.deepcopy(model).eval()  # a call may change more than a model's state
    set_rank_change_callback(twin, None)  # the caller's
    layers = dict(zip(iter_adaptive_layers(twin), ranks, strict=True))
    for layer in layers:
        layer.enable_adaptation(False)
    trials = {layer: _Trial(layer, rank, timer) for layer, rank in layers.items()}
    handles = [
        layer.register_forward_pre_hook(trials[layer].on_call, with_kwargs=True) for layer in layers
    ]
    devices = sorted({p.device.index or 0 for p in twin.parameters() if p.device.type == "cuda"})
    with (
        ranks_here(layers),
        torch.random.fork_rng(devices=devices),
        torch.compiler.set_stance("force_eager"),
    ):
        forward(twin, batch)
    for handle in handles:
        handle.remove()
    return [each.best() for each in trials.values()]


class _Trial:
    """What the forms of one layer take, all its calls together."""

    def __init__(self, layer: AdaptiveLayer, rank: int, timer: Timer):
        self.layer, self.rank, self.timer = layer, rank, timer
        # by the kind of input
        self.known: dict[tuple[object, ...], dict[str, float]] = {}
        self.costs: Counter[str] = Counter()

    def on_call(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Times the forms on the input of a call, if it is of a new kind."""
        (x,) = (*args, *kwargs.values())
        kind = (x.shape, x.stride(), x.dtype)
        if kind not in self.known:
            self.known[kind] = self._timed(x)
        self.costs.update(self.known[kind])

    def best(self) -> str:
        """Returns the fastest form; of those nearly as fast the one with the fewest weights."""
        if not self.costs:
            return "auto"
        least = min(self.costs.values())
        near = [form for form, cost in self.costs.items() if cost <= (1 + NEAR) * least]
        return min(near, key=lambda form: weight_count(form, *self.layer.sizes, self.rank))

    def _timed(self, x: Tensor) -> dict[str, float]:
        forms = list(dict.fromkeys(effective_form(f, *self.layer.sizes, self.rank) for f in FORMS))
        if len(forms) == 1:
            return dict.fromkeys(forms, 0.0)
        modules = {form: settle(self.layer, form, self.rank) for form in forms}
        told = self.timer({form: partial(m, x) for form, m in modules.items()}, x.device)
        found = {form: told.get(form, math.nan) for form in forms}
        if not all(0 <= cost < math.inf for cost in found.values()):
            raise ValueError(
                f"timer must return a finite number for each of {forms}, not negative, got {told}"
            )
        return found


def take_turns(calls: Mapping[str, Call], device: torch.device) -> dict[str, float]:
    """Returns the median seconds of each call; calls take turns, after two that warm up.

    Each call finds the caches as the others left them, as it would between the layers of a model.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for turn in range(-2, TURNS):
        for name, call in calls.items():
            seconds = seconds_of(call, device)
            if turn >= 0:
                times[name].append(seconds)
        if turn + 1 >= LEAST_TURNS and time.perf_counter() - began > ENOUGH_S:
            break
    return {name: statistics.median(values) for name, values in times.items()}
