import pytest
import torch

ops = torch.ops.lowrank_kernels
GEOMETRY = ([2, 1], [1, 0], [1, 2])  # stride, padding, dilation
SHAPES = {"x": (3, 5), "h": (3, 6), "down": (6, 5), "up": (4, 6), "bias": (4,)}
IMAGES = {
    "x": (2, 4, 5, 6),
    "h": (2, 2, 3, 3, 2),
    "down": (2, 3, 2, 3, 3),
    "up": (2, 2, 3),
    "bias": (4,),
}
# operator, tensors, what follows the rank
LINEAR = {
    "linear": ("x", "down", "up", "bias"),
    "shrink": ("x", "down"),
    "expand": ("h", "down"),
    "outer": ("h", "x"),
}
CONVOLUTIONS = {
    "conv2d": (("x", "down", "up", "bias"), ()),
    "conv_shrink": (("x", "down"), ()),
    "conv_expand": (("h", "down"), ([5, 6],)),
    "conv_outer": (("h", "x"), ([3, 3],)),
}
ROWS = [(name, SHAPES, tensors, ()) for name, tensors in LINEAR.items()] + [
    (name, IMAGES, tensors, (*more, *GEOMETRY)) for name, (tensors, more) in CONVOLUTIONS.items()
]


def leaves(shapes, names):
    torch.manual_seed(0)
    return [torch.randn(shapes[n], dtype=torch.float64).requires_grad_() for n in names]


def size(shapes):
    return shapes["up"][-1]


@pytest.mark.parametrize(
    "name, shapes, names, more", ROWS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_derivatives_of_any_order_are_right_at_every_rank(name, shapes, names, more):
    tensors = leaves(shapes, names)
    for r in {0, 1, size(shapes)}:
        rank = torch.tensor(r)
        call = lambda *t, rank=rank: getattr(ops, name)(*t, rank, *more)  # noqa: E731
        assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize(
    "name, shapes, names, more", ROWS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_opcheck_finds_nothing(name, shapes, names, more):
    operator = getattr(ops, name)
    for tensors in (leaves(shapes, names), [t.detach() for t in leaves(shapes, names)]):
        torch.library.opcheck(operator, (*tensors, torch.tensor(2), *more))


@pytest.mark.parametrize("strides", ["transposed", "batched"])
def test_opcheck_finds_nothing_for_other_strides(strides):
    x, down, up = leaves(SHAPES, ("x", "down", "up"))
    if strides == "batched":
        x = torch.randn(2, 5, 3, dtype=torch.float64).transpose(1, 2).requires_grad_()
    other = (t.detach().t().contiguous().t().requires_grad_() for t in (down, up))
    torch.library.opcheck(ops.linear, (x, *other, None, torch.tensor(2)))


@pytest.mark.parametrize("rank, kind, message", [
    (torch.tensor(7), ValueError, r"rank must be in 0\.\.6, got 7"),
    (torch.tensor(-1), ValueError, r"rank must be in 0\.\.6, got -1"),
    (torch.tensor(2.0), TypeError, "rank must be an integer tensor, got torch.float32"),
])  # fmt: skip
def test_a_rank_is_judged_when_it_is_read(rank, kind, message):
    x, down, up, bias = leaves(SHAPES, ("x", "down", "up", "bias"))
    with pytest.raises(kind, match=message):
        ops.linear(x, down, up, bias, rank)


def test_vmap_maps_the_rows_of_the_linear_operator():
    x, down, up, bias = (t.detach() for t in leaves(SHAPES, ("x", "down", "up", "bias")))
    rank = torch.tensor(3)
    got = torch.vmap(lambda x: ops.linear(x, down, up, bias, rank), in_dims=1)(x[:, None])
    assert torch.equal(got[0], ops.linear(x, down, up, bias, rank))


@pytest.mark.parametrize(
    "name, shapes, names, more", ROWS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_vmap_over_a_factor_says_what_to_do_instead(name, shapes, names, more):
    tensors = [torch.stack([t, t]).detach() for t in leaves(shapes, names)]
    with pytest.raises(NotImplementedError, match="give the rank as an int"):
        torch.vmap(lambda *t: getattr(ops, name)(*t, torch.tensor(2), *more))(*tensors)
