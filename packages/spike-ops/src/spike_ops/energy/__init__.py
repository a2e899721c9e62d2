"""Energy: operations counted as NeuroBench defines them, and estimates made of the counts."""

from spike_ops.energy._connections import count_as_connection
from spike_ops.energy._count import count_operations
from spike_ops.energy._counts import LayerOperations, OperationCounts
from spike_ops.energy._estimate import (
    EnergyEstimate,
    energy_table,
    estimate_energy,
    hardware_names,
)
from spike_ops.energy._membranes import count_membrane_updates
from spike_ops.energy._static import connection_sparsity, footprint, parameter_count

__all__ = [
    "count_operations",
    "OperationCounts",
    "LayerOperations",
    "count_as_connection",
    "count_membrane_updates",
    "footprint",
    "parameter_count",
    "connection_sparsity",
    "estimate_energy",
    "EnergyEstimate",
    "energy_table",
    "hardware_names",
]
