import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lowrank_kernels import (
    identity_block,
    identity_weight,
    lowrank_conv2d,
    lowrank_conv2d_identity,
    lowrank_linear,
    lowrank_linear_identity,
)
from lowrank_kernels._dominant import dominant_rows
from lowrank_kernels.testing import (
    CONV2D_IDENTITY_LAWS,
    IDENTITY_BLOCK_LAWS,
    IDENTITY_LAWS,
    assert_close,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ROWS = [
    *((lowrank_linear_identity, law) for law in IDENTITY_LAWS),
    *((lowrank_conv2d_identity, law) for law in CONV2D_IDENTITY_LAWS),
    *((identity_block, law) for law in IDENTITY_BLOCK_LAWS),
]
# torch's own remark on 'same' with an even kernel, made by the dense convolution too
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize("implementation, law", ROWS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_obeys(implementation, dtype, law):
    law(implementation, torch.empty(0, dtype=dtype))


@given(st.integers(1, 25), st.data())
def test_the_chosen_rows_span_the_others_with_small_coefficients(m, data):
    r = data.draw(st.integers(0, m))
    bound = data.draw(st.sampled_from([1.05, 1.5, 2.0, 10.0]))
    scale = data.draw(st.sampled_from([1e-30, 1.0, 1e30]))
    generator = torch.Generator().manual_seed(m + 31 * r)
    A = scale * torch.randn(m, r, generator=generator, dtype=torch.float64)
    chosen, others, T = dominant_rows(A, bound)
    assert sorted([*chosen.tolist(), *others.tolist()]) == list(range(m))
    assert not T.numel() or T.abs().max() <= bound
    assert_close("others", A[others], T @ A[chosen], rtol=1e-9)


def test_coefficients_stay_small_where_elimination_alone_lets_them_grow():
    r = 30
    one = torch.ones(r, r, dtype=torch.float64)
    A = torch.cat([torch.eye(r, dtype=torch.float64) - one.tril(-1), -0.999 * one[:1]])
    _, lower, _ = torch.linalg.lu(A)  # pivots are met in their order: nothing is exchanged
    T = torch.linalg.solve_triangular(lower[:r], lower[r:], upper=False, left=False)
    assert T.abs().max() > 1e8
    for bound in (2.0, 1.1):
        assert dominant_rows(A, bound)[2].abs().max() <= bound


def test_the_second_stage_is_as_well_conditioned_as_the_bound_says():
    torch.manual_seed(0)
    m, r, bound = 60, 20, 2.0
    up = torch.randn(m, r, dtype=torch.float64) * 10.0 ** -torch.arange(r)
    block = identity_block(torch.randn(r, 8, dtype=torch.float64), up, bound=bound)
    second = torch.cat([torch.eye(r, dtype=torch.float64), block.tail])
    assert torch.linalg.cond(up) > 1e15
    assert torch.linalg.cond(second) <= math.sqrt(1 + bound**2 * r * (m - r))


def test_dependent_directions_are_no_obstacle():
    torch.manual_seed(0)
    down, up = torch.randn(6, 9).double(), torch.randn(12, 6).double()
    up[:, 3], up[:, 4] = up[:, 0], 0
    W, _ = identity_weight(*identity_block(down, up))
    assert_close("W", W, up @ down)
    zero, _ = identity_weight(*identity_block(down, torch.zeros(12, 6).double()))
    assert not zero.any()


def test_a_factor_of_full_row_rank_needs_no_tail():
    torch.manual_seed(0)
    down, up = torch.randn(4, 9), torch.randn(4, 4)
    block = identity_block(down, up)
    assert block.tail.shape == (0, 4)
    assert_close("W", identity_weight(*block)[0], up @ down)


def test_a_rank_above_the_outputs_is_refused_and_one_below_is_not():
    down, up = torch.randn(5, 9), torch.randn(3, 5)
    with pytest.raises(ValueError, match="rank must be at most the outputs, 3, got 5"):
        identity_block(down, up)
    W, _ = identity_weight(*identity_block(down, up, rank=3))
    assert_close("W", W, up[:, :3] @ down[:3])


def test_convolutions_have_blocks_too():
    torch.manual_seed(0)
    x, down, up = torch.randn(2, 3, 6, 5), torch.randn(8, 3, 3, 3), torch.randn(12, 8)
    bias, inner = torch.randn(12), torch.randn(8)
    for r in (1, 4, 8):
        block = identity_block(down, up, bias, r, inner_bias=inner)
        assert block.head.shape == (r, 3, 3, 3)
        got = lowrank_conv2d_identity(x, *block, padding="same", dilation=2)
        want = lowrank_conv2d(x, down, up, bias, r, inner_bias=inner, padding="same", dilation=2)
        assert_close(f"y at rank {r}", got, want)


def test_outputs_left_as_they_are_can_be_sorted_by_the_next_weight():
    torch.manual_seed(0)
    x, down, up, W = (torch.randn(s).double() for s in ((5, 9), (4, 9), (7, 4), (3, 7)))
    block = identity_block(down, up)
    unsorted = lowrank_linear_identity(x, block.head, block.tail)
    want = lowrank_linear(x, down, up) @ W.T
    assert_close("y", unsorted @ W[:, block.order.argsort()].T, want)


def arguments(dtype=torch.float64, kernel=()):
    torch.manual_seed(0)
    shapes = ((3, 4, *(5 for _ in kernel)), (2, 4, *kernel), (5, 2), (2,), (5,))
    x, *rest = (torch.randn(s, dtype=dtype) for s in shapes)
    return x, *rest, torch.randperm(7)


@pytest.mark.parametrize("product, kernel", [(lowrank_linear_identity, ()),
                                             (lowrank_conv2d_identity, (3, 2))])  # fmt: skip
def test_gradcheck_holds(product, kernel):
    *leaves, order = arguments(kernel=kernel)
    leaves = [t.requires_grad_() for t in leaves]
    call = lambda x, head, tail, b, c: product(x, head, tail, order, b, c)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves, fast_mode=bool(kernel))
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=bool(kernel))


