import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lowrank_kernels import lowrank_conv2d, lowrank_linear

ops = torch.ops.lowrank_kernels


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("r", [0, 1, 5, 8])
def test_a_linear_product_counts_its_active_rank(r):
    x, down, up, bias = (torch.randn(s) for s in ((2, 3, 10), (8, 10), (6, 8), (6,)))
    want = 2 * 2 * 3 * r * (10 + 6)
    assert flops(lambda: lowrank_linear(x, down, up, bias, r)) == want
    assert flops(lambda: ops.linear(x, down, up, bias, torch.tensor(r))) == want


@pytest.mark.parametrize("r", [1, 5, 8])
def test_a_backward_pass_counts_its_active_rank(r):
    tensors = [torch.randn(s).requires_grad_() for s in ((3, 10), (8, 10), (6, 8), (6,))]
    forward = 2 * 3 * r * (10 + 6)
    assert flops(lambda: lowrank_linear(*tensors, r).sum().backward()) == 3 * forward
    # the operator computes the narrow product a second time
    again = 2 * 3 * r * 10
    rank = torch.tensor(r)
    assert flops(lambda: ops.linear(*tensors, rank).sum().backward()) == 3 * forward + again


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("r", [1, 3, 4])
def test_a_convolution_counts_its_active_rank(r, groups):
    x, bias = torch.randn(2, 4, 7, 6), torch.randn(6)
    down, up = torch.randn(groups, 4, 4 // groups, 3, 2), torch.randn(groups, 6 // groups, 4)
    pixels = 2 * 5 * 5
    want = 2 * pixels * r * groups * (4 // groups * 3 * 2 + 6 // groups)
    rank, geometry = torch.tensor(r), ([1, 1], [0, 0], [1, 1])
    assert flops(lambda: ops.conv2d(x, down, up, bias, rank, *geometry)) == want
    if groups == 1:
        assert flops(lambda: lowrank_conv2d(x, down[0], up[0], bias, r)) == want


def test_the_adjoints_of_a_convolution_cost_what_it_does():
    x, w, rank, geometry = torch.randn(2, 4, 7, 6), torch.randn(2, 5, 2, 3, 2), torch.tensor(3), (
        [1, 1], [0, 0], [1, 1],
    )  # fmt: skip
    h = ops.conv_shrink(x, w, rank, *geometry)
    want = 2 * (2 * 5 * 5) * 2 * 3 * (2 * 3 * 2)
    assert flops(lambda: ops.conv_shrink(x, w, rank, *geometry)) == want
    assert flops(lambda: ops.conv_expand(h, w, rank, [7, 6], *geometry)) == want
    assert flops(lambda: ops.conv_outer(h, x, rank, [3, 2], *geometry)) == want
