"""Building the kernels of neurons, when asked for."""

from torch import Tensor, nn

from spike_ops._c_build import CompilerError
from spike_ops._checked import module as module_of, tensor
from spike_ops.neuron._backends import Choice
from spike_ops.neuron._base import Neuron
from spike_ops.neuron._c_trace import NotInC


def build(module: nn.Module, currents: Tensor) -> dict[str, Choice]:
    """Build the kernels of all neurons in a module; return by name what runs each of them now.

    A kernel is the neuron's step in C, all steps of a block of neurons before the next block. It
    serves any number of steps and neurons of one floating-point type, and takes about a second to
    build. Neurons with `backend="auto"` use it from then on; what cannot be built stays as it is,
    and the choice says why. LIF neurons of the same settings share one.

    Args:
        module: A neuron or a network.
        currents: Any tensor of the type and device of the currents to come.

    Raises:
        RuntimeError: There is no C compiler, or it fails.
        TypeError: `module` is no module, or `currents` no tensor.

    Example:
        >>> import torch
        >>> from spike_ops.neuron import LIF
        >>> currents = torch.randn(8, 4, 16)
        >>> build(LIF(tau=3.0), currents)[""].backend
        'compiled'
    """
    module_of("module", module)
    tensor("currents", currents)
    chosen = {}
    for name, neuron in module.named_modules():
        if isinstance(neuron, Neuron):
            chosen[name] = _built(neuron, currents)
    return chosen


def _built(neuron: Neuron, currents: Tensor) -> Choice:
    if hindrance := neuron._hindrance(currents):
        return Choice("reference", hindrance)
    try:
        neuron._build(currents.dtype)
    except NotInC as error:
        return Choice("reference", str(error))
    except CompilerError as error:
        kind = type(neuron).__name__
        raise RuntimeError(f"the kernels of {kind} could not be built: {error}") from error
    return neuron.explain(currents)
