"""Nodes of a graph as modules."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spike_ops.neuron import LIF, Delay, Neuron
from spike_ops.nir._cells import Cells, Chain, Integrator
from spike_ops.nir._errors import NirError
from spike_ops.nir._graph import kind_of
from spike_ops.nir._layers import DelayEach, Fire, Scale
from spike_ops.nir._numbers import Array, Number, as_array, common, decay_of
from spike_ops.nir._resets import SoftReset, told_soft
from spike_ops.nir._shapes import Shape, numbers
from spike_ops.nn._stepwise import Stepwise
from spike_ops.surrogate import Surrogate


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a graph leaves open: the time step, the type, the surrogate."""

    dt: float
    dtype: torch.dtype
    surrogate: Surrogate | None

    def number(self, values: Array) -> Number:
        """Return the one value of an array, or a tensor of all."""
        one = common(values)
        return one if one is not None else torch.from_numpy(values.copy()).to(self.dtype)


def module_of(name: str, node: Any, shape: Shape, setting: Setting) -> nn.Module:
    """Return the module of a node; `shape` is that of a sample it hears.

    Raises:
        NirError: A value breaks a rule of its node.
    """
    kind = "SoftReset" if isinstance(node, SoftReset) else kind_of(node)
    if kind in {"I", "LI", "CubaLI", "IF", "LIF", "CubaLIF", "SoftReset"}:
        return _neurons(name, node, kind, setting)
    if kind in {"Affine", "Linear"}:
        return _linear(name, node, setting)
    if kind in {"Conv1d", "Conv2d"}:
        return _convolution(name, node, setting, int(kind[4]))
    if kind in {"SumPool2d", "AvgPool2d"}:
        kernel, stride, pad = (
            numbers(name, node, each, 2) for each in ("kernel_size", "stride", "padding")
        )
        if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
            raise NirError(name, f"padding must be at most half of the kernel {kernel}, got {pad}")
        divisor = 1 if kind == "SumPool2d" else None
        pool: Any = nn.AvgPool2d
        return Stepwise(pool(kernel, stride, pad, divisor_override=divisor))
    if kind == "Flatten":
        (start,), (end,) = (numbers(name, node, each, 1) for each in ("start_dim", "end_dim"))
        start, end = (each + len(shape) if each < 0 else each for each in (start, end))
        return nn.Flatten(start + 2, end + 2)
    if kind == "Scale":
        return Scale(torch.from_numpy(_array(name, node, "scale")).to(setting.dtype))
    if kind == "Threshold":
        held = setting.number(_array(name, node, "threshold"))
        return Fire(held, surrogate=setting.surrogate)
    if kind == "Delay":
        return _delay(name, node, setting)
    return nn.Identity()


def _array(name: str, node: Any, field: str) -> Array:
    """Return a field as finite float64."""
    try:
        values = as_array(getattr(node, field)).copy()
    except (TypeError, ValueError, AttributeError) as error:
        raise NirError(name, f"{field} must be numbers: {error}") from error
    if not np.isfinite(values).all() or values.size == 0:
        raise NirError(name, f"{field} must be finite and not empty, got {values.ravel()[:4]}")
    return values


def _rate(name: str, node: Any, field: str, dt: float) -> tuple[Array, Array]:
    tau = _array(name, node, field)
    if not (tau >= dt).all():
        raise NirError(name, f"{field} must be at least dt = {dt:g}, got {tau.min():g}")
    return decay_of(tau, dt)


def _charge(name: str, node: Any, dt: float, tau: str) -> tuple[Array, Array, Array]:
    """Return β, g and c of a membrane, of one shape."""
    r = _array(name, node, "r")
    if kind_of(node) in {"I", "IF"}:
        return np.ones_like(r), dt * r, np.zeros_like(r)
    rate, beta = _rate(name, node, tau, dt)
    leak = _array(name, node, "v_leak")
    _one_shape(name, r, beta, leak)
    return beta, r * rate, rate * leak


def _one_shape(name: str, *values: Array) -> None:
    if len({each.shape for each in values}) > 1:
        raise NirError(name, f"constants must have one shape, got {[v.shape for v in values]}")


