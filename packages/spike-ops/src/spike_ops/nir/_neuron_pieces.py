"""Neurons as nodes of a graph."""

import warnings
from typing import Any

import numpy as np

from spike_ops.neuron import CUBA, LIF, Neuron
from spike_ops.nir._cells import Integrator
from spike_ops.nir._errors import NirError
from spike_ops.nir._library import library
from spike_ops.nir._numbers import Array, as_array, decay_of, resistance_of, tau_of, weight_of
from spike_ops.nir._resets import soft_metadata
from spike_ops.nir._writing import Piece, Shape, Writing, one


def full(shape: Shape, value: Any) -> Array:
    return np.array(np.broadcast_to(as_array(value), shape))


def _membrane(shape: Shape, charge: tuple[Any, ...], dt: float) -> dict[str, Array]:
    """Return r, and with a leak τ and v_leak, of a membrane β v + g x + c."""
    beta, gain, offset = (full(shape, each) for each in charge)
    if (beta == 1).all():
        return {"r": resistance_of(gain, np.full(shape, dt))}
    tau = tau_of(beta, dt)
    rate, _ = decay_of(tau, dt)
    leak = resistance_of(offset, rate) if offset.any() else np.zeros(shape)
    return {"tau": tau, "r": resistance_of(gain, rate), "v_leak": leak}


def integrator(name: str, shape: Shape, charge: tuple[Any, ...], dt: float) -> Any:
    beta, offset = full(shape, charge[0]), full(shape, charge[2])
    if (beta == 1).any() and ((beta != 1).any() or offset.any()):
        raise NirError(name, "membranes must all leak, or none and without an offset")
    fields = _membrane(shape, charge, dt)
    return (library().LI if "tau" in fields else library().I)(**fields)


def _firing(
    name: str, shape: Shape, charge: tuple[Any, ...], writing: Writing, *, threshold: Any,
    fires_above: Any, reset: str, delay: bool, v_reset: Any,
) -> Piece:  # fmt: skip
    """Return a neuron; θ is `threshold`, and where h > `fires_above` it fires."""
    nir = library()
    if reset == "soft" and writing.soft_reset == "error":
        raise NirError(name, "NIR has no soft reset; soft_reset='subgraph' spells it out in nodes")
    told: dict[str, Any] = {}
    if reset == "soft" and writing.soft_reset in {"hard", "metadata"}:
        if writing.soft_reset == "metadata":
            told = soft_metadata(full(shape, threshold), delay)
        known = "; its metadata say that it is soft" if told else ""
        warnings.warn(f"{name}: soft reset exported as a reset to 0{known}", stacklevel=2)
        reset, v_reset = "hard", 0.0
    node = integrator(name, shape, charge, writing.dt)
    if reset == "hard":
        kind = nir.LIF if hasattr(node, "tau") else nir.IF
        fields = {
            each: getattr(node, each) for each in ("tau", "r", "v_leak") if hasattr(node, each)
        }
        own = {"v_threshold": full(shape, fires_above), "v_reset": full(shape, v_reset)}
        return one(name, kind(**fields, **own, metadata=told))
    fires = nir.Threshold(threshold=full(shape, fires_above))
    nodes = {"membrane": node, "spikes": fires}
    edges = [("input", "membrane"), ("membrane", "spikes"), ("spikes", "output")]
    if reset == "soft":
        carried = np.ones(shape) if delay else full(shape, charge[0])
        weight = weight_of(full(shape, threshold), carried, full(shape, charge[1]))
        nodes["feedback"] = nir.Scale(scale=weight)
        edges += [("spikes", "feedback"), ("feedback", "membrane")]
    size = np.array(shape)
    nodes |= {"input": nir.Input({"input": size}), "output": nir.Output({"output": size})}
    return one(name, nir.NIRGraph(nodes, edges))


def lif(name: str, module: Any, shape: Shape, writing: Writing) -> Piece:
    check_spiking(name, module)
    if isinstance(module, LIF):
        rule = module.rule
        charge: tuple[Any, ...] = (rule.beta, rule.gain, rule.offset)
        theta, reset, strict, delay = rule.threshold, rule.reset, rule.strict, rule.reset_delay
        v_reset = rule.v_reset
    else:
        rate = as_array(module.w.detach().double().sigmoid())
        rest = module.v_reset if module.reset_mode == "hard" else 0.0
        charge = 1 - rate, rate if module.decay_input else 1.0, rate * rest
        theta, reset, strict, delay = module.threshold, module.reset_mode, False, False
        v_reset = module.v_reset
    above = writing.threshold(name, theta, strict)
    return _firing(
        name, shape, charge, writing, threshold=theta, fires_above=above, reset=reset, delay=delay,
        v_reset=v_reset,
    )  # fmt: skip


def cells(name: str, module: Any, shape: Shape, writing: Writing) -> Piece:
    charge = module.beta, module.gain, module.offset
    if isinstance(module, Integrator):
        return one(name, integrator(name, shape, charge, writing.dt))
    check_spiking(name, module)
    return _firing(
        name, shape, charge, writing, threshold=module.threshold, fires_above=module.threshold,
        reset=module.reset_mode, delay=module.reset_delay, v_reset=module.v_reset,
    )  # fmt: skip


def check_spiking(name: str, module: Neuron) -> None:
    if not getattr(module.surrogate, "spiking", True):
        raise NirError(name, "neurons must spike, got a surrogate with spiking=False")


def cuba(name: str, module: CUBA, shape: Shape, writing: Writing) -> Piece:
    check_spiking(name, module)
    above = writing.threshold(name, module.threshold, False)
    cells = _firing(
        name, shape, (module.beta, 1.0, 0.0), writing, threshold=module.threshold,
        fires_above=above, reset=module.reset_mode, delay=False, v_reset=module.v_reset,
    )  # fmt: skip
    whole = with_synapse(name, shape, (module.alpha, 1.0, 0.0), cells, writing)
    if module.order == "current first":
        return whole
    late = library().Delay(delay=np.full(shape, writing.dt))
    return one(f"{name}_delay", late).then(whole)


def with_synapse(
    name: str, shape: Shape, synapse: tuple[Any, ...], cells: Piece, writing: Writing
) -> Piece:
    nir, fields = library(), _membrane(shape, synapse, writing.dt)
    node = cells.nodes.get(name)
    if isinstance(node, nir.LIF | nir.LI) and "tau" in fields and not fields["v_leak"].any():
        own = {"tau_syn": fields["tau"], "w_in": fields["r"], "tau_mem": node.tau}
        own |= {"r": node.r, "v_leak": node.v_leak}
        if isinstance(node, nir.LI):
            return one(name, nir.CubaLI(**own))
        own |= {"v_threshold": node.v_threshold, "v_reset": node.v_reset}
        return one(name, nir.CubaLIF(**own, metadata=node.metadata))
    current = integrator(name, shape, synapse, writing.dt)
    return one(f"{name}_synapse", current).then(cells)
