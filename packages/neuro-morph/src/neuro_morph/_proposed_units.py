"""Ways in which new units begin that are chosen from what was measured."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuro_morph._axes import atoms_of
from neuro_morph._edit import Site
from neuro_morph._entries import entries_of
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._group_statistics import GroupStatistics, Statistics
from neuro_morph._groups import GrowthGroup
from neuro_morph._plan_widen import Units, fresh_units
from neuro_morph._program import Ref
from neuro_morph._proposals import Proposal, propose_units
from neuro_morph._unit_layers import UnitLayer

# operations whose derivative at 0 PyTorch gives as 0
DEAD_AT_ZERO = frozenset({"relu", "relu6", "hardtanh", "threshold", "clamp_min", "clamp"})


@dataclass(frozen=True)
class Proposed:
    """New units that :func:`propose_units` chooses.

    Where a constraint sets one side to zero the other is brought to the size of the units that are
    there: the root mean square of what they are made to be, or that of their columns.

    Args:
        statistics: what was measured of the model as it is.
        target: see :func:`propose_units`.
        metric: see :func:`propose_units`.
        constraint: see :func:`propose_units`; with None the output changes, and the transaction
            refuses the units unless its tolerance is raised.
        amplitude: the units' factor where there is no constraint.
        epsilon: with ``"zero_fan_in"``, random rows of this size instead of zeros: behind a ReLU
            zeros would never train.

    Source: see :func:`propose_units`.
    """

    statistics: Statistics = field(repr=False)
    target: str = "residual"
    metric: str = "pre"
    constraint: str | None = "zero_fan_out"
    amplitude: float = 1.0
    epsilon: float = 0.0
    way: str = field(default="free", init=False)

    def describe(self) -> str:
        """Returns its settings."""
        kept = self.constraint or f"both sides at {self.amplitude:g}"
        return f"proposed by {self.target}, {self.metric}, {kept}"

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and the proposed ones.

        Raises:
            GrowthRefusedError: if the group is not as it was measured, or its units cannot be
                proposed, or rows of zeros would never train.
        """
        held = statistics_of(self.statistics, group)
        proposal = self._proposal(held, by, site.generator)
        fan_in, fan_out = proposal.fan_in, list(proposal.fan_out)
        if self.constraint == "zero_fan_in":
            fan_in = self._small(site, group, fan_in)
            fan_out = [
                _sized_columns(r.layer, f) for r, f in zip(held.readers, fan_out, strict=True)
            ]
        elif self.constraint == "zero_fan_out":
            fan_in = _sized_rows(held, fan_in)
        else:
            fan_in = fan_in * self.amplitude**0.5
            fan_out = [f * self.amplitude**0.5 for f in fan_out]
        return given_units(group, held, fan_in, fan_out)

    def _proposal(self, held: GroupStatistics, by: int, generator: torch.Generator) -> Proposal:
        return propose_units(
            held, by, target=self.target, metric=self.metric, constraint=self.constraint
        )

    def _small(self, site: Site, group: GrowthGroup, fan_in: Tensor) -> Tensor:
        dead = DEAD_AT_ZERO & operations_on(site, group)
        if dead and not self.epsilon:
            raise GrowthRefusedError(
                f"rows of zeros of {group.id!r} would never train behind {min(dead)!r}, whose "
                "derivative at 0 is 0: give an epsilon, or take zero_fan_out"
            )
        noise = torch.randn(fan_in.shape, generator=site.generator, dtype=torch.float64)
        return noise.to(fan_in) * self.epsilon


def gradmax(statistics: Statistics, *, epsilon: float = 0.0) -> Proposed:
    """Returns new units without rows whose columns make the largest gradients.

    Source: Evci et al., GradMax (ICLR 2022): the right singular vectors of ``E[x G']``.
    """
    return Proposed(statistics, "gradient", "euclidean", "zero_fan_in", epsilon=epsilon)


def tiny(
    statistics: Statistics, *, constraint: str | None = "zero_fan_out", amplitude: float = 1.0
) -> Proposed:
    """Returns new units for what the units that are there cannot express.

    Source: Verbockhaven et al., growing tiny networks (TMLR 2024).
    """
    return Proposed(statistics, "residual", "pre", constraint, amplitude)


