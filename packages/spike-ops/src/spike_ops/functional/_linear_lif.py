"""A linear layer and the neurons behind it in one go, where a GPU can do so."""

import torch.nn.functional as F
from torch import Tensor

from spike_ops._gpu import kernels
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.functional._mm import linear
from spike_ops.neuron import LIF, BaseNode
from spike_ops.neuron._base import State
from spike_ops.neuron._lif_fused import kept_for


def linear_lif(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    neurons: LIF,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Return the spikes of neurons behind a linear layer, and their state: s of x Wᵀ + b.

    It is `neurons.run(linear(inputs, weight, bias), state)`. With `backend="triton"` the neurons
    run inside the product, on a GPU: no current is written to memory, forward, and spikes may come
    in and go out as bits (`SpikeTensor`, `spike_out=True`). Its float32 sums are taken in another
    order than torch's, which may move a membrane across a threshold that it comes within rounding
    of. In half precision they are not rounded before they charge the membrane.

    Args:
        inputs: [T, ..., in], a `SpikeTensor` or any numbers.
        weight: [out, in].
        bias: [out], or None.
        neurons: A `LIF` or `IF`; their backend says how they are run.
        state: As of `neurons.run`.

    Returns:
        Spikes [T, ..., out] and the state (v [..., out],) after the last step.

    Raises:
        ValueError: The shapes do not fit, or the neurons' backend cannot run here.
        TypeError: The neurons are of another kind, or the types are not one.

    Example:
        >>> import torch
        >>> inputs, weight = torch.ones(4, 1, 3), torch.full((2, 3), 0.5)
        >>> spikes, (v,) = linear_lif(inputs, weight, neurons=LIF(tau=2.0, reset="soft"))
        >>> spikes[:, 0, 0], v
        (tensor([0., 1., 0., 1.]), tensor([[0.1562, 0.1562]]))
    """
    _check(inputs, weight, bias, neurons)
    # the shape of the currents, for the neurons to check; no memory
    currents = weight.new_zeros(()).expand(*inputs.shape[:-1], weight.shape[0])
    if neurons.explain(currents).backend != "triton":
        product = linear if isinstance(inputs, SpikeTensor) else F.linear
        return neurons.run(product(inputs, weight, bias), state)

    def over_time(_: Tensor, before: State) -> tuple[Tensor, State]:
        run, kept = kernels("_linear_lif").linear_lif, kept_for(neurons.rule, neurons.saving)
        options = {"kept": kept, "spike_out": neurons.spike_out}
        spikes, v = run(inputs, weight, bias, before[0], neurons.rule, **options)
        return spikes, (v,)

    return neurons._run(currents, state, over_time)


def linear_lif_reference(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    neurons: LIF,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Return what `linear_lif` does, by a dense product and step after step: the specification."""
    dense = inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs
    return neurons._run(F.linear(dense, weight, bias), state, neurons._step_by_step)


def _check(inputs: Tensor, weight: Tensor, bias: Tensor | None, neurons: object) -> None:
    if not isinstance(neurons, LIF) or isinstance(neurons, BaseNode):
        raise TypeError(f"neurons must be a LIF or an IF, got {type(neurons).__name__}")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        got = f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)}"
        raise ValueError(f"weight and bias must be [out, in] and [out], got {got}")
    if inputs.ndim < 2 or inputs.shape[-1] != weight.shape[1]:
        got = f"{tuple(inputs.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"inputs [T, ..., in] need a weight [out, in], got {got}")
    if inputs.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        kinds = [inputs.dtype, weight.dtype] + ([] if bias is None else [bias.dtype])
        raise TypeError(f"inputs, weight and bias must have one dtype, got {kinds}")