@pytest.mark.parametrize("product, kernel", [(lowrank_linear_identity, ()),
                                             (lowrank_conv2d_identity, (3, 2))])  # fmt: skip
@pytest.mark.parametrize("mapped", range(6))
def test_vmap_maps_each_argument(product, kernel, mapped):
    x, head, tail, b, c, order = arguments(kernel=kernel)
    given = [x, head, tail, order, b, c]
    given[mapped] = torch.stack([given[mapped], given[mapped].flip(0)])
    in_dims = tuple(0 if i == mapped else None for i in range(6))
    got = torch.vmap(product, in_dims)(*given)
    for i in range(2):
        one = [t[i] if k == mapped else t for k, t in enumerate(given)]
        assert_close("y", got[i], product(*one))


@pytest.mark.parametrize("product, kernel", [(lowrank_linear_identity, ()),
                                             (lowrank_conv2d_identity, (3, 2))])  # fmt: skip
def test_autocast_reaches_it(product, kernel):
    x, head, tail, b, c, order = arguments(torch.float32, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        got = product(x, head, tail, order, b, c)
    assert got.dtype == torch.bfloat16
    assert_close("y", got, product(x, head, tail, order, b, c).bfloat16())


class Layer(nn.Module):
    def __init__(self, kernel=()):
        super().__init__()
        _, head, tail, b, c, order = arguments(torch.float32, kernel)
        self.product = lowrank_conv2d_identity if kernel else lowrank_linear_identity
        self.head, self.tail = nn.Parameter(head), nn.Parameter(tail)
        self.b, self.c = nn.Parameter(b), nn.Parameter(c)
        self.register_buffer("order", order)

    def forward(self, x):
        return self.product(x, self.head, self.tail, self.order, self.b, self.c).relu()


@pytest.mark.parametrize("kernel", [(), (3, 2)])
def test_one_graph_serves_every_batch(kernel):
    torch._dynamo.reset()
    layer, counter = Layer(kernel), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    x = arguments(torch.float32, kernel)[0]
    for n in (3, 7, 2):
        more = x[:1].expand(n, *x.shape[1:]).contiguous()
        assert_close("y", compiled(more), layer(more))
    assert counter.frame_count == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kernel", [(), (3, 2)])
def test_a_program_takes_any_batch_and_needs_torch_alone(kernel, strict):
    layer, x = Layer(kernel).eval(), arguments(torch.float32, kernel)[0]
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    exported = torch.export.export(layer, (x,), dynamic_shapes=shapes, strict=strict)
    more = torch.cat([x, x])
    assert_close("y", exported.module()(more), layer(more))
    assert not any("lowrank" in str(node.target) for node in exported.graph.nodes)


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_takes_blocks_of_any_rank(strict):
    class Product(nn.Module):
        def forward(self, x, head, tail, order, b, c):
            return lowrank_linear_identity(x, head, tail, order, b, c)

    def of(r):
        torch.manual_seed(r)
        x, down, up, bias = (torch.randn(s) for s in ((5, 9), (6, 9), (12, 6), (12,)))
        return x, *identity_block(down, up, bias, r)

    any_ = torch.export.Dim.DYNAMIC
    shapes = {"x": None, "head": {0: any_}, "tail": {0: any_, 1: any_}, "order": None,
              "b": {0: any_}, "c": {0: any_}}  # fmt: skip
    program = torch.export.export(Product(), of(4), dynamic_shapes=shapes, strict=strict).module()
    for r in (2, 3, 6):
        assert_close("y", program(*of(r)), lowrank_linear_identity(*of(r)))


ERRORS = [
    ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
    ({"x": torch.ones(())}, ValueError, r"x must be \[\.\.\., in\], got a 0-dim tensor"),
    ({"x": torch.ones(3, 5)}, ValueError,
     r"x must be \[\.\.\., in\] with in = 4, as head \[2, 4\] has it, got \[3, 5\]"),
    ({"x": torch.ones(3, 4).long()}, TypeError, "x must be float64, float32, float16"),
    ({"x": torch.ones(3, 4).double()}, TypeError, "head must have the dtype of x"),
    ({"head": torch.ones(2, 4, 1)}, ValueError, r"head must be \[r, in\], got \[2, 4, 1\]"),
    ({"head": torch.ones(3, 4)}, ValueError,
     r"tail must be \[out - r, r\] with r = 3, as head \[3, 4\] has it, got \[5, 2\]"),
    ({"tail": torch.ones(2)}, ValueError, r"tail must be \[out - r, r\], got \[2\]"),
    ({"tail": torch.ones(5, 2, device="meta")}, ValueError, "tail must be on the device of x"),
    ({"head_bias": torch.ones(1)}, ValueError, r"head_bias must be \[2\], got \[1\]"),
    ({"tail_bias": torch.ones(1)}, ValueError, r"tail_bias must be \[5\], got \[1\]"),
    ({"tail_bias": torch.ones(5).double()}, TypeError, "tail_bias must have the dtype of x"),
    ({"order": [0]}, TypeError, "order must be a tensor or None, got list"),
    ({"order": torch.ones(7)}, TypeError, "order must be int64, got torch.float32"),
    ({"order": torch.arange(6)}, ValueError, r"order must be \[7\], got \[6\]"),
    ({"order": torch.arange(1, 8)}, ValueError, r"order must be in 0\.\.6, got 7"),
    ({"order": torch.arange(7, device="meta")}, ValueError, "order must be on the device of x"),
]  # fmt: skip


@pytest.mark.parametrize(
    "change, kind, message", ERRORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_product_names_what_is_wrong(change, kind, message):
    names = ("x", "head", "tail", "head_bias", "tail_bias", "order")
    given = dict(zip(names, arguments(torch.float32), strict=True))
    with pytest.raises(kind, match=message):
        lowrank_linear_identity(**(given | change))


CONV_ERRORS = [
    ({"head": torch.ones(2, 4)}, ValueError, r"head must be \[r, in, kh, kw\], got \[2, 4\]"),
    ({"x": torch.ones(3, 4)}, ValueError, r"x must be \[N, in, H, W\] or \[in, H, W\]"),
    ({"x": torch.ones(3, 5, 5, 5)}, ValueError,
     r"x must be .* with in = 4, as head \[2, 4, 3, 2\] has it, got \[3, 5, 5, 5\]"),
    ({"x": torch.ones(3, 4, 2, 5)}, ValueError,
     "x must be as large as the kernel, 3x2, got an image of 2x5"),
    ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ({"padding": "full"}, ValueError, "padding must be 'same', 'valid' or ints, got 'full'"),
    ({"head": torch.ones(0, 4, 3, 2), "tail": torch.ones(7, 0), "head_bias": None,
      "tail_bias": None}, ValueError, "head must have a row"),
]  # fmt: skip


@pytest.mark.parametrize(
    "change, kind, message", CONV_ERRORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_convolution_names_what_is_wrong(change, kind, message):
    names = ("x", "head", "tail", "head_bias", "tail_bias", "order")
    given = dict(zip(names, arguments(torch.float32, (3, 2)), strict=True))
    with pytest.raises(kind, match=message):
        lowrank_conv2d_identity(**(given | change))


def test_a_block_names_what_is_wrong():
    down, up = torch.ones(3, 4), torch.ones(5, 3)
    with pytest.raises(TypeError, match="bound must be a number, got str '2'"):
        identity_block(torch.ones(3, 6), torch.ones(4, 3), bound="2")
    with pytest.raises(ValueError, match="bound must be above 1, got 1"):
        identity_block(down, up, bound=1)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.3, got 4"):
        identity_block(down, up, rank=4)
    with pytest.raises(ValueError, match="up must be finite, got nan"):
        identity_block(down, torch.full((5, 3), torch.nan))
    with pytest.raises(ValueError, match=r"up must be \[out, R\] with R = 3"):
        identity_block(down, torch.ones(5, 4))
    with pytest.raises(TypeError, match="down must be float64"):
        identity_block(down.long(), up.long())
