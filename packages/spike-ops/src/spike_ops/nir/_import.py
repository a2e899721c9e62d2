"""Graphs as networks."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from spike_ops._checked import positive
from spike_ops.nir._files import read
from spike_ops.nir._graph import Plan, flat
from spike_ops.nir._library import library
from spike_ops.nir._modules import Setting, module_of
from spike_ops.nir._network import NirNetwork
from spike_ops.nir._resets import with_soft_resets
from spike_ops.nir._shapes import Shape, shapes_of
from spike_ops.surrogate import Surrogate


def from_nir(
    graph: Any,
    *,
    dt: float,
    dtype: torch.dtype | None = None,
    surrogate: Surrogate | None = None,
) -> NirNetwork:
    """Return a graph as a network: inputs [T, B, ...] in, what the Output node hears out.

    A graph is in continuous time and does not say how long a step is: constants become those of
    Euler steps of `dt` (τ v' = v_leak - v + R I is h = (1 - dt/τ) v + (dt/τ)(R I + v_leak)), and a
    neuron fires where h > v_threshold. A current synapse (`CubaLI`, `CubaLIF`) acts in the step in
    which its input comes. Membranes begin at `v_reset` where there is one, else at 0. Edges that
    close a circle take one step: spikes wait, so that a bias behind them acts from the first step
    on. The soft reset that `to_nir` writes is found again.

    Args:
        graph: A `nir.NIRGraph`, or the path of a file.
        dt: Length of a step, in the graph's unit of time (seconds).
        dtype: Of parameters and states; None is torch's default. Where a membrane can just reach
            its threshold, take the type of the network that was exported.
        surrogate: Gradient of the spikes; None is the package's default.

    Raises:
        NirError: The graph is damaged or says what cannot be run; it names node and rule.
        ValueError: `dt` is not positive.
        TypeError: `graph` is neither a graph nor a path.
        FileNotFoundError: There is no such file.
        ImportError: nir is not installed (`pip install 'spike-ops[nir]'`).

    Source: J. E. Pedersen et al., "Neuromorphic intermediate representation", Nature Communications
    2024, table 1.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> from spike_ops.nir import to_nir
        >>> net = from_nir(to_nir(LIF(tau=2.0, reset="soft"), (1,), dt=1e-3), dt=1e-3)
        >>> net(torch.full((4, 1, 1), 1.5)).flatten()
        tensor([0., 1., 0., 1.])
    """
    positive(dt=dt)
    if isinstance(graph, str | Path):
        graph = read(graph)
    if not isinstance(graph, library().NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph or a path, got {type(graph).__name__}")
    setting = Setting(float(dt), dtype or torch.get_default_dtype(), surrogate)
    if not isinstance(dtype, torch.dtype | None) or not setting.dtype.is_floating_point:
        raise ValueError(f"dtype must be floating point, got {dtype}")
    plan = flat(graph)
    shapes = shapes_of(plan)
    layers = {name: _layer(name, plan, shapes, setting) for name in plan.nodes}
    whole = with_soft_resets(plan, setting.dt)
    for name, node in whole.nodes.items():
        if node is not plan.nodes[name]:
            layers[name] = module_of(name, node, shapes[name], setting)
    return NirNetwork(whole, {name: layers[name] for name in whole.nodes}, shapes, setting.dt)


def _layer(name: str, plan: Plan, shapes: dict[str, Shape], setting: Setting) -> nn.Module:
    heard = plan.before(name)
    return module_of(name, plan.nodes[name], shapes[heard[0] if heard else name], setting)
