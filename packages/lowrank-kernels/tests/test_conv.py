import pytest
import torch
from hypothesis import given, strategies as st

from lowrank_kernels import lowrank_conv2d, lowrank_conv2d_reference
from lowrank_kernels._conv_op import conv2d_at
from lowrank_kernels._geometry import Geometry
from lowrank_kernels.testing import CONV2D_LAWS, assert_close

# torch's own remark on 'same' with an even kernel, made by the dense convolution too
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def operator(
    x, down, up, bias=None, rank=None, *, inner_bias=None, stride=1, padding=0, dilation=1, groups=1
):
    geometry = Geometry.of(stride, padding, dilation, groups, down.shape[-2:])
    rank = torch.as_tensor(down.shape[-4] if rank is None else rank)
    return conv2d_at(x, down, up, bias, rank, geometry, inner_bias)


@pytest.mark.parametrize("law", CONV2D_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("implementation", [lowrank_conv2d, operator], ids=["eager", "operator"])
def test_obeys(implementation, dtype, law):
    law(implementation, torch.empty(0, dtype=dtype))


pairs = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))
paddings = st.one_of(
    st.sampled_from(["same", "valid"]),
    st.integers(0, 2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5),
    st.tuples(st.integers(1, 3), st.integers(1, 4)), pairs, paddings, pairs, st.data(),
)  # fmt: skip
def test_equals_the_reference_for_any_geometry(
    groups, c, m, R, kernel, stride, padding, dilation, data
):
    stride = 1 if padding == "same" else stride
    r = data.draw(st.integers(0, R))
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, groups * c, 11, 12), (groups, R, c, *kernel), (groups, m, R), (groups * m,)]
    x, down, up, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    if groups == 1:
        down, up = down[0], up[0]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    want = lowrank_conv2d_reference(x, down, up, bias, r, **options)
    assert_close("eager", lowrank_conv2d(x, down, up, bias, r, **options), want, rtol=1e-11)
    assert_close("operator", operator(x, down, up, bias, r, **options), want, rtol=1e-11)


def images(dtype=torch.float32):
    torch.manual_seed(0)
    shapes = ((2, 4, 5, 4), (2, 3, 2, 2, 3), (2, 3, 3), (6,))
    return [torch.randn(s, dtype=dtype) for s in shapes]


def test_gradcheck_holds_at_every_rank():
    leaves = [t.requires_grad_() for t in images(torch.float64)]
    options = {"stride": (2, 1), "padding": 1, "groups": 2}
    for r in range(4):
        call = lambda *t, r=r: lowrank_conv2d(*t, r, **options)  # noqa: E731
        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("r", [0, 2])
def test_autocast_casts_as_for_a_convolution(r):
    x, down, up, bias = images()
    with torch.autocast("cpu", torch.bfloat16):
        got = lowrank_conv2d(x, down, up, bias, r, groups=2)
    want = lowrank_conv2d_reference(x, down, up, bias, r, groups=2)
    assert got.dtype == torch.bfloat16
    assert_close("y", got, want)


@pytest.mark.parametrize("in_dims", [(0, None, None, None), (None, 0, None, 0), (0, 1, 2, 1)])
@pytest.mark.parametrize("r", [0, 2])
def test_vmap_maps_each_argument(r, in_dims):
    plain = images()
    batched = [
        t if d is None else torch.stack([t, t.flip(-1)]).movedim(0, d)
        for t, d in zip(plain, in_dims, strict=True)
    ]
    got = torch.vmap(lambda *t: lowrank_conv2d(*t, r, groups=2), in_dims)(*batched)
    for i in range(2):
        one = [t if d is None else t.select(d, i) for t, d in zip(batched, in_dims, strict=True)]
        assert_close("y", got[i], lowrank_conv2d_reference(*one, r, groups=2))


def test_vmap_refuses_a_rank_per_sample():
    x, down, up, bias = images()
    with pytest.raises(ValueError, match="rank must be readable as one number"):
        torch.vmap(lambda r: lowrank_conv2d(x, down, up, bias, r, groups=2))(torch.tensor([1, 2]))


def test_channels_last_images_give_channels_last_results():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    y = lowrank_conv2d(x, torch.randn(5, 8, 3, 3), torch.randn(7, 5), rank=4)
    assert y.is_contiguous(memory_format=torch.channels_last)