def senn(statistics: Statistics) -> Proposed:
    """Returns new units of the largest natural expansion score, without columns.

    Source: Mitchell et al., self-expanding networks (arXiv:2307.04526).
    """
    return Proposed(statistics, "residual", "both", "zero_fan_out")


def statistics_of(statistics: Statistics, group: GrowthGroup) -> GroupStatistics:
    """Returns what was measured of a group.

    Raises:
        GrowthRefusedError: if nothing was, or the group has grown since.
    """
    if group.id not in statistics.groups:
        why = statistics.skipped.get(group.id, "it was not there when statistics were collected")
        raise GrowthRefusedError(f"no units can be proposed for {group.id!r}: {why}")
    held = statistics.groups[group.id]
    if held.size != group.size:
        raise GrowthRefusedError(
            f"{group.id!r} has {group.size} units and had {held.size} when it was measured: "
            "collect statistics anew"
        )
    return held


def given_units(
    group: GrowthGroup, held: GroupStatistics, fan_in: Tensor, fan_out: list[Tensor]
) -> Units:
    """Returns the old units of a group and new ones with these rows and columns."""
    assert held.maker is not None
    fresh, maker = fresh_units(group.size, len(fan_in)), held.maker
    rows = {maker.weight: fan_in if maker.bias is None else fan_in[:, :-1]}
    if maker.bias is not None:
        rows[maker.bias] = fan_in[:, -1]
    pairs = zip(held.readers, fan_out, strict=True)
    columns = {r.layer.weight: _in_order(group, r.layer, f) for r, f in pairs}
    return Units(fresh.parents, fresh.shares, rows, columns)


def operations_on(site: Site, group: GrowthGroup) -> frozenset[str]:
    """Returns the names of the operations that are given tensors with a group's units."""
    placing, calls = site.graph._placing, site.graph.program.calls

    def has(ref: Ref) -> bool:
        axes = placing.values[ref.index].axes if ref.index in placing.values else ()
        return any(atom is group.atom for axis in axes for atom in atoms_of(axis))

    return frozenset(call.op for call in calls if any(has(ref) for ref in call.inputs()))


def _sized_rows(held: GroupStatistics, fan_in: Tensor) -> Tensor:
    """Returns rows whose pre-activations have the mean square of the old ones."""
    assert held.maker is not None
    assert held.x_x is not None
    maker = held.maker
    weight: Tensor = maker.module.weight  # type: ignore[assignment]
    old = weight.detach().flatten(1).double()
    if maker.bias is not None:
        bias: Tensor = maker.module.bias  # type: ignore[assignment]
        old = torch.cat([old, bias.detach().double()[:, None]], 1)
    old = old[maker.places[:, 0]]
    wanted = ((old @ held.x_x) * old).sum(1).mean()
    found = ((fan_in @ held.x_x) * fan_in).sum(1)
    return fan_in * (wanted / found.clamp(min=1e-300)).sqrt()[:, None]


def _sized_columns(layer: UnitLayer, fan_out: Tensor) -> Tensor:
    """Returns columns as long as the old ones are on average."""
    weight: Tensor = layer.module.weight  # type: ignore[assignment]
    old = weight.detach().double()[:, layer.places].flatten(2)  # [O, C, places]
    wanted = old.square().sum((0, 2)).mean().sqrt()
    found = fan_out.square().sum((1, 2)).sqrt()
    return fan_out * (wanted / found.clamp(min=1e-300))[:, None, None]


def _in_order(group: GrowthGroup, layer: UnitLayer, fan_out: Tensor) -> Tensor:
    """Returns columns in the order in which new entries stand along the reader's axis."""
    weight: Tensor = layer.module.weight  # type: ignore[assignment]
    if weight.dim() > 2:
        return fan_out.transpose(0, 1).reshape(-1, len(fan_out), *weight.shape[2:])
    member = next(m for m in group.members if m.name == layer.weight and m.dim == 1)
    old, unit = entries_of(member.axis, group.atom, group.size + len(fan_out))
    seen: dict[int, int] = {}
    columns = []
    for u in unit[old < 0].tolist():
        place = seen[u] = seen.get(u, -1) + 1
        columns.append(fan_out[u - group.size, :, place])
    return torch.stack(columns, 1)
