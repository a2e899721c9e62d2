"""Products of spikes with weights."""

from typing import cast

import torch
from torch import Tensor

from spike_ops._autograd import in_autocast_type
from spike_ops._batched import batched_product
from spike_ops._checked import tensor
from spike_ops._cost import METHODS, Method, ProductPlan
from spike_ops._masked import knows_window, windowed_product
from spike_ops._mm import plan_mm
from spike_ops._native import wrapped
from spike_ops._overrides import overridable
from spike_ops._product import check_types, spike_product
from spike_ops._spike_tensor import SpikeTensor


@overridable
def spike_mm(spikes: Tensor, weight: Tensor, method: Method = "auto") -> Tensor:
    """Return S @ W, by additions where that is cheaper: spikes [..., K], weight [K, N].

    The event path adds for each row of spikes the rows of the weight whose spike is there, in the
    order of k; its result is the same on every run, for any number of threads and whatever other
    rows are in the batch. The dense path unpacks the spikes and multiplies. The weight's gradient
    Sᵀ @ G goes the same two ways. That of the spikes, G @ Wᵀ, is dense; but for spikes that come
    straight from a `LIF` or `IF` with `spike_out` whose surrogate has a window (`support`) and
    with `compile_kernels`, only what the neuron will use of it is computed, where that is cheaper
    and nobody else looks at it (by a hook, `retain_grad` or `torch.autograd.grad`).

    Args:
        spikes: A `SpikeTensor`, or zeros and ones (packed on entry) [..., K].
        weight: [K, N], or [..., K, N] with the leading sizes of the spikes: one weight for each
            matrix of spikes.
        method: `"event"`, `"dense"`, or `"auto"` for the cheaper by the calibration in use.

    Returns:
        [..., N] in the type of the weight; where autocast is on, in the type it asks of products.

    Raises:
        ValueError: The shapes do not fit, the method is unknown, or spikes are not zeros and ones.
        TypeError: Spikes and weight have not one type.

    Example:
        >>> spikes = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        >>> spike_mm(spikes, torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]))
        tensor([[110., 220.],
                [  0.,   0.]])
    """
    if weight.ndim > 2:
        check_method(method)
        packed, weight = in_autocast_type(weight, as_spikes(spikes, weight.dtype), weight)
        return batched_product(packed, weight, method)
    return _product(spikes, weight, None, method)


def _product(spikes: Tensor, weight: Tensor, bias: Tensor | None, method: Method) -> Tensor:
    """Return S @ W + b of spikes [..., K]."""
    packed = spikes if type(spikes) is SpikeTensor else as_spikes(spikes, weight.dtype)
    check_method(method)
    if torch.is_autocast_enabled(weight.device.type):
        packed, weight, bias = in_autocast_type(weight, packed, weight, bias)
    if torch.is_grad_enabled() and knows_window(packed):
        return _with(bias, windowed_product(packed, weight, method))
    if spikes.ndim == 2:
        product = spike_product(packed, weight, method)
        return product if bias is None else _with(bias, product)
    columns = spikes.shape[-1] if spikes.ndim else 0
    flat = packed.reshape(spikes.numel() // max(columns, 1), columns)
    result = _with(bias, spike_product(cast(SpikeTensor, flat), weight, method))
    return result.reshape(*spikes.shape[:-1], weight.shape[-1])


def _with(bias: Tensor | None, fresh: Tensor) -> Tensor:
    """Return a new product with a bias, which is added where the product lies."""
    if bias is None:
        return fresh
    mapped = not torch.compiler.is_compiling() and wrapped(bias)
    return fresh.add_(bias) if bias.dtype == fresh.dtype and not mapped else fresh + bias


@overridable
def linear(
    spikes: Tensor, weight: Tensor, bias: Tensor | None = None, method: Method = "auto"
) -> Tensor:
    """Return S @ Wᵀ + b: spikes [..., in], weight [out, in] and bias [out] as torch has them.

    A weight whose transpose is contiguous (as `spike_ops.nn.Linear` keeps it) spares the event
    path a copy.

    Args:
        spikes: A `SpikeTensor`, or zeros and ones [..., in].
        weight: [out, in].
        bias: [out], or None.
        method: `"event"`, `"dense"` or `"auto"`, as of `spike_mm`.

    Returns:
        [..., out].

    Raises:
        ValueError: The shapes do not fit, the method is unknown, or spikes are not zeros and ones.
        TypeError: Spikes and weight have not one type.

    Example:
        >>> weight = torch.tensor([[1.0, 10.0, 100.0]])
        >>> linear(torch.tensor([[1.0, 0.0, 1.0]]), weight, torch.tensor([0.5]))
        tensor([[101.5000]])
    """
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        got = f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)}"
        raise ValueError(f"weight and bias must be [out, in] and [out], got {got}")
    return _product(spikes, weight.t(), bias, method)


def explain(spikes: Tensor, weight: Tensor, method: Method = "auto") -> ProductPlan:
    """Return which way `spike_mm(spikes, weight, method)` takes, and what each is expected to cost.

    Args:
        spikes: A `SpikeTensor`, or zeros and ones [..., K].
        weight: [K, N].
        method: As of `spike_mm`.

    Returns:
        The method, the density of the spikes, the seconds expected of each way, the reason.

    Raises:
        ValueError: The shapes do not fit, the method is unknown, or spikes are not zeros and ones.
        TypeError: Spikes and weight have not one type.

    Example:
        >>> plan = explain(torch.eye(512), torch.ones(512, 512))
        >>> plan.method, plan.reason
        ('event', 'the cheaper by the calibration')
    """
    spikes = as_spikes(spikes, weight.dtype)
    check_method(method)
    if not spikes.ndim or weight.ndim != 2 or spikes.shape[-1] != weight.shape[0]:
        shapes = f"{tuple(spikes.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"spikes [..., K] need a weight [K, N], got {shapes}")
    packed, weight = in_autocast_type(weight, spikes, weight)
    check_types(packed, weight)
    rows = spikes.numel() // max(weight.shape[0], 1)
    return plan_mm(packed.index, rows, weight, method)


def as_spikes(spikes: Tensor, dtype: torch.dtype) -> SpikeTensor:
    """Return spikes as they are, zeros and ones packed."""
    if isinstance(spikes, SpikeTensor):
        return spikes
    dense = tensor("spikes", spikes)
    return SpikeTensor.from_dense(dense, None if dense.is_floating_point() else dtype)


def check_method(method: str) -> None:
    """Raise unless the method is one of those there are."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