def _neurons(name: str, node: Any, kind: str, setting: Setting) -> Neuron:
    if isinstance(node, SoftReset):
        return _soft(name, node, setting)
    charge = _charge(name, node, setting.dt, "tau_mem" if kind.startswith("Cuba") else "tau")
    if kind in {"I", "LI", "CubaLI"}:
        membrane: Neuron = Integrator(*map(setting.number, charge))
    else:
        threshold, v_reset = (_array(name, node, each) for each in ("v_threshold", "v_reset"))
        _one_shape(name, charge[0], threshold, v_reset)
        if (told := told_soft(name, node, threshold)) is not None:
            membrane = _firing(
                charge, told.threshold, setting,
                reset="soft", strict=told.strict, delay=told.delay,
            )  # fmt: skip
        else:
            membrane = _firing(charge, threshold, setting, v_reset=v_reset)
    if not kind.startswith("Cuba"):
        return membrane
    rate, alpha = _rate(name, node, "tau_syn", setting.dt)
    w_in = _array(name, node, "w_in")
    _one_shape(name, charge[0], alpha, w_in)
    return Chain(Integrator(setting.number(alpha), setting.number(w_in * rate)), membrane)


def _soft(name: str, node: SoftReset, setting: Setting) -> Neuron:
    charge = _charge(name, node.membrane, setting.dt, "tau")
    if not np.isfinite(node.threshold).all():
        raise NirError(name, "threshold must be finite")
    return _firing(
        charge, node.threshold, setting, reset="soft", strict=node.strict, delay=node.delay
    )


def _firing(
    charge: tuple[Array, Array, Array],
    threshold: Array,
    setting: Setting,
    *,
    v_reset: Array | None = None,
    reset: Any = "hard",
    strict: bool = True,
    delay: bool = False,
) -> Neuron:
    """Return a LIF layer where one number says every constant, else cells of their own."""
    ones = [common(each) for each in (*charge, threshold)]
    rest = 0.0 if v_reset is None else common(v_reset)
    beta, gain, offset, theta = ones
    if None in ones or rest is None or not (theta > 0 and rest < theta):  # type: ignore[operator]
        if not strict:  # one number, so only θ <= 0 comes here: h >= θ is h > the next below it
            threshold = as_array(torch.nextafter(torch.tensor(threshold), torch.tensor(-np.inf)))
        start = 0.0 if v_reset is None else setting.number(v_reset)
        return Cells(
            setting.number(charge[0]), setting.number(charge[1]), setting.number(charge[2]),
            setting.number(threshold), v_reset=start, reset=reset, reset_delay=delay,
            surrogate=setting.surrogate,
        )  # fmt: skip
    assert beta is not None
    assert gain is not None
    assert theta is not None
    assert offset is not None
    layer = LIF(
        1 / (1 - beta) if beta < 1 else float("inf"), threshold=theta, v_reset=rest, reset=reset,
        strict=strict, reset_delay=delay, surrogate=setting.surrogate,
    )  # fmt: skip
    layer.rule = dataclasses.replace(layer.rule, beta=beta, gain=gain, offset=offset)
    return layer


def _linear(name: str, node: Any, setting: Setting) -> nn.Module:
    weight = _tensor(name, node, "weight", setting)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=kind_of(node) == "Affine")
    return _filled(name, layer, weight, node, setting)


def _tensor(name: str, node: Any, field: str, setting: Setting) -> Tensor:
    return torch.from_numpy(_array(name, node, field)).to(setting.dtype)


def _filled(name: str, layer: Any, weight: Tensor, node: Any, setting: Setting) -> nn.Module:
    layer.weight = nn.Parameter(weight)
    if layer.bias is not None:
        bias = _tensor(name, node, "bias", setting)
        if bias.numel() not in {1, len(weight)}:
            raise NirError(name, f"bias must be {len(weight)} numbers, got {tuple(bias.shape)}")
        layer.bias = nn.Parameter(bias.flatten().expand(len(weight)).clone())
    filled: nn.Module = layer
    return filled


def _convolution(name: str, node: Any, setting: Setting, axes: int) -> nn.Module:
    weight, (groups,) = _tensor(name, node, "weight", setting), numbers(name, node, "groups", 1)
    stride, dilation = (numbers(name, node, each, axes) for each in ("stride", "dilation"))
    is_text = np.asarray(node.padding).dtype.kind in "US"
    padding: Any = str(node.padding) if is_text else numbers(name, node, "padding", axes)
    kind: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    layer = kind(
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), stride, padding,
        dilation, groups,
        bias=node.bias is not None,
    )  # fmt: skip
    return Stepwise(_filled(name, layer, weight, node, setting))


def _delay(name: str, node: Any, setting: Setting) -> nn.Module:
    steps = _array(name, node, "delay") / setting.dt
    whole = np.rint(steps)
    if (steps < 0).any() or not np.allclose(steps, whole, rtol=1e-6, atol=1e-6):
        rule = f"delay must be whole steps of dt = {setting.dt:g} and not negative"
        raise NirError(name, f"{rule}, got {steps.ravel()[:4]} steps")
    if (one := common(whole)) is not None:
        return Delay(int(one))
    return DelayEach(torch.from_numpy(whole).long())
