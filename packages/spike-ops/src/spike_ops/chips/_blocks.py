"""A network as blocks of weights and neurons."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spike_ops.neuron import LIF, Diagonal, Neuron, Recurrent
from spike_ops.nir._errors import NirError
from spike_ops.nir._layer_pieces import out_shape
from spike_ops.nn._stepwise import Stepwise

Shape = tuple[int, ...]
# beside neurons; the last two do nothing here
RUN = (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)


@dataclass
class Block:
    """Weights, what pools before them, and the neurons behind: `neurons` is None in a readout.

    Attributes:
        name: Of the layer of weights.
        layer: The layer.
        neurons: The neurons.
        pools: Windows (height, width) of sums and averages before the layer, and whether averages.
        heard: Shape of a sample that the layer hears.
        shape: Shape of a sample behind it.
        area: Of the feature map that a flatten before a linear layer took apart; None without one.
        recurrent: The layer through which the neurons hear their own spikes, if they do.
    """

    name: str
    layer: Any
    neurons: LIF | None
    pools: list[tuple[nn.AvgPool2d, bool]]
    heard: Shape
    shape: Shape
    area: Shape | None = None
    recurrent: nn.Linear | Diagonal | None = None

    @property
    def size(self) -> int:
        """Neurons of the block."""
        return math.prod(self.shape)

    @property
    def weight(self) -> Tensor:
        """The weights that there are: zero where a mask has no connection."""
        found: Tensor = getattr(self.layer, "connected", self.layer.weight)
        return found.detach()

    @property
    def weights(self) -> int:
        """How many weights there are: those of a mask, else all."""
        mask = getattr(self.layer, "mask", None)
        return int(self.layer.weight.numel() if mask is None else mask.sum())

    @property
    def synapses(self) -> int:
        """Connections, those at borders counted as if there were none."""
        own = 0 if self.recurrent is None else self.recurrent.weight.numel()
        return self.weights * math.prod(self.shape[1:]) + own

    @property
    def fan_in(self) -> int:
        """The most connections into one neuron: weights that are not zero."""
        heard = (self.weight != 0).flatten(1).sum(1)
        if self.recurrent is not None:
            own = self.recurrent.weight != 0
            heard = heard + (own.sum(1) if own.ndim == 2 else own)
        return int(heard.max())


def blocks_of(net: nn.Module, input_shape: Shape) -> list[Block]:
    """Return the blocks of a network of layers one after the other.

    Raises:
        ValueError: A layer is none that chips run, or stands where it cannot.
    """
    blocks: list[Block] = []
    pools: list[tuple[nn.AvgPool2d, bool]] = []
    shape: Shape = tuple(input_shape)
    area: Shape | None = None
    for name, outer in _leaves(net):
        layer = outer.layer if isinstance(outer, Stepwise) else outer
        if isinstance(layer, LIF | Recurrent):
            if not blocks or blocks[-1].neurons is not None or pools:
                raise ValueError(f"{name}: neurons must stand right behind weights")
            blocks[-1].neurons, blocks[-1].recurrent = _neurons(name, layer)
            continue
        if not isinstance(layer, RUN):
            raise ValueError(f"{name}: {_unknown(layer)}")
        after = _after(name, outer, shape)
        if isinstance(layer, nn.Flatten):
            area = shape[1:] or None
        elif isinstance(layer, nn.AvgPool2d):
            _check_pool(name, layer)
            pools.append((layer, layer.divisor_override != 1))
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            if blocks and blocks[-1].neurons is None:
                raise ValueError(f"{name}: weights must not follow weights without neurons between")
            if (mode := getattr(layer, "padding_mode", "zeros")) != "zeros":
                raise ValueError(f"{name}: padding_mode must be 'zeros', got {mode!r}")
            if isinstance(layer, nn.Linear) and len(shape) > 1:
                rule = f"a linear layer must hear one axis, got samples {shape}: nn.Flatten(2)"
                raise ValueError(f"{name}: {rule} before it makes one")
            blocks.append(Block(name, layer, None, pools, shape, after, area))
            pools, area = [], None
        shape = after
    if not blocks or pools:
        raise ValueError("a network must have weights, and end in weights or neurons")
    return blocks


def _unknown(layer: nn.Module) -> str:
    can, kind = "Linear, Conv2d, AvgPool2d, Flatten, LIF, IF and Recurrent of these", type(layer)
    if kind.__module__.startswith(("torch.nn.", "spike_ops.")):
        return f"chips run {can}, got {kind.__name__}"
    return f"a network must be an nn.Sequential of {can}, got {kind.__name__} with its own forward"


def _neurons(name: str, layer: LIF | Recurrent) -> tuple[LIF, nn.Linear | Diagonal | None]:
    """Return neurons, and the layer through which they hear their own spikes."""
    _check_step(name, layer, LIF if isinstance(layer, LIF) else Recurrent)
    if isinstance(layer, LIF):
        return layer, None
    neurons, connection = layer.neuron, layer.connection
    if not isinstance(neurons, LIF) or not isinstance(connection, nn.Linear | Diagonal):
        kinds = f"{type(neurons).__name__} through {type(connection).__name__}"
        rule = "recurrent neurons must be LIF or IF through a Linear or Diagonal"
        raise ValueError(f"{name}: {rule}, got {kinds}")
    _check_step(name, neurons, LIF)
    return neurons, connection


def _check_step(name: str, neuron: Neuron, kind: type[Neuron]) -> None:
    if not neuron._is_a(kind):
        own = f"{type(neuron).__name__}, whose step is another"
        raise ValueError(f"{name}: chips run the step of {kind.__name__}, got {own}")


def window(pool: nn.AvgPool2d) -> int:
    """Return how many pixels a pool takes together."""
    size = pool.kernel_size
    return size[0] * size[1] if isinstance(size, tuple) else size * size


def _check_pool(name: str, pool: nn.AvgPool2d) -> None:
    edge, divisor = pool.padding, pool.divisor_override
    if divisor not in {None, 1, window(pool)}:
        raise ValueError(f"{name}: a pool must divide by its size or by 1, got {divisor}")
    padded = any(edge) if isinstance(edge, tuple) else bool(edge)
    if pool.ceil_mode or (padded and not pool.count_include_pad):
        told = f"ceil_mode={pool.ceil_mode}, count_include_pad={pool.count_include_pad}"
        raise ValueError(f"{name}: pools must round down and count what is padded, got {told}")


def _leaves(net: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    if isinstance(net, Stepwise) and isinstance(net.layer, nn.Sequential):
        net = nn.Sequential(OrderedDict((k, Stepwise(v)) for k, v in net.layer.named_children()))
    if not isinstance(net, nn.Sequential):
        return [(prefix or type(net).__name__, net)]
    inner = ((f"{prefix}.{k}".lstrip("."), each) for k, each in net.named_children())
    return [pair for name, each in inner for pair in _leaves(each, name)]


def _after(name: str, layer: nn.Module, shape: Shape) -> Shape:
    try:
        return out_shape(name, layer, shape)
    except (NirError, IndexError, RuntimeError) as error:
        raise ValueError(f"{name}: the layer must take samples {shape}: {error}") from error
