"""New units that bridge the strongest missing connections."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuro_morph._arguments import check_kind
from neuro_morph._edit import Site
from neuro_morph._group_statistics import Statistics
from neuro_morph._groups import GrowthGroup
from neuro_morph._plan_widen import Units
from neuro_morph._proposals import aims
from neuro_morph._proposed_units import given_units, statistics_of


@dataclass(frozen=True)
class NeST:
    """New units that bridge inputs of the maker and outputs of the readers.

    Of the bridging gradient ``B = E[x G']`` the largest ``share`` of entries are dealt out to the
    new units in turn. An entry gives its unit the connections ``psi = z sqrt|B|`` and
    ``omega = z sign(B) sqrt|B|``, ``z`` a random sign, so that ``psi omega`` has the sign of the
    step. The output changes: the transaction refuses the units unless its tolerance is raised.

    Args:
        statistics: what was measured of the model as it is.
        share: the part of the entries that is bridged.
        strength: a factor of the connections.

    Raises:
        ValueError: if ``share`` is not in (0, 1].

    Source: Dai, Yin, Jha, NeST (IEEE Transactions on Computers 2019), growth of neurons.
    """

    statistics: Statistics = field(repr=False)
    share: float = 0.3
    strength: float = 1.0
    way: str = field(default="free", init=False)

    def __post_init__(self) -> None:
        check_kind(Statistics, statistics=self.statistics)
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share must be in (0, 1], got {self.share!r}")

    def describe(self) -> str:
        """Returns its name and settings."""
        return f"NeST of {self.share:g} at {self.strength:g}"

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and the bridging ones.

        Raises:
            GrowthRefusedError: if the group is not as it was measured, or its units are not made
                by one layer.
        """
        held = statistics_of(self.statistics, group)
        parts = aims(held, "gradient")
        bridge = torch.cat([part.flatten(1) for part in parts], 1)
        fan_in, whole = _bridged(bridge, by, self.share, site.generator)
        cuts = whole.split([part.shape[1] * part.shape[2] for part in parts], 1)
        fan_out = [
            c.reshape(by, *p.shape[1:]) * self.strength for c, p in zip(cuts, parts, strict=True)
        ]
        return given_units(group, held, fan_in * self.strength, fan_out)


def _bridged(
    bridge: Tensor, by: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count = max(round(share * bridge.numel()), min(by, bridge.numel()))
    top = bridge.abs().flatten().topk(count).indices
    rows, columns = torch.unravel_index(top, bridge.shape)
    units = torch.arange(count) % by
    signs = torch.randint(0, 2, (count,), generator=generator).to(bridge) * 2 - 1
    values = bridge[rows, columns]
    fan_in, fan_out = bridge.new_zeros(by, len(bridge)), bridge.new_zeros(by, bridge.shape[1])
    fan_in.index_put_((units, rows), signs * values.abs().sqrt(), accumulate=True)
    fan_out.index_put_(
        (units, columns), signs * values.sign() * values.abs().sqrt(), accumulate=True
    )
    return fan_in, fan_out
