"""What a trained network does: how often it fires, what that counts up to, and estimates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from adlrns._spike_data import Material
from adlrns._spike_net import encode
from adlrns._spike_settings import Settings
from adlrns._table import Value
from spike_ops.energy import EnergyEstimate, OperationCounts, count_operations, energy_table
from spike_ops.monitor import Activity, Monitor

# validation items that firing and operations are counted on, at most
ITEMS = 500


@dataclass(frozen=True)
class Measured:
    """Counts on items of the validation part.

    Attributes:
        items: how many.
        activities: how the neurons of each layer fired.
        counts: operations of a sample.
        estimates: energy of a sample.
    """

    items: int
    activities: dict[str, Activity]
    counts: OperationCounts
    estimates: list[EnergyEstimate]

    def rates(self) -> dict[str, float]:
        """Returns the share of steps with a spike, of every layer."""
        return {name: each.rate for name, each in self.activities.items()}

    def record(self) -> dict[str, Value]:
        """Returns the numbers of a result by name."""
        rates = {f"rate.{name}": rate for name, rate in self.rates().items()}
        return {**rates, **operations(self.counts, self.estimates)}


def operations(counts: OperationCounts, estimates: Sequence[EnergyEstimate]) -> dict[str, Value]:
    """Returns the operations and energies of a sample by name."""
    return {
        "synops": counts.synops,
        "acs": counts.effective_acs,
        "macs": counts.effective_macs,
        "dense_macs": counts.dense,
        **{f"estimated_J.{e.hardware}": e.with_memory_j for e in estimates},
    }


def measure(
    net: nn.Module, settings: Settings, material: Material, device: torch.device
) -> Measured:
    """Returns counts and estimates of a trained network."""
    items: Dataset[object] = material.valid
    count = min(ITEMS, len(items))  # type: ignore[arg-type]
    torch.manual_seed(settings.seed)
    loader = DataLoader(Subset(items, range(count)), settings.batch_size)
    batches = [encode(settings, material, x.to(device)) for x, _ in loader]
    with Monitor(net) as monitor:
        counts = count_operations(net, batches)
    return Measured(count, monitor.activities(), counts, energy_table(counts))
