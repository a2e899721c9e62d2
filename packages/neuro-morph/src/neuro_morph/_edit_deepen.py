"""The edit that gives a network another layer."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._blocks import (
    ACTIVATIONS,
    NORMS,
    BlockShape,
    identity_layer,
    measure_norms,
    residual_block,
)
from neuro_morph._edit import Performed, Site, Variant
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._features import feature_axis
from neuro_morph._grafts import last_of, without_grafts
from neuro_morph._inserting import Insertion, insert, insertions
from neuro_morph._joined import check_joined
from neuro_morph._trunk import Branches, Trace, why_negative
from neuro_morph._undo import UndoLog
from neuro_morph._visits import Visit, module_at, visits_of

BLOCKS = ("auto", "copy", "identity", "residual")


@dataclass(frozen=True)
class Deepen:
    """Puts another layer behind a module, so that the network computes what it did.

    ``"identity"``: a layer that is the identity and a ReLU. It changes nothing where the module's
    output cannot be negative, ``relu(I relu(x)) = relu(x)``; with batch normalisation its scale is
    ``sqrt(var + eps)`` and its shift the mean of what it gets on the example inputs, so that in
    evaluation mode it gives what it gets. ``"residual"``: ``x + f(x)`` with the last projection of
    ``f`` zero, behind anything. ``"copy"``: a copy of the module, if that adds branches to its
    input (a residual or a pre-norm transformer block), with the last projection of each branch
    zero. ``"auto"`` takes the first of copy, identity, residual that can be.

    In ``nn.Sequential`` and ``nn.ModuleList`` the layer is put in behind the module; elsewhere it
    is registered under ``grown`` and follows the module by a hook. New parameters join the
    parameter groups of the optimizer that those of the module are in.

    Args:
        after: the path of the module; the last one in it if it is a container.
        block: ``"auto"``, ``"copy"``, ``"identity"``, ``"residual"``, or a module that begins as
            the identity.
        hidden: features inside a residual block; None for as many as come in.
        norm: whether the layer has a normalisation; None if the model has one of the kind that
            fits.
        kernel: the width of kernels, odd.
        activation: of a residual block: ``"relu"``, ``"gelu"``, ``"silu"``, ``"tanh"``.

    Raises:
        ValueError: for an unknown block or activation, an even kernel, no hidden features.

    Example:
        >>> import torch
        >>> from neuro_morph import Deepen, Morpher
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ... )
        >>> event = Morpher(model, example_inputs=torch.ones(1, 4)).apply(Deepen("1"))
        >>> [name for name, _ in model.named_children()], event.parameters_added
        (['0', '1', '1_1', '2'], 72)

    Source: Chen, Goodfellow, Shlens, Net2Net (arXiv:1511.05641), section 2.2, for the identity;
    Wu et al., LLaMA Pro (arXiv:2401.02415), for copies with zero projections.
    """

    after: str
    block: str | nn.Module = "auto"
    hidden: int | None = None
    norm: bool | None = None
    kernel: int = 3
    activation: str = "relu"
    op: str = field(default="deepen", init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.block, nn.Module) and self.block not in BLOCKS:
            known = ", ".join(repr(each) for each in BLOCKS)
            raise ValueError(f"block must be a module or one of {known}, got {self.block!r}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 1, got {self.kernel}")
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(repr(each) for each in ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}, got {self.activation!r}")

    @property
    def target(self) -> str:
        """The path of the module that the layer follows."""
        return self.after

    def detail(self) -> dict[str, Any]:
        """Returns the settings, as JSON can hold them."""
        named = self.block if isinstance(self.block, str) else type(self.block).__name__
        kept = ("hidden", "norm", "kernel", "activation")
        return {"block": named, **{name: getattr(self, name) for name in kept}}

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields ways to carry it out: kinds of layers, and for each the places it can go."""
        module_at(site.model, self.after, "after")
        work = _Deepening(site, self, last_of(site.model, self.after))
        kinds = ("copy", "identity", "residual") if self.block == "auto" else (self.block,)
        refusals: list[str] = []
        for kind in kinds:
            try:
                make = work.maker(kind)
            except GrowthRefusedError as refusal:
                refusals.append(str(refusal))
                continue
            for where in insertions(site.model, work.after):
                yield partial(work.perform, make, where, whole=kind == "copy")
        if len(refusals) == len(kinds):
            raise GrowthRefusedError("; ".join(refusals))


Make = Callable[[], nn.Module]


class _Deepening:
    """A layer being put behind a module."""

    def __init__(self, site: Site, edit: Deepen, after: str) -> None:
        self.site, self.edit, self.after = site, edit, after
        self.visit = self._visited()
        self.module = site.model.get_submodule(after)

    def maker(self, kind: str | nn.Module) -> Make:
        """Returns what makes the layer.

        Raises:
            GrowthRefusedError: if a layer of that kind would change what the network computes.
        """
        if isinstance(kind, nn.Module):
            return partial(copy.deepcopy, kind)
        if kind == "copy":
            return partial(self._copy, self._zeros())
        shape = self._shape(kind)
        if kind == "identity":
            self._check_rectified()
            return partial(self._identity, shape)
        return partial(self._residual, shape)

    def perform(self, make: Make, where: Insertion, log: UndoLog, *, whole: bool) -> Performed:
        """Puts the layer in its place."""
        with torch.random.fork_rng(devices=()):
            block = make().train(self.module.training)
        path = insert(self.site.model, where, block, log, whole=whole)
        added = dict(block.named_parameters())
        check_joined(self.site.model, block, self.site.inputs, added.values())
        lead = f"{path}.block" if where.place == "hook" else path
        return Performed(added={f"{lead}.{name}": self.after for name in added})

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
        if not (present if self.edit.norm is None else self.edit.norm):
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
        if not found or not all(name.startswith(lead) for name in found):
            raise GrowthRefusedError(
                f"a copy of {self.after!r} cannot begin as the identity: it must add branches with "
                f"projections of their own to its input, but its output is made by "
                f"{branches.blocked}"
            )
        return [name.removeprefix(lead) for name in found]

    def _copy(self, zeros: list[str]) -> nn.Module:
        block = without_grafts(copy.deepcopy(self.module))
        with torch.no_grad():
            for name in zeros:
                block.get_parameter(name).zero_()
        for parameter in block.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        return block

    def _like(self, block: nn.Module) -> nn.Module:
        """Returns a block in the dtype and on the device of its neighbours."""
        held = [*self.module.parameters(), *self.site.model.parameters()]
        kinds = [p for p in held if p.is_floating_point()]
        like = kinds[0] if kinds else self._x
        return block.to(dtype=like.dtype, device=self._x.device)
