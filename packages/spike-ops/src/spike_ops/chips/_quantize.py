"""Weights, thresholds and decays as whole numbers."""

import math

import torch
from torch import nn

from spike_ops._checked import whole_number
from spike_ops.chips._blocks import Block, Shape, blocks_of, window
from spike_ops.chips._check import report_of, shift_of
from spike_ops.chips._integer import DECAY_BITS, IntegerLayer, IntegerNet
from spike_ops.chips._table import Chip, chip_named
from spike_ops.nir._sample import sample_shape


def quantize(
    net: nn.Module,
    input_shape: Shape | int,
    *,
    chip: str | Chip | None = None,
    bits: int | None = None,
    state_bits: int | None = None,
) -> IntegerNet:
    """Return a network in whole numbers: weights of so many bits, one scale for each layer.

    With m the largest absolute weight of a layer and n = 2^(bits - 1) - 1, a unit is worth m / n
    (times the weight of the current, `decay_input`); weights, biases, thresholds and resets are
    rounded to the nearest unit, ties to even. Averages before a layer become sums, and its unit so
    much smaller. A decay is β 4096 rounded to the nearest whole number, or, for 1 - 2^-k, a shift.

    Args:
        net: As `check` takes it.
        input_shape: Shape of one sample, as `check` takes it.
        chip: Refuse what `check` finds that it cannot run; a readout, which is for the host, stays.
        bits: Bits of a weight, 2 to 16, and no more than the chip's; without one the chip's, or 8.
        state_bits: Bits of a membrane, 8 to 32, likewise; or 32.

    Raises:
        ValueError: An argument is outside its range, the network is no such sequence or does not
            fit the chip, a reset is delayed, neurons are recurrent, or a threshold is no number of
            the state.

    Example:
        >>> from spike_ops.neuron import IF
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), IF(reset="soft"))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[0.5, -0.25]]))
        >>> whole = quantize(net, (2,), bits=8)
        >>> whole.quantised[0].weight.tolist(), whole.quantised[0].threshold
        ([[127, -64]], 254)
        >>> whole(torch.ones(8, 1, 2)).flatten().tolist()
        [0, 0, 0, 0, 1, 0, 0, 0]
    """
    limits = None if chip is None else chip_named(chip)
    bits = _bits("bits", bits, (2, 16), 8 if limits is None else limits.weight_bits, limits)
    state_bits = _bits(
        "state_bits", state_bits, (8, 32), 32 if limits is None else limits.state_bits, limits
    )
    sample = sample_shape(net, input_shape)
    blocks = blocks_of(net, sample)
    if limits is not None:
        _check_fit(blocks, limits)
    for block in blocks:
        if block.recurrent is not None:
            rule = "neurons that hear each other are not computed in whole numbers here"
            raise ValueError(f"{block.name}: {rule}; check takes them")
    layers = [_quantised(block, bits, state_bits) for block in blocks]
    return IntegerNet(layers, state_bits, sample)


def _bits(name: str, asked: int | None, ends: Shape, usual: int, chip: Chip | None) -> int:
    least, most = ends
    bits = usual if asked is None else whole_number(name, asked)
    if not least <= bits <= most:
        raise ValueError(f"{name} must be in {least}..{most}, got {bits}")
    if chip is not None and bits > usual:
        raise ValueError(f"{name} must be at most the {usual} of {chip.name}, got {bits}")
    return bits


def _check_fit(blocks: list[Block], chip: Chip) -> None:
    firing = [block for block in blocks if block.neurons is not None]
    if firing and (problems := report_of(firing, chip).problems):
        raise ValueError(f"the network must fit {chip.name}: {'; '.join(problems)}")


@torch.no_grad()
def _quantised(block: Block, bits: int, state_bits: int) -> IntegerLayer:
    weight, bias = block.weight.double(), block.layer.bias
    rule = None if block.neurons is None else block.neurons.rule
    offset = torch.zeros(len(weight)) if bias is None else bias
    if rule is not None and rule.offset:
        offset = offset + rule.offset / rule.gain
    if not weight.isfinite().all() or not weight.any():
        raise ValueError(f"{block.name}: weights must be finite and not all zero")
    if not offset.isfinite().all():
        raise ValueError(f"{block.name}: biases must be finite")
    unit = weight.abs().max().item() / (2 ** (bits - 1) - 1)
    area = math.prod(window(pool) for pool, is_mean in block.pools if is_mean)
    whole_bias = (offset.double() * area / unit).round()
    if not whole_bias.abs().max() < 2**31:
        raise ValueError(f"{block.name}: biases must be below 2^31 units of {unit / area:g}")
    scale = unit * (1.0 if rule is None else rule.gain) / area
    return IntegerLayer(
        block, (weight / unit).round().to(torch.int32), whole_bias.to(torch.int32), scale,
        _threshold(block, scale, state_bits), 0 if rule is None else round(rule.v_reset / scale),
        _decay(block), None if rule is None else shift_of(rule.beta),
    )  # fmt: skip


def _threshold(block: Block, scale: float, state_bits: int) -> int | None:
    if block.neurons is None:
        return None
    rule = block.neurons.rule
    threshold = round(rule.threshold / scale)
    if rule.reset_delay or not 0 < threshold < 2 ** (state_bits - 1):
        told = "the reset delayed" if rule.reset_delay else f"a threshold of {threshold}"
        rest = f"membranes of {state_bits} bits and thresholds from 1"
        raise ValueError(f"{block.name}: neurons must have {rest}, got {told}")
    return threshold


def _decay(block: Block) -> int:
    beta = 1.0 if block.neurons is None else block.neurons.rule.beta
    decay = round(beta * 2**DECAY_BITS)
    if beta < 1 and decay == 2**DECAY_BITS and shift_of(beta) is None:
        rule = f"a leak must be one that {DECAY_BITS} bits tell from none"
        raise ValueError(f"{block.name}: {rule}, got a decay of {beta}")
    return decay
