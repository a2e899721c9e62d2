"""The edit that gives a network another layer."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from neuro_morph._arguments import check_kind, check_least, check_number
from neuro_morph._blocks import ACTIVATIONS
from neuro_morph._deepening import Deepening
from neuro_morph._edit import Site, Variant
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._grafts import last_of
from neuro_morph._inserting import insertions
from neuro_morph._visits import module_at

BLOCKS = ("auto", "copy", "identity", "residual")
# with a normalisation, an identity is none in training mode
AUTO = {False: ("copy", "identity", "residual"), True: ("copy", "residual")}


@dataclass(frozen=True)
class Deepen:
    """Puts another layer behind a module, so that the network computes what it did.

    ``"identity"``: a layer that is the identity and a ReLU. It changes nothing where the module's
    output cannot be negative, ``relu(I relu(x)) = relu(x)``. ``"residual"``: ``x + f(x)`` with the
    last projection of ``f`` zero, behind anything. ``"copy"``: a copy of the module, if that adds
    branches to its input (a residual or a pre-norm transformer block), with the last projection of
    each branch zero. ``"auto"`` takes the first of copy, identity, residual that can be; with
    ``norm=True`` no identity.

    All of them are exact in evaluation and in training mode but for ``"identity"`` with
    ``norm=True``: the scale of its batch normalisation is ``sqrt(var + eps)`` and its shift the
    mean of what it gets on the example inputs, so that it gives what it gets in evaluation mode; in
    training mode it goes by each batch instead, and the event's ``note`` says so.

    In ``nn.Sequential`` and ``nn.ModuleList`` the layer is put in behind the module; elsewhere it
    is registered under ``grown`` and follows the module by a hook. New parameters join the
    parameter groups of the optimizer that those of the module are in.

    Args:
        after: the path of the module; the last one in it if it is a container.
        block: ``"auto"``, ``"copy"``, ``"identity"``, ``"residual"``, or a module that begins as
            the identity.
        hidden: features inside a residual block; None for as many as come in.
        norm: whether the layer has a normalisation; None for one in a residual block if the model
            has one of the kind that fits, and none in an identity.
        kernel: the width of kernels, odd.
        activation: of a residual block: ``"relu"``, ``"gelu"``, ``"silu"``, ``"tanh"``.

    Raises:
        TypeError: if ``after`` is no path, or ``kernel`` or ``hidden`` no integer.
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
        check_kind(str, after=self.after)
        check_number(whole=True, kernel=self.kernel)
        if not isinstance(self.block, nn.Module) and self.block not in BLOCKS:
            known = ", ".join(repr(each) for each in BLOCKS)
            raise ValueError(f"block must be a module or one of {known}, got {self.block!r}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 1, got {self.kernel}")
        if self.hidden is not None:
            check_least(1, whole=True, hidden=self.hidden)
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
        work = Deepening(site, self, last_of(site.model, self.after))
        kinds = AUTO[self.norm is True] if self.block == "auto" else (self.block,)
        refusals: list[str] = []
        for kind in kinds:
            try:
                made = work.made(kind)
            except GrowthRefusedError as refusal:
                refusals.append(str(refusal))
                continue
            for where in insertions(site.model, work.after):
                yield partial(work.perform, made, where)
        if len(refusals) == len(kinds):
            raise GrowthRefusedError("; ".join(refusals))
