"""Neurons that take several nodes: what their spikes do comes back to them along a circle.

An edge that closes a circle takes one step. With s the spikes, an adaptive threshold is

    h = β v + g x;   a[t] = ρ a[t-1] + s[t-1];   s = 1 where h - κ a > θ

that is a membrane, a second one that hears the spikes, and a `Scale` -κ between. Of a reset by what
a has grown to, or to a value, NIR's nodes can say nothing: the spike would be multiplied by a
state. A refractory period of p steps is neurons with a hard reset within a circle:

    rest = s[t-1] + ... + s[t-p];   inner = neuron(x + B rest);   s = 1 where inner - rest > 1/2

While they rest a current B that nothing holds against makes them fire at every step, so that they
begin anew where they were reset to, and none of these spikes goes out.
"""

from typing import Any

import numpy as np

from spike_ops.neuron import ALIF, Refractory
from spike_ops.nir._errors import NirError
from spike_ops.nir._library import library
from spike_ops.nir._neuron_pieces import check_spiking, full, integrator
from spike_ops.nir._writing import Piece, Shape, Writing, one

# B in thresholds; a half float holds it
STRONGER = 2.0**14


def adaptive(name: str, module: ALIF, shape: Shape, writing: Writing) -> Piece:
    check_spiking(name, module)
    if module.reset_mode != "none":
        rule = "a reset must be 'none' beside an adaptive threshold, which NIR's nodes cannot take"
        raise NirError(name, f"{rule} off or forget at a spike, got {module.reset_mode!r}")
    above = writing.threshold(name, module.threshold, False)
    dt = writing.dt
    nodes = {
        "membrane": integrator(name, shape, (module.beta, module.gain, 0.0), dt),
        "spikes": library().Threshold(threshold=full(shape, above)),
        "adaptation": integrator(name, shape, (module.rho, 1.0, 0.0), dt),
        "raised": library().Scale(scale=full(shape, -module.kappa)),
    }
    edges = [
        ("input", "membrane"), ("membrane", "spikes"), ("spikes", "output"),
        ("spikes", "adaptation"), ("adaptation", "raised"), ("raised", "spikes"),
    ]  # fmt: skip
    return _graph(name, shape, nodes, edges)


def refractory(name: str, module: Refractory, shape: Shape, neurons: Piece, dt: float) -> Piece:
    nir, inner = library(), neurons.nodes.get(name)
    if not isinstance(inner, nir.LIF | nir.IF) or inner.metadata:
        kind = type(module.neuron).__name__
        rule = "only LIF neurons with a hard reset can rest in NIR, which holds no other membrane"
        raise NirError(name, f"{rule} still, got {kind}")
    if module.period == 0:
        return neurons
    strength = _strength(name, inner, dt)
    nodes = {
        "neurons": inner,
        "spikes": nir.Threshold(threshold=full(shape, 0.5)),
        "drive": nir.Scale(scale=full(shape, strength)),
        "hold": nir.Scale(scale=full(shape, -1.0)),
    }
    edges = [
        ("input", "neurons"), ("neurons", "spikes"), ("spikes", "output"),
        ("drive", "neurons"), ("hold", "spikes"),
    ]  # fmt: skip
    for step in range(module.period):
        rests = f"rests_{step}"
        nodes[rests] = nir.Delay(delay=full(shape, step * dt))
        edges += [("spikes", rests), (rests, "drive"), (rests, "hold")]
    return _graph(name, shape, nodes, edges)


def _strength(name: str, node: Any, dt: float) -> float:
    """Return B: a power of two, many times what the threshold needs as current."""
    rate = dt / node.tau if hasattr(node, "tau") else dt
    gain = node.r * rate
    if not (gain > 0).all():
        raise NirError(name, "neurons that rest must be driven up by a positive current")
    leak = np.abs(getattr(node, "v_leak", 0.0)) * rate
    needed = (np.abs(node.v_threshold) + np.abs(node.v_reset) + leak) / gain
    return float(STRONGER * 2.0 ** np.ceil(np.log2(max(needed.max(), 1.0))))


def _graph(name: str, shape: Shape, nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Piece:
    nir, size = library(), np.array(shape)
    ends = {"input": nir.Input({"input": size}), "output": nir.Output({"output": size})}
    return one(name, nir.NIRGraph(nodes | ends, edges))
