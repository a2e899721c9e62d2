"""What a call of an elastic model takes on this machine, layer by layer and rank by rank."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from adlrns_models._calibrate import Forward
from adlrns_models._costs import rank_choices
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._serving import ranks_here
from rank_sched import EnergyMeter

if TYPE_CHECKING:
    from adlrns_models._elastic import ElasticModel

RANKS = 7  # measured a layer; between them times are interpolated
METERED_S = 1.0  # a shorter window of a meter is mostly rounding


@dataclass(frozen=True)
class Measured:
    """Measured costs of one call, on inputs like those given.

    ``latency_s = rest_s + scale * sum of the layers' times``: ``rest_s`` is all that no elastic
    layer does, ``scale`` what a layer's time within the network is to its time alone. And
    ``energy_j = idle_j + watts * latency_s``. Both lines go through the whole network measured at
    full rank and at the cheapest point.

    Attributes:
        ranks: measured ranks of each layer, rising; the last is full rank, run as a dense weight.
        seconds: median time of the layer alone at these ranks.
        rest_s, scale, idle_j, watts: see above; the latter two None without a meter.
        meter: name of the energy meter, or None.
        machine: where it was measured; times of another machine say nothing.
    """

    ranks: Mapping[str, Sequence[int]]
    seconds: Mapping[str, Sequence[float]]
    rest_s: float
    scale: float
    idle_j: float | None
    watts: float | None
    meter: str | None
    machine: Mapping[str, str]

    def layer_s(self, name: str, ranks: Sequence[int]) -> list[float]:
        """Returns the predicted seconds of a layer within the network at each of ``ranks``.

        Times of factors never fall with the rank: what was measured is made monotone first
        (pool adjacent violators). Full rank is its own measurement.
        """
        known, times = self.ranks[name], self.seconds[name]
        full = known[-1]
        if len(known) == 1:
            return [self.scale * times[-1]] * len(ranks)
        rising = monotone(times[:-1])
        between = np.interp(ranks, known[:-1], rising).tolist()
        return [
            self.scale * (times[-1] if r >= full else t)
            for r, t in zip(ranks, between, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Measured":
        """Returns what :meth:`to_dict` returned."""
        return cls(**values)


def monotone(values: Sequence[float]) -> list[float]:
    """Returns the non-decreasing sequence nearest to ``values`` in least squares."""
    blocks: list[list[float]] = []  # mean, count
    for value in values:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (before, more) = blocks.pop(), blocks.pop()
            blocks.append([(mean * count + before * more) / (count + more), count + more])
    return [mean for mean, count in blocks for _ in range(int(count))]


def machine_of(device: torch.device) -> dict[str, str]:
    """Returns what times depend on beside the model: processor, device, libraries, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "processor": _processor(),
        "device": name,
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@torch.no_grad()
def measure(
    elastic: "ElasticModel",
    batch: Any,
    *,
    forward: Forward,
    repeats: int,
    meter: EnergyMeter | None,
) -> Measured:
    """Returns the costs of calls on ``batch``; calls to be compared take turns."""
    inputs = _inputs_of(elastic, batch, forward)
    ranks, seconds = {}, {}
    for name, layer in elastic.layers().items():
        choices = _some(
            rank_choices(elastic.profiles[name].size, elastic._step_of(name), "factored")
        )
        calls = {r: _call(layer, r, inputs[name]) for r in choices}
        ranks[name], seconds[name] = (
            choices,
            list(_turns(calls, repeats, layer.down.device).values()),
        )
    points = {"full": {n: r[-1] for n, r in ranks.items()}, "least": _least(ranks, seconds)}
    whole = {key: _whole(elastic, point, batch, forward) for key, point in points.items()}
    device = next(elastic.parameters()).device
    times = _turns(whole, repeats, device)
    alone = {
        key: sum(seconds[n][ranks[n].index(r)] for n, r in point.items())
        for key, point in points.items()
    }
    scale, rest = _line(alone["least"], times["least"], alone["full"], times["full"])
    idle = watts = None
    if meter is not None:
        joules = {key: _joules(meter, call, times[key]) for key, call in whole.items()}
        watts, idle = _line(times["least"], joules["least"], times["full"], joules["full"])
    used = None if meter is None else meter.name
    return Measured(ranks, seconds, rest, scale, idle, watts, used, machine_of(device))


def _some(choices: list[int]) -> list[int]:
    """At most ``RANKS`` of the choices, closer together where ranks are small."""
    places = np.linspace(0, 1, RANKS - 1) ** 1.5 * max(0, len(choices) - 2)
    return sorted({*(choices[round(p)] for p in places.tolist()), choices[-1]})


def _least(ranks: Mapping[str, list[int]], seconds: Mapping[str, list[float]]) -> dict[str, int]:
    return {name: found[int(np.argmin(seconds[name]))] for name, found in ranks.items()}


def _line(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    """Slope and intercept through two points, neither negative; the second point is met."""
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 1.0
    slope = min(max(slope, 0.1), y1 / x1 if x1 > 0 else 1.0)
    return slope, y1 - slope * x1


def _inputs_of(
    elastic: "ElasticModel", batch: Any, forward: Forward
) -> dict[str, list[tuple[Any, Any]]]:
    """Returns the arguments of every call of every elastic layer in one pass."""
    seen: dict[str, list[tuple[Any, Any]]] = {name: [] for name in elastic.layers()}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, args, kwargs: seen[name].append((args, kwargs))

    handles = [
        layer.register_forward_pre_hook(keep(name), with_kwargs=True)
        for name, layer in elastic.layers().items()
    ]
    try:
        forward(elastic, batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _call(layer: AdaptiveLayer, rank: int, inputs: list[tuple[Any, Any]]) -> Callable[[], object]:
    def run() -> None:
        with ranks_here({layer: rank}):
            for args, kwargs in inputs:
                layer(*args, **kwargs)

    return run


def _whole(
    elastic: "ElasticModel", ranks: Mapping[str, int], batch: Any, forward: Forward
) -> Callable[[], object]:
    def run() -> None:
        with elastic.at(ranks=ranks):
            forward(elastic, batch)

    return run


def _turns(
    calls: Mapping[Any, Callable[[], object]], repeats: int, device: torch.device
) -> dict[Any, float]:
    """Returns the median seconds of each call, the calls taking turns."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for turn in range(repeats + 1):
        for key, call in calls.items():
            call()  # pays for the caches that the last one emptied
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            if turn:
                times[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in times.items()}


def _joules(meter: EnergyMeter, call: Callable[[], object], seconds: float) -> float:
    count = max(1, round(METERED_S / max(seconds, 1e-6)))
    with meter.measure() as window:
        for _ in range(count):
            call()
    return window.energy_j / count


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Runs ``model`` in ``eval`` mode inside; everything as before outside."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
