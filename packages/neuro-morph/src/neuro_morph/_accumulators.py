"""Sums over examples in float64 that do not depend on how the examples come in batches."""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from neuro_morph._group_statistics import GroupStatistics, ReaderStatistics
from neuro_morph._groups import GrowthGroup
from neuro_morph._patches import (
    UnalignedError,
    flattened_grid,
    input_grid,
    kept_positions,
    output_grid,
    output_rows,
    patches,
    resized,
)
from neuro_morph._tapping import Tap
from neuro_morph._unit_layers import UnitLayer

_NUMBERS = 1 << 22  # that are unfolded at a time


@dataclass(frozen=True)
class Limits:
    """How much of the examples is looked at.

    Attributes:
        positions: positions of a layer's output in each example.
        features: rows of a moment matrix; larger ones are not formed.
        samples: examples whose units are kept themselves.
    """

    positions: int = 32
    features: int = 2048
    samples: int = 512


@dataclass
class Sums:
    """Named sums; the first term of each makes it."""

    held: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, term: Tensor) -> None:
        """Adds a term."""
        self.held[name] = self.held[name] + term if name in self.held else term

    def mean(self, name: str, count: float) -> Tensor | None:
        """Returns a sum over a count, None if nothing was added."""
        return self.held[name] / count if name in self.held else None


class GroupSums:
    """The sums of one group."""

    def __init__(
        self,
        group: GrowthGroup,
        maker: UnitLayer | None,
        readers: list[UnitLayer],
        limits: Limits,
        why: str | None,
    ) -> None:
        self.group, self.maker, self.readers, self.limits = group, maker, readers, limits
        self.why = why
        self.own, self.by_reader = Sums(), [Sums() for _ in readers]
        self.rows = 0  # of units
        self.samples: list[Tensor] = []
        self.inputs: list[Tensor] = []

    @property
    def paths(self) -> list[str]:
        """The layers that have to be listened to."""
        made = [self.maker.path] if self.maker is not None else []
        return [*made, *(reader.path for reader in self.readers)]

    def add(self, taps: dict[str, Tap], examples: int) -> None:
        """Adds a batch."""
        self._add_units(taps[self.readers[0].path], examples)
        if self.maker is not None:
            self._add_maker(self.maker, taps[self.maker.path], examples)
        for reader, sums in zip(self.readers, self.by_reader, strict=True):
            self._add_reader(reader, sums, taps, examples)

    def done(self, examples: int, targets: Tensor | None) -> GroupStatistics:
        """Returns the means."""
        mean, second = (self.own.mean(n, self.rows) for n in ("unit_mean", "unit_second"))
        taylor = self.own.mean("taylor", examples)
        assert mean is not None
        assert second is not None
        assert taylor is not None
        return GroupStatistics(
            id=self.group.id,
            size=self.group.size,
            unit_cost=self.group.unit_cost,
            examples=examples,
            maker=self.maker,
            readers=[
                _reader(r, s, examples) for r, s in zip(self.readers, self.by_reader, strict=True)
            ],
            x_x=self.own.mean("x_x", examples),
            unit_mean=mean,
            unit_second=second,
            gradient_mean=self.own.mean("gradient_mean", examples),
            gradient_second=self.own.mean("gradient_second", examples),
            taylor=taylor,
            samples=torch.cat(self.samples)[: self.limits.samples],
            inputs=torch.cat(self.inputs)[: self.limits.samples] if self.inputs else None,
            targets=targets,
            why_no_maker=self.why,
        )

    def _add_units(self, tap: Tap, examples: int) -> None:
        reader = self.readers[0]
        units, grads = (_units(reader, each, examples) for each in (tap.x, tap.x_grad))
        self.own.add("taylor", (units * grads).sum(1).square().sum(0))
        self.samples.append(units.mean(1))
        at, _ = kept_positions(units.shape[1], self.limits.positions)
        rows = units[:, at].flatten(0, 1)
        self.rows += len(rows)
        self.own.add("unit_mean", rows.sum(0))
        self.own.add("unit_second", rows.T @ rows)

    def _add_maker(self, maker: UnitLayer, tap: Tap, examples: int) -> None:
        made = output_rows(maker.module, tap.out_grad)[..., maker.places[:, 0]]
        self.inputs.append(_per_example(_channels(maker.module, tap.x), examples).mean(1))
        at, weight = kept_positions(made.shape[1], self.limits.positions)
        whole = made.shape[1] == 1  # then no example's gradient has to be formed
        numbers = made.shape[1] * _width(maker) + (0 if whole else made.shape[2] * _width(maker))
        for part in _chunks(len(tap.x), numbers):
            x = features_of(maker, tap.x[part])
            kept = x[:, at].flatten(0, 1)
            self.own.add("x_x", weight * kept.T @ kept)
            if len(tap.x) == examples:
                self._add_gradients(-made[part].double(), x)

    def _add_gradients(self, g: Tensor, x: Tensor) -> None:
        """Adds examples' gradients and their squares, ``[n, positions, C]`` and ``[.., X]``."""
        self.own.add("gradient_mean", torch.einsum("npo,npf->of", g, x))
        if g.shape[1] == 1:
            self.own.add("gradient_second", g[:, 0].square().T @ x[:, 0].square())
        else:
            self.own.add("gradient_second", (g.mT @ x).square().sum(0))

    def _add_reader(
        self, reader: UnitLayer, sums: Sums, taps: dict[str, Tap], examples: int
    ) -> None:
        tap, module = taps[reader.path], reader.module
        grads = -output_rows(module, tap.out_grad).double()
        at, weight = kept_positions(grads.shape[1], self.limits.positions)
        narrow = _width(reader) <= self.limits.features
        made = 0 if self.maker is None else _width(self.maker) * reader.places.shape[1]
        numbers = len(at) * (_width(reader) + made * _kernel(reader))
        for part in _chunks(len(tap.x), numbers):
            g = grads[part][:, at]
            sums.add("g_g", weight * torch.einsum("npo,npq->oq", g, g))
            h = features_of(reader, tap.x[part], at) if narrow else None
            if h is not None:
                rows = h.flatten(0, 1)
                sums.add("h_h", weight * (rows.T @ rows))
                sums.add("h_g", weight * (rows.T @ g.flatten(0, 1)))
            if self.maker is not None:
                x = self.laid_over(self.maker, reader, taps, part, at)
                sums.add("x_g", weight * torch.einsum("npfk,npo->fok", x, g))
                if h is not None and x.shape[2] * x.shape[3] <= self.limits.features:
                    sums.add("x_h", weight * torch.einsum("npfk,npe->fke", x, h))

    def laid_over(
        self, maker: UnitLayer, reader: UnitLayer, taps: dict[str, Tap], part: slice, at: Tensor
    ) -> Tensor:
        """Returns what a unit would be made from where it would be read: ``[n, at, X, places]``."""
        tap, its = taps[maker.path], taps[reader.path]
        if len(tap.x) != len(its.x):
            raise UnalignedError(f"{maker.path!r} and {reader.path!r} see other batches")
        x, grid = features_of(maker, tap.x[part]), output_grid(maker.module, tap.out)
        wanted, places = input_grid(reader.module, its.x), reader.places.shape[1]
        if isinstance(reader.module, nn.Linear):
            if places > 1 and prod(wanted) == 1:  # maps that were flattened
                return resized(x, grid, flattened_grid(grid, places)).mT[:, None]
            return resized(x, grid, wanted)[:, at, :, None]
        maps = resized(x, grid, wanted).mT.reshape(len(x), -1, *wanted)
        return patches(reader.module, maps, at)


