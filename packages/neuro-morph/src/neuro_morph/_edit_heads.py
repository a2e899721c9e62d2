"""The edit that gives attention more heads."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from neuro_morph._edit import Site, Variant
from neuro_morph._edit_widen import Widen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup
from neuro_morph._heads import attention_in, heads_in
from neuro_morph._initial import UnitInit, ZeroFanOut


@dataclass(frozen=True)
class AddHeads:
    """Gives attention more heads, so that the network computes what it did.

    Heads are the units along which scores are normalised apart from each other; where several
    query heads read one key head, a unit is a key head with all its query heads. It is
    :class:`Widen` of that group, found by the path of a module.

    In ``torch.nn.MultiheadAttention`` all heads together are as wide as its inputs. If that is the
    width of a residual stream, all layers on the stream grow, and all attention on it has one group
    of heads: ``layer`` is then any of them, or what holds them all. The group's ``producers`` and
    ``unit_cost`` in :attr:`Morpher.graph` say what one more head means.

    Args:
        layer: the path of a module with one group of heads inside, or the id of such a group.
        by: how many heads (key heads with their query heads) are added.
        init: how they begin: see :class:`Widen`.

    Raises:
        ValueError: if ``by`` is below 1.

    Example:
        >>> import torch
        >>> from neuro_morph import AddHeads, Morpher
        >>> class Attend(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.qkv, self.out = torch.nn.Linear(6, 24), torch.nn.Linear(8, 6)
        ...     def forward(self, x):
        ...         q, k, v = self.qkv(x).unflatten(-1, (3, -1, 4)).transpose(1, 3).unbind(2)
        ...         h = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        ...         return self.out(h.transpose(1, 2).flatten(2))
        >>> morpher = Morpher(Attend(), example_inputs=torch.ones(1, 5, 6))
        >>> morpher.apply(AddHeads("", by=1)).parameters_added
        108
    """

    layer: str
    by: int
    init: UnitInit = field(default_factory=ZeroFanOut)
    op: str = field(default="add_heads", init=False)

    def __post_init__(self) -> None:
        Widen(self.layer, self.by, self.init)

    @property
    def target(self) -> str:
        """The module or group."""
        return self.layer

    def detail(self) -> dict[str, Any]:
        """Returns the settings, as JSON can hold them."""
        return {"by": self.by, "init": self.init.describe()}

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields ways to carry it out, those of :class:`Widen`."""
        yield from Widen(self.group(site).id, self.by, self.init).variants(site)

    def group(self, site: Site) -> GrowthGroup:
        """Returns the group of heads.

        Raises:
            GrowthRefusedError: if there is none, or more than one.
            ValueError: if ``layer`` is neither a module nor a group.
        """
        inside = dict(site.model.named_modules())
        named = [group for group in site.graph if group.id == self.layer]
        if self.layer not in inside and not named:
            raise ValueError(f"layer must be the path of a module or a group, got {self.layer!r}")
        found = heads_in(site.graph, self.layer) if self.layer in inside else []
        if not found:
            every = heads_in(site.graph, None)
            found = [group for group in named if group in every]
        if not found:
            where = ", ".join(repr(path) for path in attention_in(site.graph))
            known = f"; attention is in {where}" if where else ""
            raise GrowthRefusedError(
                f"{self.layer!r} has no attention whose heads are a group{known}"
            )
        if len(found) > 1:
            ids = ", ".join(repr(group.id) for group in found)
            raise GrowthRefusedError(f"{self.layer!r} has several groups of heads: {ids}")
        return found[0]
