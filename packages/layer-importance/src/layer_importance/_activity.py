"""Hidden activations: where they are in a unit, and what each neuron does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from layer_importance._comoments import column_squares, finite_rows, wide
from layer_importance._moments import Moments
from layer_importance._preserve import preserved
from layer_importance._structure import stream
from layer_importance._subject import Subject

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FUNCTIONS = frozenset(
    {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.leaky_relu, F.elu}
    | {F.gelu, F.silu, F.mish, F.hardswish, F.selu, F.softplus, F.tanh, torch.tanh, Tensor.tanh}
)


@dataclass(frozen=True, slots=True)
class Site:
    """One place where neurons fire.

    Attributes:
        path: the module that answers with them, or that is called with them.
        side: which of both.
        channels: dimension that holds the neurons.
    """

    path: str
    side: str
    channels: int


class Activity:
    """What each of ``K`` neurons does: mean, variance, mean size, how often it is not positive.

    Args:
        width: ``K``.
    """

    def __init__(self, width: int) -> None:
        self.moments = Moments((width,))
        self.sizes = torch.zeros(width, dtype=torch.float64)
        self.idle = torch.zeros(width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Adds tokens ``[M, K]``; those that are not finite are left out."""
        rows = wide(rows)
        if (finite := finite_rows(rows)) is not None:
            rows = rows[finite]
        if len(rows):
            mean = rows.mean(0)
            self.sizes += rows.abs().sum(0).cpu()
            self.idle += _how_many(rows <= 0).cpu()
            self.moments.combine(len(rows), mean.cpu(), column_squares(rows - mean).cpu())

    def merge(self, other: "Activity") -> None:
        """Adds what ``other`` has seen."""
        self.moments.merge(other.moments)
        self.sizes += other.sizes
        self.idle += other.idle

    def summary(self, tau: float) -> dict[str, Tensor]:
        """Returns columns of ``[K]`` values; see :class:`NeuronActivation`."""
        count = max(self.moments.count, 1)
        mean, sizes = self.moments.mean, self.sizes / count
        variance = self.moments.variance.nan_to_num() * (count - 1) / count
        return {
            "apoz": self.idle / count,
            "dormant": (sizes <= tau * sizes.mean()).double(),
            "hidden_mean": mean,
            "hidden_square": variance + mean.square(),
        }

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        return {**self.moments.state(), "sizes": self.sizes.clone(), "idle": self.idle.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Activity":
        """Returns what :meth:`state` was taken of."""
        activity = cls(len(state["mean"]))
        activity.moments = Moments.from_state(state)
        activity.sizes, activity.idle = state["sizes"].clone(), state["idle"].clone()
        return activity


def _how_many(flags: Tensor) -> Tensor:
    """Returns how many are true in each column, ``[D]``."""
    if flags.device.type != "cpu":
        return flags.sum(0)
    # numpy: short integers are added many at a time
    return torch.from_numpy(np.add.reduce(flags.numpy().view(np.uint8), axis=0, dtype=np.int32))


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module without children maps every number on its own, and not by a straight line.

    No names: it is asked what it does to eight numbers.
    """
    if next(module.children(), None) is not None:
        return False
    parameter = next(module.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    device = "cpu" if parameter is None else parameter.device
    x = torch.linspace(-3, 3, 8, dtype=dtype, device=device)
    other = x.clone()
    other[0] = 2.5
    try:
        y, z, twice, turned, zero = (module(v.clone()) for v in (x, other, 2 * x, -x, 0 * x))
        alone = y.shape == x.shape and torch.equal(y[1:], z[1:])
        y, twice, turned = y - zero, twice - zero, turned - zero
        straight = torch.allclose(twice, 2 * y, atol=1e-6) and torch.allclose(turned, -y, atol=1e-6)
        return bool(alone and not straight)
    except Exception:  # whatever a module says that takes no vector
        return False


def sites(subject: Subject) -> dict[str, list[Site]]:
    """Returns where neurons fire in each unit, by the unit's path: one look at it running.

    That is what elementwise modules answer, inside the unit or right behind it if it is a single
    layer, and where a nonlinear function is called instead, what the layer behind it is called
    with.
    """
    with preserved(subject.model, gradients=False):
        search = _Search(subject)
        with _Fires(search.fired):
            subject.forward(subject.some(subject.first, 2))
    return search.found


class _Search:
    """Hooks that see which modules answer with, or are called with, what a nonlinearity gave.

    Made inside of :func:`preserved`, which takes them off.
    """

    def __init__(self, subject: Subject) -> None:
        self.paths = {unit.path for unit in subject.units}
        self.found: dict[str, list[Site]] = {}
        # alive, so that identities stay unique
        self.fired: dict[int, Tensor] = {}
        self._made: dict[int, tuple[Tensor, str]] = {}
        self._channels = -1
        for path, module in subject.model.named_modules():
            if is_elementwise(module):
                module.register_forward_hook(self._fires(path))
            elif next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(self._enters(path), with_kwargs=True)
                module.register_forward_hook(self._made_by(path))

    def _fires(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            del module
            self.fired.pop(id(output), None)  # the module speaks for the function it calls
            _, maker = self._made.get(id(args[0]) if args else 0, (None, ""))
            units = {unit for unit in self.paths if path.startswith(unit + ".")}
            self._note(Site(path, "output", self._channels), units | ({maker} & self.paths))

        return hook

    def _enters(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = stream((args, kwargs))
            if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
                self._channels = 1 if isinstance(module, _CONVOLUTIONS) else -1
                if x is not None and id(x) in self.fired:
                    units = {unit for unit in self.paths if path.startswith(unit + ".")}
                    self._note(Site(path, "input", self._channels), units)

        return hook

    def _made_by(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            del module, args
            if isinstance(output, Tensor):
                self._made[id(output)] = output, path

        return hook

    def _note(self, site: Site, units: set[str]) -> None:
        for unit in units:
            if site not in self.found.setdefault(unit, []):
                self.found[unit].append(site)


class _Fires(TorchFunctionMode):
    """Notes what nonlinear functions answer."""

    def __init__(self, fired: dict[int, Tensor]) -> None:
        super().__init__()
        self._fired = fired

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if func in _FUNCTIONS and isinstance(answer, Tensor):
            self._fired[id(answer)] = answer
        return answer
