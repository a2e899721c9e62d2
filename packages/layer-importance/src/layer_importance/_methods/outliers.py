"""How many of a unit's weights stand out, weighted by what they are multiplied with."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from layer_importance._branch import real_places, spread_places
from layer_importance._comoments import column_squares, finite_rows, wide
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._moments import Moments
from layer_importance._scores import Direction, MethodScores, Score
from layer_importance._structure import stream
from layer_importance._subject import Subject
from layer_importance._weights import input_dimension


class Squares:
    """Sum of squares of each feature over tokens.

    Args:
        width: number of features.
    """

    def __init__(self, width: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.sums = torch.zeros(width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Adds tokens ``[M, width]``; those that are not finite are left out."""
        rows = wide(rows)
        if (finite := finite_rows(rows)) is not None:
            rows = rows[finite]
        self.count = self.count + len(rows)
        self.sums = self.sums + column_squares(rows).cpu()

    def merge(self, other: "Squares") -> None:
        """Adds what ``other`` has seen."""
        self.count, self.sums = self.count + other.count, self.sums + other.sums

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        return {"count": self.count.clone(), "sums": self.sums.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Squares":
        """Returns what :meth:`state` was taken of."""
        squares = cls(len(state["sums"]))
        squares.count, squares.sums = state["count"].clone(), state["sums"].clone()
        return squares


class Outliers(KeyedMethod):
    """Share of weights with ``|W_ij| |x_j|`` above ``factor`` times the mean over the unit.

    ``|x_j|`` is the root mean square of the input's feature ``j`` over real tokens, or 64 places of
    a map; all linear and convolution layers of the unit count together. 0 means that no weight
    stands out. Units with more of them suffer more from having small weights cut away; whether the
    whole unit can go it does not say (one whose last matrix is zero may have any share), so that it
    is a diagnostic. The standard error cannot be known from the sums.

    ``share_3`` to ``share_10`` are the shares for other factors.

    Source: the product: Sun et al., Wanda, arXiv 2306.11695, eq. 1; the share: Yin et al., OWL,
    arXiv 2310.05175, eq. 1.

    Args:
        factor: how many times the mean an outlier is.
    """

    name = "outliers"
    direction: ClassVar[Direction] = "diagnostic"
    kinds: ClassVar[Kinds] = {"squares": Squares, "samples": Moments}
    _FACTORS: ClassVar[tuple[int, ...]] = (3, 7, 10)

    def __init__(self, *, factor: float = 5.0) -> None:
        super().__init__()
        if not factor > 0:
            raise ValueError(f"factor must be positive, got {factor}")
        self.factor = factor
        self._layers: dict[str, tuple[nn.Module, int]] = {}

    def begin(self, subject: Subject) -> None:
        """Finds the layers that multiply their input by a weight."""
        super().begin(subject)
        inside = {unit.path for unit in subject.units}
        for path, module in subject.model.named_modules():
            if any(path == unit or path.startswith(unit + ".") for unit in inside):
                side = input_dimension(module)
                if side is not None and not module.weight.is_meta:
                    self._layers[path] = module, side

    def before(self, batch: Any) -> None:
        """Counts the samples of a batch."""
        super().before(batch)
        self.kept("all", "samples", Moments).add(torch.zeros(len(self._sample_keys)))

    def hooks(self, subject: Subject) -> list[RemovableHandle]:
        """Hooks on the inputs of the layers."""
        handles = [self.until_the_end(subject)]
        for path, (module, side) in self._layers.items():
            width = _width(module, side)
            layout = subject.layouts.get(path)
            axis = 0 if layout is None else max(layout.x_axis, 0)
            tower = next(
                u.tower for u in subject.units if path == u.path or path.startswith(u.path + ".")
            )
            hook = self._hears(path, width, axis, tower)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return handles

    def _hears(self, path: str, width: int, axis: int, tower: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = stream((args, kwargs))
            if x is None or not self.forward:
                return
            x = x.detach().movedim(axis, 0) if axis else x.detach()
            known = self._known(module, x, tower)
            if known is not None:
                rows = real_places(x, known) if isinstance(module, _ConvNd) else x[known]
            elif isinstance(module, _ConvNd):
                channels = 1 if x.ndim == module.weight.ndim else 0  # one sample without a batch
                places = spread_places(x.flatten(channels + 1))
                rows = places.movedim(channels, -1).reshape(-1, width)
            else:
                rows = x.reshape(-1, x.shape[-1])
            self.kept(path, "squares", lambda: Squares(width)).add(rows)

        return hook

    def _known(self, module: nn.Module, x: Tensor, tower: str) -> Tensor | None:
        """Which tokens of what a layer is called with are real, ``[N, T]``."""
        if x.ndim != 3 or (isinstance(module, _ConvNd) and module.weight.ndim != 3):
            return None
        known = self.mask(x.shape[-1 if isinstance(module, _ConvNd) else 1], tower)
        return None if known is None or len(known) != len(x) else known

    def scores(self) -> MethodScores:
        """Shares of outliers of every unit with a layer that was heard."""
        found = self.found("squares")
        scores: dict[str, Score] = {}
        missing: dict[str, str] = {}
        extras: dict[str, dict[str, float]] = {f"share_{f}": {} for f in self._FACTORS}
        assert self._subject is not None
        for unit in self._subject.units:
            inside = [p for p in found if p == unit.path or p.startswith(unit.path + ".")]
            sizes = [self._sizes(path, found[path]) for path in inside if found[path].count > 0]
            if not sizes:
                missing[unit.name] = "has no linear or convolution layer that was run"
                continue
            all_, seen = torch.cat(sizes), self.found("samples")["all"].count
            scores[unit.name] = Score(share(all_, self.factor), samples=seen)
            for factor in self._FACTORS:
                extras[f"share_{factor}"][unit.name] = share(all_, factor)
        return self.result(scores, extras, missing)

    def _sizes(self, path: str, squares: Squares) -> Tensor:
        """Every ``|W_ij| |x_j|`` of a layer."""
        module, side = self._layers[path]
        assert isinstance(module.weight, Tensor)
        W = wide(module.weight).abs().cpu()
        inputs = (squares.sums / squares.count).sqrt()
        if isinstance(module, _ConvNd):
            return _by_group(W, inputs, module.groups, side).flatten()
        return (W * (inputs[:, None] if side == 0 else inputs)).flatten()


def share(sizes: Tensor, factor: float) -> float:
    """Returns the share of entries above ``factor`` times the mean of all."""
    return float((sizes > factor * sizes.mean()).double().mean())


def _width(module: nn.Module, side: int) -> int:
    if isinstance(module, _ConvNd):
        return module.in_channels
    return int(module.weight.shape[side])  # type: ignore[index]


def _by_group(W: Tensor, inputs: Tensor, groups: int, side: int) -> Tensor:
    """Sizes of a convolution: each group meets its own channels."""
    if side == 0:  # transposed: [c_in, c_out / groups, ...]
        return W.flatten(1) * inputs[:, None]
    grouped = W.reshape(groups, -1, W.shape[1], W[0, 0].numel())
    return grouped * inputs.reshape(groups, 1, W.shape[1], 1)