def _reader(layer: UnitLayer, sums: Sums, count: int) -> ReaderStatistics:
    mean = {name: sums.mean(name, count) for name in ("h_h", "h_g", "g_g", "x_g", "x_h")}
    assert mean["g_g"] is not None
    return ReaderStatistics(layer, **mean)  # type: ignore[arg-type]


def features_of(layer: UnitLayer, x: Tensor, at: Tensor | None = None) -> Tensor:
    """Returns ``[n, positions, features]``, a 1 behind them where there is a bias."""
    rows = patches(layer.module, x.double(), at).flatten(2)
    if layer.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], -1)


def _width(layer: UnitLayer) -> int:
    weight: Tensor = layer.module.weight  # type: ignore[assignment]
    return weight[0].numel() + (layer.bias is not None)


def _kernel(layer: UnitLayer) -> int:
    weight: Tensor = layer.module.weight  # type: ignore[assignment]
    return weight[0, 0].numel()


def _channels(module: nn.Module, x: Tensor) -> Tensor:
    last = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
    return last.reshape(len(x), prod(last.shape[1:-1]), last.shape[-1]).double()


def _units(reader: UnitLayer, x: Tensor, examples: int) -> Tensor:
    """Returns the units that a layer reads: ``[examples, positions, C]``."""
    held = _channels(reader.module, x)[..., reader.places]  # [n, positions, C, places]
    return _per_example(held.transpose(2, 3).flatten(1, 2), examples)


def _per_example(rows: Tensor, examples: int) -> Tensor:
    """Returns rows that came cut up (windows of an image) as rows of their examples."""
    if len(rows) == examples or rows.shape[0] * rows.shape[1] % examples:
        return rows
    return rows.reshape(examples, -1, rows.shape[-1])


def _chunks(count: int, numbers: int) -> list[slice]:
    """Returns parts of so many examples of ``numbers`` each that they fit."""
    step = max(_NUMBERS // max(numbers, 1), 1)
    return [slice(start, start + step) for start in range(0, count, step)]
