"""A layer that is put behind a module of a network."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from neuro_morph._blocks import (
    NORMS,
    BlockShape,
    copy_of,
    identity_layer,
    like_of,
    measure_norms,
    residual_block,
)
from neuro_morph._edit import Performed, Site
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._features import feature_axis
from neuro_morph._inserting import Insertion, insert
from neuro_morph._joined import check_joined
from neuro_morph._memory import check_fits
from neuro_morph._trunk import Branches, Trace, why_negative
from neuro_morph._undo import UndoLog
from neuro_morph._visits import Visit, visits_of


class Settings(Protocol):
    """What is asked of a new layer (see ``Deepen``)."""

    @property
    def hidden(self) -> int | None: ...
    @property
    def norm(self) -> bool | None: ...
    @property
    def kernel(self) -> int: ...
    @property
    def activation(self) -> str: ...


@dataclass(frozen=True)
class Made:
    """A layer that can be made.

    Attributes:
        make: makes it.
        kind: what it is: ``"copy"``, ``"identity"``, ``"residual"`` or a class of one's own.
        shape: what it is made for, None for copies and classes of one's own.
    """

    make: Callable[[], nn.Module]
    kind: str
    shape: BlockShape | None = None


class Deepening:
    """A layer being put behind a module."""

    def __init__(self, site: Site, edit: Settings, after: str) -> None:
        self.site, self.edit, self.after = site, edit, after
        self.visit = self._visited()
        self.module = site.model.get_submodule(after)

    def made(self, kind: str | nn.Module) -> Made:
        """Returns what makes the layer.

        Raises:
            GrowthRefusedError: if a layer of that kind would change what the network computes.
        """
        if isinstance(kind, nn.Module):
            return Made(partial(copy.deepcopy, kind), type(kind).__name__)
        if kind == "copy":
            return Made(partial(self._copy, self._zeros()), kind)
        shape = self._shape(kind)
        if kind == "identity":
            self._check_rectified()
            return Made(partial(self._identity, shape), kind, shape)
        return Made(partial(self._residual, shape), kind, shape)

    def perform(self, made: Made, where: Insertion, log: UndoLog) -> Performed:
        """Puts the layer in its place."""
        with torch.random.fork_rng(devices=()):
            block = made.make().train(self.module.training)
        path = insert(self.site.model, where, block, log, whole=made.kind == "copy")
        added = dict(block.named_parameters())
        check_joined(self.site.model, block, self.site.inputs, added.values())
        lead = f"{path}.block" if where.place == "hook" else path
        shape = asdict(made.shape) if made.shape is not None else None
        recipe = {"kind": made.kind, "shape": shape, "where": asdict(where)}
        joining = {f"{lead}.{n}": self.after for n in added}
        return Performed(added=joining, recipe=recipe, note=self._note(made))

    def _note(self, made: Made) -> str | None:
        """Returns what an identity does otherwise in training mode, None if nothing."""
        if made.kind != "identity" or made.shape is None or made.shape.norm is None:
            return None
        count = self._x.numel() // made.shape.features
        return (
            "in training mode the output changes: the new batch normalisation begins with what it "
            f"gets on the example inputs, {count} values of each feature, and then goes by batches"
        )

    def _visited(self) -> Visit:
        visit = visits_of(self.site.model, self.site.inputs, [self.after]).get(self.after)
        if visit is None:
            raise GrowthRefusedError(f"{self.after!r} is not called by the model")
        if visit.output is None or not visit.output.is_floating_point():
            raise GrowthRefusedError(f"{self.after!r} gives no tensor of floating point numbers")
        if visit.calls > 1:
            raise GrowthRefusedError(f"{self.after!r} is called {visit.calls} times in one run")
        return visit

    @property
    def _x(self) -> Tensor:
        assert self.visit.values is not None
        return self.visit.values

    def _shape(self, kind: str) -> BlockShape:
        axis = feature_axis(self.site.model, self.site.graph, self.after, self._x.shape)
        last = self._x.dim() - 1
        if self._x.dim() < 2 or (axis != last and (axis != 1 or last > 4)):
            raise GrowthRefusedError(
                f"{self.after!r} gives a tensor of shape {tuple(self._x.shape)} with its features "
                f"on axis {axis}: no layer is known for that"
            )
        dims = 0 if axis == last else last - 1
        features = self._x.shape[axis]
        shape = BlockShape(features, dims, self.edit.hidden or features, None, self.edit.kernel)
        return replace(shape, activation=self.edit.activation, norm=self._norm(kind, shape))

    def _norm(self, kind: str, shape: BlockShape) -> str | None:
        batch = shape.dims > 0 or self._x.dim() == 2
        fits = NORMS[shape.dims] if batch else nn.LayerNorm
        present = any(isinstance(module, fits) for module in self.site.model.modules())
        wanted = self.edit.norm
        if not (present and kind != "identity" if wanted is None else wanted):
            return None
        return "batch" if batch else ("layer" if kind == "residual" else None)

    def _check_rectified(self) -> None:
        trace = Trace(self.site.graph.program)
        ref = trace.output_of(self.after, self._x.shape)
        why = "it is not in the program" if ref is None else why_negative(trace, ref)
        if why is not None:
            raise GrowthRefusedError(
                f"an identity layer behind {self.after!r} would change what follows: its output "
                f"must come from a ReLU, but {why}; block='residual' can be put anywhere"
            )

    def _identity(self, shape: BlockShape) -> nn.Module:
        block = self._like(identity_layer(shape))
        measure_norms(block, self._x, keep=True)
        return block

    def _residual(self, shape: BlockShape) -> nn.Module:
        entries = 2 * shape.hidden * shape.features * shape.kernel**shape.dims
        check_fits(f"a layer behind {self.after!r} with {shape.hidden} units inside", 4 * entries)
        block = self._like(residual_block(shape, self.site.generator))
        measure_norms(block, self._x, keep=False)
        return block

    def _zeros(self) -> list[str]:
        """Returns the last projections of a block's branches, by their names in the block."""
        trace = Trace(self.site.graph.program)
        branches = Branches(trace, self.after)
        ref = trace.output_of(self.after, self._x.shape)
        found = branches.last_projections(ref) if ref is not None and self.after else None
        lead = f"{self.after}."
        alien = [name for name in found or () if not name.startswith(lead)]
        if alien or not found:
            why = f"ends in {alien[0]!r}" if alien else f"is made by {branches.blocked}"
            raise GrowthRefusedError(
                f"a copy of {self.after!r} cannot begin as the identity: it must add branches with "
                f"projections of their own to its input, but its output {why}"
            )
        return [name.removeprefix(lead) for name in found]

    def _copy(self, zeros: list[str]) -> nn.Module:
        block = copy_of(self.module)
        with torch.no_grad():
            for name in zeros:
                block.get_parameter(name).zero_()
        return block

    def _like(self, block: nn.Module) -> nn.Module:
        """Returns a block in the dtype and on the device of its neighbours."""
        return block.to(like_of(self.module, self.site.model, self._x))
