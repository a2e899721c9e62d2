"""Attention between spikes: no softmax, nothing but counting."""

from typing import cast

import torch
from torch import Tensor

from spike_ops._autograd import without_autocast
from spike_ops._batched import batched_product
from spike_ops._cost import Method
from spike_ops._overrides import overridable
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.functional._mm import as_spikes, check_method

# integers up to here are exact in float32
EXACT = 1 << 24


@overridable
def spike_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0, method: Method = "auto"
) -> Tensor:
    """Return scale · (Q Kᵀ) V of spikes: for each query, how often which values were agreed to.

    All products are counts, so the order does not matter to the bit: with many tokens Q (Kᵀ V) is
    computed, whose cost grows with their number and not with its square. Both products go by
    additions where that is cheaper.

    Args:
        query: A `SpikeTensor`, or zeros and ones [..., N, D].
        key: As `query` [..., M, D].
        value: As `query` [..., M, E].
        scale: Factor of the result, as the 1/8 of Spikformer.
        method: `"event"`, `"dense"`, or `"auto"` for the cheaper by the calibration in use.

    Returns:
        [..., N, E] in the type of the query; before scaling exact integers.

    Raises:
        ValueError: The shapes do not fit, the method is unknown, or spikes are not zeros and ones.
        TypeError: Query, key and value have not one type.

    Source: Zhou et al., Spikformer: when spiking neural network meets
    transformer, ICLR 2023, eq. 6.

    Example:
        >>> query = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
        >>> spike_attention(query, torch.eye(2), torch.ones(2, 3))
        tensor([[2., 2., 2.],
                [1., 1., 1.]])
    """
    check_method(method)
    q, k, v = (as_spikes(each, torch.float32) for each in (query, key, value))
    _check(q, k, v)
    tokens, depth = k.shape[-2:]
    wide = torch.float64 if tokens * depth >= EXACT or q.dtype == torch.float64 else torch.float32
    counts = _counts(_as(q, wide), _as(k, wide), _as(v, wide), method)
    return (counts * scale).to(q.dtype)


@without_autocast
def _counts(q: SpikeTensor, k: SpikeTensor, v: SpikeTensor, method: Method) -> Tensor:
    queries, depth = q.shape[-2:]
    tokens, width = v.shape[-2:]
    if (queries + tokens) * depth * width < queries * tokens * (depth + width):
        together = batched_product(_turned(k), v.to_dense(), method)
        return batched_product(q, together, method)
    # Vᵀ (K Qᵀ), the transpose of what is asked for, has spikes on the left of both products
    agreed = batched_product(k, q.to_dense().mT, method)
    return batched_product(_turned(v), agreed, method).mT


def _turned(spikes: SpikeTensor) -> SpikeTensor:
    return cast(SpikeTensor, spikes.transpose(-1, -2))


def _as(spikes: SpikeTensor, dtype: torch.dtype) -> SpikeTensor:
    return cast(SpikeTensor, spikes.to(dtype))


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    fits = q.ndim == k.ndim == v.ndim >= 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if not fits or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        shapes = ", ".join(str(tuple(each.shape)) for each in (q, k, v))
        raise ValueError(f"query [..., N, D], key [..., M, D], value [..., M, E], got {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        kinds = f"{q.dtype}, {k.dtype}, {v.dtype}"
        raise TypeError(f"query, key and value must have one dtype, got {kinds}")
