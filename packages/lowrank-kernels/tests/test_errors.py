from importlib.util import find_spec

import pytest
import torch

from lowrank_kernels import (
    lowrank_conv2d,
    lowrank_linear,
    lowrank_linear_batched,
    lowrank_linear_per_sample,
)

ones = torch.ones
X, DOWN, UP, BIAS = ones(3, 6), ones(5, 6), ones(4, 5), ones(4)
# what is changed, the error, what it says
LINEAR = [
    ({"x": ones(3, 7)}, ValueError,
     "x must be [..., in] with in = 6, as down [5, 6] has it, got [3, 7]"),
    ({"x": ones(())}, ValueError, "x must be [..., in], got a 0-dim tensor"),
    ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
    ({"x": X.long(), "down": DOWN.long(), "up": UP.long(), "bias": None}, TypeError,
     "x must be float64, float32, float16 or bfloat16, got torch.int64"),
    ({"x": X.to(torch.complex64)}, TypeError, "x must be float64"),
    ({"x": X.double()}, TypeError,
     "down must have the dtype of x, torch.float64, got torch.float32"),
    ({"down": ones(5, 6, 1)}, ValueError, "down must be [R, in], got [5, 6, 1]"),
    ({"down": ones(6)}, ValueError, "down must be [R, in], got [6]"),
    ({"down": None}, TypeError, "down must be a tensor, got NoneType"),
    ({"down": DOWN.half()}, TypeError,
     "down must have the dtype of x, torch.float32, got torch.float16"),
    ({"down": DOWN.to("meta")}, ValueError, "down must be on the device of x, cpu, got meta"),
    ({"up": ones(4, 6)}, ValueError,
     "up must be [out, R] with R = 5, as down [5, 6] has it, got [4, 6]"),
    ({"up": ones(4)}, ValueError, "up must be [out, R], got [4]"),
    ({"up": UP.to("meta")}, ValueError, "up must be on the device of x, cpu, got meta"),
    ({"bias": ones(5)}, ValueError, "bias must be [4], got [5]"),
    ({"bias": ones(1)}, ValueError, "bias must be [4], got [1]"),
    ({"bias": ones(1, 4)}, ValueError, "bias must be [4], got [1, 4]"),
    ({"bias": BIAS.double()}, TypeError,
     "bias must have the dtype of x, torch.float32, got torch.float64"),
    ({"bias": 1.0}, TypeError, "bias must be a tensor, got float"),
    ({"bias": 3}, TypeError, "bias must be a tensor or None, got int 3; a rank is rank="),
    ({"implementation": "fast"}, ValueError,
     "implementation must be 'torch', 'triton' or None, got 'fast'"),
    ({"activation": "tanh"}, ValueError,
     "activation must be 'relu', 'gelu', 'silu' or None, got 'tanh'"),
]  # fmt: skip
RANKS = [
    (6, ValueError, "rank must be in 0..5, got 6"),
    (-1, ValueError, "rank must be in 0..5, got -1"),
    (True, TypeError, "rank must be an int, a 0-dim integer tensor or None, got True"),
    (2.0, TypeError, "rank must be an int, a 0-dim integer tensor or None, got float 2.0"),
    ("2", TypeError, "rank must be an int, a 0-dim integer tensor or None, got str '2'"),
    (torch.tensor(6), ValueError, "rank must be in 0..5, got 6"),
    (torch.tensor(-1), ValueError, "rank must be in 0..5, got -1"),
    (torch.tensor(2.0), TypeError, "rank must be an integer tensor, got torch.float32"),
    (torch.tensor(True), TypeError, "rank must be an integer tensor, got torch.bool"),
    (torch.tensor([2]), ValueError, "rank must be 0-dim where it is a tensor, got shape [1]"),
]
IMAGES = {"x": ones(2, 4, 6, 5), "down": ones(5, 4, 3, 3), "up": ones(4, 5), "bias": ones(4)}
GROUPED = {"x": ones(2, 4, 6, 5), "down": ones(2, 5, 2, 3, 3), "up": ones(2, 2, 5), "groups": 2}
CONV = [
    (IMAGES, {"x": ones(4, 6)}, ValueError, "x must be [N, in, H, W] or [in, H, W], got [4, 6]"),
    (IMAGES, {"x": ones(2, 3, 6, 5)}, ValueError,
     "x must be [N, in, H, W] or [in, H, W] with in = 4, as down [5, 4, 3, 3] has it, "
     "got [2, 3, 6, 5]"),
    (IMAGES, {"x": ones(2, 4, 2, 5)}, ValueError,
     "x must be as large as the kernel, 3x3, got an image of 2x5"),
    (IMAGES, {"x": ones(2, 4, 2, 5), "dilation": 2, "padding": (1, 0)}, ValueError,
     "x must be as large as the kernel, 3x3 with dilation 2x2, got an image of 2x5 with padding "
     "1x0"),
    (GROUPED, {"x": ones(2, 3, 6, 5)}, ValueError,
     "x must be [N, in, H, W] or [in, H, W] with in = 4, as down [2, 5, 2, 3, 3] has it for 2 "
     "groups, got [2, 3, 6, 5]"),
    (IMAGES, {"down": ones(5, 4, 3)}, ValueError,
     "down must be [R, in, kh, kw] with groups=1, got [5, 4, 3]"),
    (IMAGES, {"down": ones(5)}, ValueError, "down must be [R, in, kh, kw] with groups=1, got [5]"),
    (IMAGES, {"down": 3}, TypeError, "down must be a tensor, got int"),
    (IMAGES, {"up": ones(4, 6)}, ValueError,
     "up must be [out, R] with R = 5, as down [5, 4, 3, 3] has it, got [4, 6]"),
    (IMAGES, {"up": ones(4, 5, 1, 1)}, ValueError,
     "up must be [out, R] with groups=1, got [4, 5, 1, 1]"),
    (IMAGES, {"up": ones(4, 5).double()}, TypeError, "up must have the dtype of x"),
    (IMAGES, {"bias": ones(1)}, ValueError, "bias must be [4], got [1]"),
    (IMAGES, {"bias": ones(4, device="meta")}, ValueError,
     "bias must be on the device of x, cpu, got meta"),
    (IMAGES, {"groups": 2}, ValueError,
     "down must be [groups, R, in/groups, kh, kw] with groups > 1"),
    (IMAGES, {"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    (IMAGES, {"groups": True}, TypeError, "groups must be an int, got bool True"),
    (IMAGES, {"groups": 1.0}, TypeError, "groups must be an int, got float 1.0"),
    (GROUPED, {"groups": 1}, ValueError,
     "down must be [R, in, kh, kw] with groups=1, got [2, 5, 2, 3, 3]"),
    (GROUPED, {"groups": 4}, ValueError,
     "down must be [groups, R, in/groups, kh, kw] with groups = 4, got [2, 5, 2, 3, 3]"),
    (GROUPED, {"up": ones(3, 2, 5)}, ValueError,
     "up must be [groups, out/groups, R] with groups = 2, got [3, 2, 5]"),
    (IMAGES, {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    (IMAGES, {"stride": (1, 2, 3)}, TypeError, "stride must be an int or two ints, got (1, 2, 3)"),
    (IMAGES, {"stride": 1.5}, TypeError, "stride must be an int or two ints, got 1.5"),
    (IMAGES, {"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    (IMAGES, {"dilation": "2"}, TypeError, "dilation must be an int or two ints, got '2'"),
    (IMAGES, {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    (IMAGES, {"padding": "full"}, ValueError,
     "padding must be 'same', 'valid' or ints, got 'full'"),
    (IMAGES, {"padding": "same", "stride": 2}, ValueError,
     "padding must not be 'same' with a stride, got stride 2"),
    (IMAGES, {"padding": (1, 1, 1)}, TypeError,
     "padding must be an int or two ints, got (1, 1, 1)"),
]  # fmt: skip


def raises(kind, message):
    return pytest.raises(
        kind, match=r"^" + "".join("\\" + c if c in "[]().*+?" else c for c in message)
    )


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "change, kind, message", LINEAR, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_linear_product_names_what_is_wrong(change, kind, message, grad):
    arguments = {"x": X, "down": DOWN, "up": UP, "bias": BIAS, "rank": 3} | change
    with torch.set_grad_enabled(grad), raises(kind, message):
        lowrank_linear(**arguments)


@pytest.mark.parametrize("rank", [0, 2, None])
@pytest.mark.parametrize(
    "given, change, kind, message", CONV, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_convolution_names_what_is_wrong(given, change, kind, message, rank):
    with raises(kind, message):
        lowrank_conv2d(**(given | {"rank": rank} | change))


@pytest.mark.parametrize("rank, kind, message", RANKS)
def test_both_name_a_wrong_rank(rank, kind, message):
    with raises(kind, message):
        lowrank_linear(X, DOWN, UP, BIAS, rank)
    with raises(kind, message):
        lowrank_conv2d(**IMAGES, rank=rank)
    with raises(kind, message):
        lowrank_conv2d(**GROUPED, rank=rank)


def test_an_integer_of_another_kind_is_a_rank():
    class Three:
        def __index__(self):
            return 3

    want = lowrank_linear(X, DOWN, UP, BIAS, 3)
    for rank in (Three(), torch.tensor(3, dtype=torch.uint8), torch.tensor(3, dtype=torch.int32)):
        assert torch.equal(lowrank_linear(X, DOWN, UP, BIAS, rank), want)


def test_a_failure_of_torch_itself_comes_through():
    class Broken(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                raise RuntimeError("out of memory")
            return super().__torch_function__(function, types, args, kwargs or {})

    with pytest.raises(RuntimeError, match="out of memory"):
        lowrank_linear(X[None].as_subclass(Broken), DOWN, UP, BIAS, 3)


@pytest.mark.skipif(find_spec("triton") is not None, reason="triton is installed")
def test_the_message_names_the_extra_where_triton_is_missing():
    ranks = torch.tensor([1, 2, 3])
    for call in (
        lambda: lowrank_linear(X, DOWN, UP, BIAS, 3, implementation="triton"),
        lambda: lowrank_linear_per_sample(X, DOWN, UP, BIAS, ranks, implementation="triton"),
        lambda: lowrank_linear_batched(X[None], DOWN[None], UP[None], implementation="triton"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'lowrank-kernels\[triton\]'"):
            call()
