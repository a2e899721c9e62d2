"""Networks as graphs."""

from typing import Any

import torch
from torch import nn

from spike_ops._checked import positive
from spike_ops._tracing import warn_of_training
from spike_ops.nir._folding import without_resistance
from spike_ops.nir._layer_pieces import NORMS
from spike_ops.nir._network import NirNetwork
from spike_ops.nir._sample import PASSED, check_own, sample_shape
from spike_ops.nir._trace import Exporter, of_network
from spike_ops.nir._writing import Shape, SoftReset, Ties, Writing


def to_nir(
    net: nn.Module,
    input_shape: Shape | int | None = None,
    *,
    dt: float,
    soft_reset: SoftReset = "subgraph",
    ties: Ties = "exact",
    fold_r: bool = False,
) -> Any:
    """Return a network as a graph of NIR: `nir.NIRGraph`, which `write` puts into a file.

    The network may be any module whose `forward` torch.fx can trace: layers and neurons one after
    the other, sums of branches. NIR is in continuous time, fires above the threshold only and has
    no soft reset, so three things are spelt out:

    * a decay β becomes τ = dt / (1 - β), a gain g becomes r = g τ / dt: a reader that takes Euler
      steps of `dt` computes what the network does, one with other steps an approximation of it;
    * neurons that fire at θ itself get the next smaller number of the network's type as threshold;
    * a soft reset becomes a graph of a membrane, a threshold and a feedback, which any reader can
      run and `from_nir` finds again.

    A batch norm (in `Stepwise`, or one over time) is exported by its running statistics; one that
    trains warns, as it computes something else. A network of `convert` is exported by its
    `to_sequential()`. Neurons with a refractory period and a hard reset, and those with an
    adaptive threshold and no reset, become circles of nodes, which come back as such: to rest they
    are driven by a current of 2^14 thresholds, which theirs must stay above by its negative.

    Args:
        net: The network, [T, B, ...] in and out; torch's layers for batches stand in `Stepwise`.
        input_shape: Shape of one sample. Batch, or time and batch, may stand before it where the
            first layer tells; None takes the first layer's features, if that is linear.
        dt: Length of a step, in seconds.
        soft_reset: `"subgraph"` as above; `"metadata"`: as a node of NIR with a reset to 0, whose
            metadata say what it is, for readers that know NIR's own neurons only: `from_nir` finds
            the soft reset again, any other reader runs another network until it is told, so it
            warns; `"hard"`: the same without metadata; or `"error"`.
        ties: For neurons that fire at θ itself: `"exact"` as above; `"keep"`: θ itself, with a
            warning; or `"error"`.
        fold_r: Multiply the resistances into the weights before, so that r = 1 everywhere, for
            readers that take no notice of r. Products are rounded.

    Raises:
        NirError: NIR has no nodes for a part of the network; it names the part and why.
        ValueError: An argument is outside its range, or the shape cannot be told.
        ImportError: nir is not installed (`pip install 'spike-ops[nir]'`).

    Source: J. E. Pedersen et al., "Neuromorphic intermediate representation", Nature Communications
    2024, table 1.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> graph = to_nir(nn.Sequential(nn.Linear(4, 2), LIF(tau=2.0)), dt=1e-3)
        >>> graph.edges
        [('input', '0'), ('0', '1'), ('1', 'output')]
        >>> graph.nodes["1"].tau.tolist(), graph.nodes["1"].r.tolist()
        ([0.002, 0.002], [1.0, 1.0])
    """
    check_own(net)
    positive(dt=dt)
    for name, got, known in (
        ("soft_reset", soft_reset, ("subgraph", "metadata", "hard", "error")),
        ("ties", ties, ("exact", "keep", "error")),
    ):
        if got not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {got!r}")
    floats = (each.dtype for each in net.parameters() if each.is_floating_point())
    writing = Writing(float(dt), soft_reset, ties, next(floats, torch.get_default_dtype()))
    if isinstance(net, NirNetwork):
        graph = of_network(net, writing)
    else:
        graph = Exporter(net, _shape(net, input_shape), writing).graph()
    warn_of_training(net, NORMS)
    return without_resistance(graph) if fold_r else graph


def _shape(net: nn.Module, asked: Any) -> Shape:
    if asked is not None:
        return sample_shape(net, asked)
    leaves = [each for each in net.modules() if not list(each.children())]
    first = next((each for each in leaves if not isinstance(each, PASSED)), None)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise ValueError("input_shape must be given: the first layer is not linear")
