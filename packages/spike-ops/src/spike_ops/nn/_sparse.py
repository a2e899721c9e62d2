"""A layer of which only some synapses exist."""

from typing import Any, Literal

import torch
from torch import Tensor

from spike_ops._autograd import apply, in_autocast_type
from spike_ops._bits import in_numpy
from spike_ops._spike_tensor import SpikeTensor
from spike_ops._synapses import Synapses, SynapseSums, synapse_seconds
from spike_ops.functional import explain
from spike_ops.functional._mm import as_spikes
from spike_ops.nn._linear import Linear
from spike_ops.structure import Structure

Connection = Tensor | Literal["random"] | Structure | None


class SparseSynapse(Linear):
    """Return S (W ∘ mask)ᵀ + b: spikes through the synapses that exist.

    Where few of them do, a spike adds its own synapses one by one, else whole rows of the masked
    weight or the dense product, whichever is expected to be cheapest.

    Args:
        in_features: Neurons before the synapses.
        out_features: Neurons behind them.
        bias: Learn a bias.
        connection: Which synapses exist: None for all; a tensor [out, in] of zeros and ones;
            `"random"` for each with a probability; or a `spike_ops.structure.Structure`, whose
            signs, if it has some, the first weights take.
        device: Of the parameters.
        dtype: Of the parameters.
        probability: Of a synapse to exist, for `"random"`.
        seed: Of the drawing, for `"random"`.

    Raises:
        ValueError: `connection` or `probability` is outside its range.
        TypeError: `connection` is none of these.

    Example:
        >>> layer = SparseSynapse(100, 50, connection="random", probability=0.1)
        >>> layer.density < 0.2
        True
        >>> layer(torch.ones(8, 100)).shape
        torch.Size([8, 50])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        connection: Connection = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        probability: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        mask = _mask(connection, out_features, in_features, probability, seed)
        super().__init__(in_features, out_features, bias, device, dtype, spike_in=True, mask=mask)
        self._found: tuple[Tensor, int, Synapses] | None = None
        signs = connection.signs(in_features) if isinstance(connection, Structure) else None
        if signs is not None:
            with torch.no_grad():
                self.weight.copy_(self.weight.abs() * signs.to(self.weight))

    @property
    def density(self) -> float:
        """Share of the possible synapses that exist."""
        return 1.0 if self.mask is None else float(self.mask.float().mean())

    @torch.no_grad()
    def rewire(self, mask: Tensor) -> None:
        """Replace which synapses exist; those that are new begin at zero.

        An optimizer with momentum goes on from what it remembers of them.

        Args:
            mask: [out, in] of zeros and ones.

        Raises:
            ValueError: It has another shape or other values.
        """
        new = self._as_mask(mask)
        self.weight.mul_(new if self.mask is None else new & self.mask)
        self.mask = new

    def forward(self, input: Tensor) -> Tensor:
        """Return the currents [..., out] of spikes [..., in]."""
        spikes = as_spikes(input, self.weight.dtype)
        spikes, weight, bias = in_autocast_type(self.weight, spikes, self.weight, self.bias)
        if self.mask is None or not self._adds_synapses(spikes, weight):
            return super().forward(spikes)
        flat = spikes.reshape(-1, self.in_features)
        sums: Tensor = apply(SynapseSums, flat, weight, self._existing())
        sums = sums.reshape(*spikes.shape[:-1], self.out_features)
        return sums if bias is None else sums + bias

    def _adds_synapses(self, spikes: SpikeTensor, weight: Tensor) -> bool:
        fits = spikes.ndim and spikes.shape[-1] == self.in_features and spikes.numel()
        if not fits or not in_numpy(spikes.packed) or spikes.dtype != weight.dtype:
            return False
        plan = explain(spikes, weight.t())
        return synapse_seconds(spikes, self._existing()) < min(
            plan.event_seconds, plan.dense_seconds
        )

    def _existing(self) -> Synapses:
        mask, found = self.mask, self._found
        assert mask is not None
        # it may be loaded or rewired; a mask that is held is no other's address
        if found is None or found[0] is not mask or found[1] != mask._version:
            found = self._found = (mask, mask._version, Synapses.of(mask))
        return found[2]

    def __getstate__(self) -> dict[str, Any]:
        # the versions of a copied mask begin anew
        return {**self.__dict__, "_found": None}


def _mask(
    connection: Connection, out_features: int, in_features: int, probability: float, seed: int
) -> Tensor | None:
    if connection is None or isinstance(connection, Tensor):
        return connection
    if isinstance(connection, Structure):
        return connection.mask(out_features, in_features)
    if not isinstance(connection, str):
        kinds = 'None, a tensor, "random" or a Structure'
        raise TypeError(f"connection must be {kinds}, got {type(connection).__name__}")
    if connection != "random":
        raise ValueError(f'connection by name must be "random", got {connection!r}')
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(out_features, in_features, generator=generator) < probability
