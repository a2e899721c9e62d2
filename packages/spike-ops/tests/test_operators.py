import pytest
import torch

from spike_ops import pack_bits

CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


def packed(*shape):
    return pack_bits(torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3)


ops = torch.ops.spike_ops
OPTIONS = ([1, 1], [1, 1], [1, 1], 1, "event")
CALLS = {
    "pack": (ops.pack, (torch.rand(3, 5) < 0.5,)),
    "pack_checked": (ops.pack_checked, ((torch.rand(3, 5) < 0.5).float(),)),
    "unpack": (ops.unpack, (packed(3, 5), [3, 5], torch.float32)),
    "mm": (ops.mm, (packed(4, 6), 4, torch.rand(6, 3), "event")),
    "mm_transposed": (ops.mm_transposed, (packed(4, 6), 6, torch.rand(4, 3), "event")),
    "bmm": (ops.bmm, (packed(2, 4, 6), 4, torch.rand(2, 6, 3), "dense")),
    "conv": (
        ops.conv,
        (packed(2, 3, 5, 5), [2, 3, 5, 5], torch.rand(4, 3, 3, 3), None, *OPTIONS),
    ),
    "conv_weight": (
        ops.conv_weight,
        (packed(2, 3, 5, 5), [2, 3, 5, 5], [4, 3, 3, 3], torch.rand(2, 4, 5, 5), *OPTIONS),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_are_registered_as_they_behave(name):
    operator, arguments = CALLS[name]
    torch.library.opcheck(operator, arguments, test_utils=CHECKS)
