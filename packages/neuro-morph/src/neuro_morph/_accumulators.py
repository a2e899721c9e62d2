"""Sums over examples in float64, of products in the precision that their use asks for."""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from neuro_morph._group_statistics import (
    GAINS,
    GRADIENTS,
    PARTS,
    GroupStatistics,
    ReaderStatistics,
)
from neuro_morph._groups import GrowthGroup
from neuro_morph._layer_rows import (
    channels_of,
    chunks,
    features_of,
    gram,
    kernel_of,
    per_example,
    precise,
    units_read,
    width_of,
)
from neuro_morph._patches import (
    UnalignedError,
    flattened_grid,
    input_grid,
    kept_positions,
    output_grid,
    output_rows,
    patches,
    resized,
    summed_patches,
)
from neuro_morph._tapping import Tap
from neuro_morph._unit_layers import UnitLayer


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
        if name in self.held:
            self.held[name] += term
        else:
            self.held[name] = term.double()

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
        parts: frozenset[str] = frozenset(PARTS),
    ) -> None:
        self.group, self.maker, self.readers, self.limits = group, maker, readers, limits
        self.why, self.parts = why, parts
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
        if self.maker is not None and self.parts:
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
            maker=self.maker if GAINS in self.parts else None,
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
            why_no_maker=self.why if GAINS in self.parts else "gains were not measured",
        )

    def _add_units(self, tap: Tap, examples: int) -> None:
        reader = self.readers[0]
        units, grads = (units_read(reader, each, examples) for each in (tap.x, tap.x_grad))
        self.own.add("taylor", (units * grads).sum(1).double().square().sum(0))
        self.samples.append(units.mean(1).double())
        at, _ = kept_positions(units.shape[1], self.limits.positions)
        rows = units[:, at].flatten(0, 1).double()  # variances are differences of these
        self.rows += len(rows)
        self.own.add("unit_mean", rows.sum(0))
        self.own.add("unit_second", gram(rows))

    def _add_maker(self, maker: UnitLayer, tap: Tap, examples: int) -> None:
        made = output_rows(maker.module, tap.out_grad)[..., maker.places[:, 0]]
        held = per_example(channels_of(maker.module, tap.x), examples)
        self.inputs.append(held.mean(1).double())
        at, weight = kept_positions(made.shape[1], self.limits.positions)
        gradients = GRADIENTS in self.parts and len(tap.x) == examples
        whole = made.shape[1] == 1  # then no example's gradient has to be formed
        numbers = made.shape[1] * width_of(maker) + (
            0 if whole else made.shape[2] * width_of(maker)
        )
        for part in chunks(len(tap.x), numbers):
            x = features_of(maker, tap.x[part], None if gradients else at)
            if GAINS in self.parts:
                kept = (x[:, at] if gradients else x).flatten(0, 1).double()
                self.own.add("x_x", weight * gram(kept))
            if gradients:
                self._add_gradients(-precise(made[part]), x)

    def _add_gradients(self, g: Tensor, x: Tensor) -> None:
        """Adds examples' gradients and their squares, ``[n, positions, C]`` and ``[.., X]``."""
        if g.shape[1] == 1:
            g, x = g[:, 0], x[:, 0]
            self.own.add("gradient_mean", g.T @ x)
            self.own.add("gradient_second", g.square().T @ x.square())
        else:
            each = g.mT @ x
            self.own.add("gradient_mean", each.sum(0, dtype=torch.float64))
            self.own.add("gradient_second", each.square_().sum(0, dtype=torch.float64))

    def _add_reader(
        self, reader: UnitLayer, sums: Sums, taps: dict[str, Tap], examples: int
    ) -> None:
        tap, module = taps[reader.path], reader.module
        grads = -precise(output_rows(module, tap.out_grad))
        at, weight = kept_positions(grads.shape[1], self.limits.positions)
        maker = self.maker if GAINS in self.parts else None
        kernel = kernel_of(reader)
        made = 0 if maker is None else width_of(maker) * reader.places.shape[1] * kernel
        residual = maker is not None and max(width_of(reader), made) <= self.limits.features
        whole = kernel > 1 and not residual  # then patches have not to be formed
        numbers = made if whole else len(at) * (residual * width_of(reader) + made)
        for part in chunks(len(tap.x), numbers):
            g = grads[part][:, at].flatten(0, 1)
            sums.add("g_g", weight * (g.T @ g))
            if maker is None:
                continue
            if whole:
                maps = self._maps(maker, reader, taps, part)
                sums.add("x_g", summed_patches(module, maps, grads[part]))
                continue
            x = self.laid_over(maker, reader, taps, part, at)
            each, shape = x.flatten(0, 1).flatten(1), x.shape[2:]
            if residual:  # a difference that an inverse is in
                each, g = each.double(), g.double()
            x_g = weight * (each.T @ g)
            sums.add("x_g", x_g.unflatten(0, shape).transpose(1, 2))
            if residual:
                rows = features_of(reader, tap.x[part], at).flatten(0, 1).double()
                sums.add("h_h", weight * gram(rows))
                sums.add("h_g", weight * (rows.T @ g))
                sums.add("x_h", weight * (each.T @ rows).unflatten(0, shape))

    def laid_over(
        self, maker: UnitLayer, reader: UnitLayer, taps: dict[str, Tap], part: slice, at: Tensor
    ) -> Tensor:
        """Returns what a unit would be made from where it would be read: ``[n, at, X, places]``."""
        tap, its = taps[maker.path], taps[reader.path]
        if not isinstance(reader.module, nn.Linear):
            return patches(reader.module, self._maps(maker, reader, taps, part), at)
        x, grid = self._made(maker, reader, taps, part), output_grid(maker.module, tap.out)
        wanted, places = input_grid(reader.module, its.x), reader.places.shape[1]
        if places > 1 and prod(wanted) == 1:  # maps that were flattened
            return resized(x, grid, flattened_grid(grid, places)).mT[:, None]
        return resized(x, grid, wanted)[:, at, :, None]

    def _maps(
        self, maker: UnitLayer, reader: UnitLayer, taps: dict[str, Tap], part: slice
    ) -> Tensor:
        """Returns what a unit would be made from as maps of a convolution's input."""
        x, wanted = (
            self._made(maker, reader, taps, part),
            input_grid(reader.module, taps[reader.path].x),
        )
        maps = resized(x, output_grid(maker.module, taps[maker.path].out), wanted)
        return maps.mT.reshape(len(x), -1, *wanted)

    def _made(
        self, maker: UnitLayer, reader: UnitLayer, taps: dict[str, Tap], part: slice
    ) -> Tensor:
        tap, its = taps[maker.path], taps[reader.path]
        if len(tap.x) != len(its.x):
            raise UnalignedError(f"{maker.path!r} and {reader.path!r} see other batches")
        return features_of(maker, tap.x[part])


def _reader(layer: UnitLayer, sums: Sums, count: int) -> ReaderStatistics:
    mean = {name: sums.mean(name, count) for name in ("h_h", "h_g", "g_g", "x_g", "x_h")}
    assert mean["g_g"] is not None
    return ReaderStatistics(layer, **mean)  # type: ignore[arg-type]
