"""Operations of a network, counted while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.energy._connections import connection_of


@dataclass(frozen=True)
class LayerOperations:
    """Operations of one layer, over all samples and steps.

    Example:
        >>> LayerOperations(acs=3, dense=9).plus(LayerOperations(macs=2, dense=9))
        LayerOperations(macs=2, acs=3, dense=18)
    """

    macs: int = 0  # products with a value that is no spike
    acs: int = 0  # additions of a weight, where a spike came in
    dense: int = 0  # products if nothing were zero

    def plus(self, other: "LayerOperations") -> "LayerOperations":
        """Return the operations of both."""
        return LayerOperations(
            self.macs + other.macs, self.acs + other.acs, self.dense + other.dense
        )


@dataclass(frozen=True)
class OperationCounts:
    """Operations of a network, as `count_operations` counts them.

    Attributes:
        layers: Operations of each connection layer by name, over all samples.
        samples: How many samples ran.
        zeros: Zeros among the outputs of each activation layer by name.
        outputs: Outputs of each activation layer by name.
        updates: Changes of membranes of each neuron layer by name; empty if not asked for.
        uncounted: Modules with parameters that took part and whose operations are in no count.

    Raises:
        ValueError: `samples` is below 1.

    Example:
        >>> counts = OperationCounts({"read": LayerOperations(acs=30, dense=90)}, samples=10)
        >>> counts.effective_acs, counts.synops, counts.dense
        (3.0, 3.0, 9.0)
    """

    layers: Mapping[str, LayerOperations]
    samples: int
    zeros: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    updates: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    @property
    def effective_macs(self) -> float:
        """Multiply-accumulates of a sample, those with a zero left out."""
        return sum(each.macs for each in self.layers.values()) / self.samples

    @property
    def effective_acs(self) -> float:
        """Accumulates of a sample, those with a zero left out."""
        return sum(each.acs for each in self.layers.values()) / self.samples

    @property
    def dense(self) -> float:
        """Operations of a sample if no weight and no value were zero."""
        return sum(each.dense for each in self.layers.values()) / self.samples

    @property
    def synops(self) -> float:
        """Synaptic operations of a sample: accumulates and multiply-accumulates."""
        return self.effective_acs + self.effective_macs

    @property
    def activation_sparsity(self) -> float:
        """Share of zeros among the outputs of all activation layers; 0 without any."""
        total = sum(self.outputs.values())
        return sum(self.zeros.values()) / total if total else 0.0

    @property
    def activation_sparsity_by_layer(self) -> dict[str, float]:
        """Share of zeros among the outputs of each activation layer."""
        return {name: self.zeros[name] / total for name, total in self.outputs.items() if total}

    @property
    def membrane_updates(self) -> float:
        """Changes of membrane potentials of a sample; 0 if not asked for."""
        return sum(self.updates.values()) / self.samples


class LayerCounter:
    """Count the operations of one layer; how its pixels meet weights is worked out once a shape."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.weight: Tensor = getattr(layer, "weight")  # noqa: B009 - typed as a module or tensor
        self._fanouts: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def count(self, x: Tensor) -> LayerOperations:
        """Return the operations of a call with this input."""
        row = connection_of(self.layer)
        assert row is not None
        fanout, axes = row
        shape = x.shape[x.ndim - axes :]
        rows = x.shape[: x.ndim - axes].numel()
        version = self.weight._version
        key = (tuple(shape), version)
        if key not in self._fanouts:
            # weights that change while they are counted leave no old tables behind
            self._fanouts = {key: fanout(self.layer, shape)}
        used, all_weights = self._fanouts[key]
        present = _present(x, shape).to(used.device)
        effective, dense = int((present * used).sum()), rows * int(all_weights.sum())
        if is_spikes(x):
            return LayerOperations(acs=effective, dense=dense)
        return LayerOperations(macs=effective, dense=dense)


def is_spikes(x: Tensor) -> bool:
    """Say whether a tensor holds nothing but -1, 0 and 1."""
    if isinstance(x, SpikeTensor):
        return True
    return bool(((x == 0) | (x.abs() == 1)).all())


def _present(x: Tensor, shape: torch.Size) -> Tensor:
    """Return how often each value of a sample is not zero: its shape, of int64."""
    dense = x.to_dense() if isinstance(x, SpikeTensor) else x.detach()
    return (dense.reshape(-1, *shape) != 0).sum(0)
