import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from lowrank_kernels import (
    Calibration,
    DispatchedConv2d,
    Dispatcher,
    calibrate_conv2d,
    dispatch_conv2d,
    lowrank_conv2d,
)
from lowrank_kernels._calibration_file import load
from lowrank_kernels.testing import CONV2D_LAWS, assert_close

FORMS = ("dense", "factored", "packed")
COUNTED = Dispatcher(cache=False)


class Planted(Dispatcher):
    """A dispatcher for which one form is the fastest at each number of images."""

    def __init__(self, *fastest, batches=(1,)):
        super().__init__(cache=False)
        self.fastest, self.batches = (*fastest, fastest[-1]), (*batches, 10**6)

    def _table(self, key, device):
        seconds = {
            form: tuple(((1.0 if form == best else 2.0),) for best in self.fastest)
            for form in FORMS
        }
        return Calibration(key, self.batches, (1,), seconds)


def in_form(form):
    def product(x, down, up, bias=None, rank=None, **options):
        return dispatch_conv2d(down, up, bias, rank, dispatcher=Planted(form), **options)(x)

    return product


@pytest.mark.parametrize("law", CONV2D_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_obeys(form, dtype, law):
    law(in_form(form), torch.empty(0, dtype=dtype))


def factors(groups=1, dtype=torch.float32):
    """Images, factors, bias and inner bias: 4 to 6 channels, R = 5."""
    draw = torch.Generator().manual_seed(0)
    each = (groups,) if groups > 1 else ()
    shapes = (
        (2, 4, 7, 6), (*each, 5, 4 // groups, 3, 3), (*each, 6 // groups, 5), (6,), (*each, 5),
    )  # fmt: skip
    return [torch.randn(s, dtype=dtype, generator=draw) for s in shapes]


@pytest.mark.parametrize("groups", [1, 2])
def test_each_number_of_images_runs_in_its_own_form(groups):
    x, down, up, bias, inner = factors(groups)
    options = {"inner_bias": inner, "padding": "same", "groups": groups}
    dispatcher = Planted("packed", "factored", "dense", batches=(1, 2, 4))
    product = dispatch_conv2d(down, up, bias, 3, dispatcher=dispatcher, **options)
    for images, form in ((1, "packed"), (2, "factored"), (3, "factored"), (4, "dense")):
        given = x[:1].expand(images, -1, -1, -1).contiguous()
        assert product.form(given.shape) == product.explain(given.shape).chosen == form
        assert_close("y", product(given), lowrank_conv2d(given, down, up, bias, 3, **options))
    assert product.form((4, 7, 6)) == "packed"
    assert_close("y", product(x[0]), lowrank_conv2d(x[0], down, up, bias, 3, **options))
    copied = 6 * 4 // groups * 9 + 6 * 3  # the dense kernel, and up
    assert product.copied_bytes == 4 * (copied + (groups > 1) * (3 * 4 * 9 + 3 * groups))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changed", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_change_of_a_factor_in_place_is_seen(groups, changed, form):
    tensors = factors(groups)
    x, down, up, bias, inner = tensors
    options = {"inner_bias": inner, "groups": groups}
    product = dispatch_conv2d(down, up, bias, 3, dispatcher=Planted(form), **options)
    with torch.no_grad():
        before = product(x)
        tensors[changed].mul_(3)
        for _ in range(2):
            got = product(x)
            assert_close("y", got, lowrank_conv2d(x, down, up, bias, 3, **options))
            assert not torch.equal(got, before)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_factors_though_a_form_was_kept(form):
    tensors = factors(dtype=torch.float64)[:4]
    product = dispatch_conv2d(*tensors[1:], 3, dispatcher=Planted(form))
    with torch.no_grad():
        product(tensors[0])
    leaves = [t.requires_grad_() for t in tensors]
    got = torch.autograd.grad(product(leaves[0]).square().sum(), leaves)
    want = torch.autograd.grad(lowrank_conv2d(*leaves, 3).square().sum(), leaves)
    for name, g, w in zip(("x", "down", "up", "bias"), got, want, strict=True):
        assert_close(f"gradient of {name}", g, w)
    frozen = dispatch_conv2d(*tensors[1:], 3, dispatcher=Planted(form), frozen=True)
    to_x = torch.autograd.grad(frozen(leaves[0]).square().sum(), leaves[0])[0]
    assert_close("gradient of x", to_x, want[0])


def test_without_copies_only_views_and_a_weight_at_hand_are_used():
    x, down, up, bias, _ = factors()
    weight = torch.randn(6, 4, 3, 3)
    for form in FORMS:
        product = dispatch_conv2d(down, up, bias, 3, copies=False, dispatcher=Planted(form))
        assert product.form(x.shape) == "factored"
        product(x)
        assert product.copied_bytes == 0
    product = dispatch_conv2d(
        down, up, bias, 3, weight=weight, copies=False, dispatcher=Planted("dense")
    )
    assert torch.equal(product(x), nn.functional.conv2d(x, weight, bias))
    assert product.copied_bytes == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_without_measurements_the_form_of_fewest_multiplications_wins(groups):
    x, down, up, *_ = factors(groups)
    n, m = 4 // groups * 9, 6 // groups
    for r in range(6):
        product = dispatch_conv2d(down, up, rank=r, groups=groups, dispatcher=COUNTED)
        why = product.explain(x.shape)
        assert why.costs == {"dense": n * m, "factored": r * (n + m), "packed": r * (n + m)}
        assert why.chosen == ("dense" if r * (n + m) >= n * m else "factored")
        assert_close("y", product(x), lowrank_conv2d(x, down, up, rank=r, groups=groups))


def test_a_calibration_serves_images_of_its_size_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWRANK_KERNELS_CACHE", str(tmp_path))
    table = calibrate_conv2d(4, 6, 3, (7, 6), 5, padding="same", seconds=0.01)
    assert sorted(table.seconds) == ["dense", "factored", "packed"]
    assert load(table.key, torch.device("cpu")) == table
    x, down, up, *_ = factors()
    product = dispatch_conv2d(down, up, rank=3, padding=1, dispatcher=Dispatcher())
    assert product.explain(x[:1].shape).measured_at == 1
    assert "4 -> 6 channels of 7x6 pixels by 3x3" in str(product.explain(x[:1].shape))
    assert "measured at 1 images" in str(product.explain(x[:1].shape))
    for other in ({"padding": 0}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2}):
        unlike = dispatch_conv2d(down, up, rank=3, dispatcher=Dispatcher(), **other)
        assert unlike.explain(x[:1].shape).measured_at is None
    assert product.explain((1, 4, 7, 7)).measured_at is None


@pytest.mark.parametrize("groups", [1, 2])
def test_a_dispatcher_measures_where_it_is_asked_to(groups):
    x, down, up, *_ = factors(groups)
    table = calibrate_conv2d(4, 6, 3, (7, 6), 5, groups=groups, seconds=0.01, save=False)
    asked = dispatch_conv2d(down, up, rank=3, groups=groups, dispatcher=Dispatcher([table]))
    assert asked.explain(x[:1].shape).key == table.key
    assert asked.explain(x[:1].shape).measured_at == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_answers_to_its_own_factors(form):
    x, down, up, bias, _ = factors()
    product = dispatch_conv2d(down, up, bias, 3, dispatcher=COUNTED)
    want = product(x)
    twins = [copy.deepcopy(product), pickle.loads(pickle.dumps(product))]
    with torch.no_grad():
        for t in (down, up, bias):
            t.zero_()
    for twin in twins:
        assert isinstance(twin, DispatchedConv2d)
        assert_close("y", twin(x), want)
    assert not product(x).any()


def test_one_graph_serves_every_number_of_images():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            _, down, up, bias, _ = factors()
            self.product = dispatch_conv2d(down, up, bias, 3, dispatcher=Planted("dense"))

        def forward(self, x):
            return self.product(x).relu()

    torch._dynamo.reset()
    layer, counter = Layer(), CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for images in (8, 9, 3):  # no other size is one of them
            x = torch.randn(images, 4, 7, 6)
            assert_close("y", compiled(x), layer(x))
    assert counter.frame_count == 1


def test_names_what_is_wrong():
    x, down, up, bias, _ = factors()
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.5, got 6"):
        dispatch_conv2d(down, up, bias, 6)
    with pytest.raises(ValueError, match=r"bias must be \[6\], got \[5\]"):
        dispatch_conv2d(down, up, torch.ones(5))
    with pytest.raises(ValueError, match=r"weight must be \[6, 4, 3, 3\], got \[6, 4\]"):
        dispatch_conv2d(down, up, weight=torch.ones(6, 4))
    with pytest.raises(TypeError, match="down must be a tensor, got list"):
        dispatch_conv2d([1.0], up)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        dispatch_conv2d(down, up, stride=0)
    with pytest.raises(ValueError, match=r"down must be \[groups, R"):
        dispatch_conv2d(down, up, groups=2)
    with pytest.raises(TypeError, match="dispatcher must be a Dispatcher or None, got str"):
        dispatch_conv2d(down, up, dispatcher="fast")
    with pytest.raises(TypeError, match="frozen must be True or False, got int 1"):
        dispatch_conv2d(down, up, frozen=1)
    product = dispatch_conv2d(down, up, bias, 3, dispatcher=COUNTED)
    assert repr(product) == "DispatchedConv2d(rank=3 of 5, in_channels=4, out_channels=6)"
    product(x)
    with pytest.raises(ValueError, match=r"x must be .* with in = 4, as down"):
        product(torch.ones(2, 3, 7, 6))
    with pytest.raises(ValueError, match="x must be as large as the kernel"):
        product(torch.ones(2, 4, 2, 6))
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        product([1.0])
    with pytest.raises(ValueError, match=r"shape must be \[N, in, H, W\]"):
        product.explain((4, 7))
    for asked in (product.form, product.explain):
        with pytest.raises(TypeError, match=r"shape must be ints, as x\.shape is, got a tensor"):
            asked(x)
        with pytest.raises(TypeError, match=r"shape must be ints, as x\.shape is, got int 3"):
            asked(3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [0, 3])
def test_frozen_factors_get_no_gradients_in_any_form(form, rank):
    x, *rest = factors()
    leaves = [t.requires_grad_() for t in rest]
    bias, inner = leaves[2:4]
    options = {"inner_bias": inner, "frozen": True, "dispatcher": Planted(form)}
    product = dispatch_conv2d(*leaves[:2], bias, rank, **options)
    assert not product(x).requires_grad
    assert torch.equal(product(x.clone().requires_grad_()), product(x))


@pytest.mark.parametrize(
    "given, kind, message",
    [
        ((0, 4, 3, 8), ValueError, "in_channels must be at least 1, got 0"),
        ((4, 4.0, 3, 8), TypeError, "out_channels must be an int, got float"),
        ((4, 4, 0, 8), ValueError, "kernel_size must be at least 1, got 0"),
        ((4, 4, 3, "8"), TypeError, "size must be an int or two ints, got '8'"),
        (
            (4, 4, 3, 2),
            ValueError,
            r"size must be as large as the kernel, 3x3, got an image of 2x2",
        ),
        ((4, 4, 3, 8, 0), ValueError, "max_rank must be at least 1, got 0"),
    ],
)
def test_calibrating_names_what_is_wrong(given, kind, message):
    with pytest.raises(kind, match=message):
        calibrate_conv2d(*given, save=False)
    with pytest.raises(ValueError, match="out_channels must be a multiple of groups, 4, got 6"):
        calibrate_conv2d(4, 6, 3, 8, groups=4)
    with pytest.raises(TypeError, match="dtype must be one of"):
        calibrate_conv2d(4, 4, 3, 8, dtype=torch.int64)
