import os
import subprocess
import sys

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

from lowrank_kernels import (  # noqa: E402
    _linear_triton,
    _product_triton as kernels,
    _tiles,
    _tuner_triton,
    lowrank_linear,
    lowrank_linear_batched,
    lowrank_linear_reference,
)
from lowrank_kernels.testing import BATCHED_LAWS, LINEAR_LAWS, assert_close  # noqa: E402

DTYPES = [torch.float32, torch.float16]
# rows, n, m, R: around the tiles, and far from them
SIZES = [(1, 1, 1, 1), (1, 40, 70, 9), (16, 32, 32, 32), (17, 33, 65, 66), (5, 129, 3, 40)]


def interpreted(x, down, up, bias=None, rank=None, **options):
    return lowrank_linear(x, down, up, bias, rank, implementation="triton", **options)


def on_device(x, down, up, bias=None, rank=None, **options):
    rank = torch.as_tensor(down.shape[0] if rank is None else rank)
    return interpreted(x, down, up, bias, rank, **options)


def batch(*tensors):
    return [None if t is None else t[None] for t in tensors]


def one_launch(x, down, up, bias, r):
    x, down, up, bias = batch(x, down, up, bias)
    return kernels.fused(x, down[:, :r], up[:, :, :r], bias)[0]


def two_launches(x, down, up, bias, r):
    x, down, up, bias = batch(x, down, up, bias)
    return kernels.product(kernels.product(x, down[:, :r]), up[:, :, :r], bias)[0]


def one_launch_on_device(x, down, up, bias, r):
    x, down, up, bias = batch(x, down, up, bias)
    return kernels.fused(x, down, up, bias, ranks=torch.tensor([r]))[0]


def two_launches_on_device(x, down, up, bias, r):
    x, down, up, bias = batch(x, down, up, bias)
    ranks = torch.tensor([r], dtype=torch.int32)
    h = kernels.product(x, down, None, ranks, "columns", whole=False)
    return kernels.product(h, up, bias, ranks, "depth")[0]


def all_layers(*args, **options):
    return lowrank_linear_batched(*args, **options, implementation="triton")


LAUNCHES = [one_launch, two_launches, one_launch_on_device, two_launches_on_device]


@pytest.fixture
def guarded(monkeypatch):
    """Hand out memory full of nan with nan on both sides; return all of it."""
    blocks, empty = [], torch.Tensor.new_empty

    def new_empty(self, *shape, **options):
        # the interpreter's own copies
        if options:
            return empty(self, *shape, **options)
        numbers = torch.Size(shape).numel()
        block = torch.full((numbers + 128,), torch.nan, dtype=self.dtype)
        blocks.append((block, numbers))
        return block[64 : 64 + numbers].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    return blocks


def random(dtype, *shape, seed=0):
    torch.manual_seed(seed + sum(shape))
    return (torch.randn(shape) / shape[-1] ** 0.5).to(dtype)


def problem(dtype, size):
    N, n, m, R = size
    return (
        random(dtype, N, n),
        random(dtype, R, n, seed=1),
        random(dtype, m, R, seed=2),
        random(dtype, m),
    )


@pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", [interpreted, on_device], ids=lambda f: f.__name__)
def test_obeys(implementation, dtype, law):
    law(implementation, torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_kernel_fills_its_output_and_nothing_else(guarded, launch, dtype, size):
    x, down, up, bias = problem(dtype, size)
    for r in {0, 1, size[3] // 2, size[3]}:
        for b in (bias, None):
            got = launch(x, down, up, b, r)
            wide = [None if t is None else t.double() for t in (x, down, up, b)]
            assert_close(f"y at rank {r}", got, lowrank_linear_reference(*wide, r))
    assert guarded
    for block, numbers in guarded:
        assert block[:64].isnan().all()
        assert block[64 + numbers :].isnan().all()
        if launch is not two_launches_on_device:  # it leaves h unwritten beyond the rank
            assert not block[64 : 64 + numbers].isnan().any()


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_takes_any_strides(launch, dtype):
    x, down, up, bias = problem(dtype, (5, 40, 33, 36))
    want = launch(x, down, up, bias, 19)
    wide = torch.full((5, 80), torch.nan, dtype=dtype)
    wide[:, ::2] = x
    other = down.t().contiguous().t(), up.t().contiguous().t()
    assert torch.equal(launch(wide[:, ::2], *other, bias, 19), want)


@pytest.mark.parametrize("launch", LAUNCHES)
def test_no_kernel_reads_beyond_the_rank(launch):
    x, down, up, bias = problem(torch.float32, (5, 40, 33, 36))
    want = launch(x, down, up, bias, 19)
    down[19:], up[:, 19:] = torch.nan, torch.inf
    assert torch.equal(launch(x, down, up, bias, 19), want)


@pytest.mark.parametrize("rows, r, launches", [(16, 64, 1), (17, 64, 2), (16, 65, 2), (1, 1, 1)])
def test_few_rows_at_a_small_rank_take_one_launch(guarded, rows, r, launches):
    interpreted(*problem(torch.float32, (rows, 8, 8, 65)), r)
    assert len(guarded) == launches


def test_single_precision_is_not_rounded_to_a_shorter_one():
    x, down, up, bias = problem(torch.float32, (4, 64, 64, 64))
    want = lowrank_linear_reference(*(t.double() for t in (x, down, up, bias)))
    assert_close("y", interpreted(x, down, up, bias), want, rtol=5e-7)


def test_autocast_is_followed():
    x, down, up, bias = problem(torch.float32, (4, 8, 8, 8))
    with torch.autocast("cpu", torch.float16):
        got = interpreted(x, down, up, bias, 5)
    assert got.dtype == torch.float16
    assert_close("y", got, lowrank_linear_reference(x, down, up, bias, 5))


def test_what_it_cannot_do_is_refused():
    x, down, up, bias = problem(torch.float32, (4, 8, 8, 8))
    with pytest.raises(TypeError, match="no kernel for torch.float64"):
        interpreted(x.double(), down.double(), up.double(), bias.double())
    with pytest.raises(TypeError, match="no kernel for torch.bfloat16"):
        interpreted(x.bfloat16(), down.bfloat16(), up.bfloat16(), bias.bfloat16())
    with pytest.raises(ValueError, match="activation must be 'relu', 'gelu', 'silu' or None"):
        interpreted(x, down, up, bias, 3, activation="tanh")
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.8, got 9"):
        interpreted(x, down, up, bias, 9)


@pytest.mark.parametrize("law", BATCHED_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_obey(dtype, law):
    law(all_layers, torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("rows, launches", [(16, 1), (17, 2)])
def test_all_layers_share_their_launches(guarded, rows, launches):
    x, down, up = (random(torch.float32, *s) for s in ((9, rows, 8), (9, 6, 8), (9, 7, 6)))
    all_layers(x, down, up, ranks=torch.arange(9) % 7)
    assert len(guarded) == launches


def test_one_launch_configuration_serves_every_rank_on_the_device():
    x, down, up, bias = problem(torch.float32, (18, 40, 33, 70))
    for rows, R in ((18, 70), (5, 70), (5, 64)):
        rank = torch.zeros((), dtype=torch.int32)
        for r in (0, 1, 31, 32, 33, R - 1, R):
            rank.fill_(r)
            got = interpreted(x[:rows], down[:R], up[:, :R], bias, rank)
            want = lowrank_linear_reference(x[:rows], down[:R], up[:, :R], bias, r)
            assert_close(f"y of {rows} rows at rank {r} of {R}", got, want)


def test_a_rank_on_the_device_is_put_into_range():
    x, down, up, bias = problem(torch.float32, (5, 8, 9, 70))
    for R in (64, 70):
        tensors = x, down[:R], up[:, :R], bias
        for rank, r in ((-3, 0), (R + 9, R)):
            got = interpreted(*tensors, torch.tensor(rank))
            assert_close("y", got, lowrank_linear_reference(*tensors, r))


def test_product_derivatives_of_any_order_are_right_whatever_axis_is_cut():
    torch.manual_seed(0)
    ranks, bias = torch.tensor([2, 5]), torch.randn(2, 5).requires_grad_()
    for axis, (N, k, m) in (("rows", (5, 3, 4)), ("columns", (3, 4, 5)), ("depth", (3, 5, 5))):
        x, w = (torch.randn(2, s, k).requires_grad_() for s in (N, m))
        leaves = (x, w, bias) if m == 5 else (x, w)
        keep = (torch.arange(5) < ranks[:, None]).float()

        def plain(x, w, b=None, axis=axis, keep=keep):
            x = x * keep[:, None] if axis == "depth" else x
            y = x @ w.mT if b is None else x @ w.mT + b[:, None]
            cut = {"rows": keep[:, :, None], "columns": keep[:, None]}
            return y * cut.get(axis, torch.ones(()))

        def ours(x, w, b=None, axis=axis):
            return _linear_triton.Product.apply(x, w, b, ranks, axis)

        found = []
        for call in (ours, plain):
            y = call(*leaves)
            first = torch.autograd.grad(y.cos().sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
            found.append([y, *first, *second])
        for got, want in zip(*found, strict=True):
            assert_close(f"a derivative, cut in {axis}", got, want)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("rows", [5, 20])
def test_an_activation_follows_the_product(activation, rows):
    x, down, up, bias = problem(torch.float32, (rows, 8, 9, 7))
    function = getattr(torch.nn.functional, activation)
    want = function(lowrank_linear_reference(x, down, up, bias, 5))
    assert_close("y", interpreted(x, down, up, bias, 5, activation=activation), want)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("rows", [5, 20])
def test_infinity_and_nan_come_out_as_they_do_of_torch(activation, rows):
    x, down, up, _ = (t.abs() for t in problem(torch.float32, (rows, 8, 9, 7)))
    x[0, 0], x[1, 0] = torch.nan, torch.inf
    want, got = (
        lowrank_linear(x, down, up, None, 5, activation=activation, implementation=name)
        for name in ("torch", "triton")
    )
    assert want[0].isnan().all()
    assert want[1].isinf().all()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("rows", [5, 20])
def test_an_activation_has_its_gradient(activation, rows):
    leaves = [t.requires_grad_() for t in problem(torch.float32, (rows, 8, 9, 7))]
    found = []
    for implementation in ("triton", "torch"):
        y = lowrank_linear(*leaves, 5, activation=activation, implementation=implementation)
        found.append(torch.autograd.grad(y.square().sum(), leaves))
    for got, want in zip(*found, strict=True):
        assert_close("gradient", got, want)


@pytest.mark.parametrize("size", [4, 2])
def test_every_tile_gives_the_same_product(size):
    dtype = {4: torch.float32, 2: torch.float16}[size]
    x, down, up, bias = problem(dtype, (70, 40, 130, 36))
    want = lowrank_linear_reference(*(t.double() for t in (x, down, up, bias)))
    x, down, up, bias = batch(x, down, up, bias)
    for tiles in _tiles.FUSED[size]:
        assert_close("y", kernels.fused(x, down, up, bias, tiles=tiles)[0], want)
    for tiles in _tiles.PRODUCT[size]:
        h = kernels.product(x, down, tiles=tiles)
        assert_close("y", kernels.product(h, up, bias, tiles=tiles)[0], want)


def test_gradients_are_the_same_bits_every_time():
    leaves = [t.requires_grad_() for t in problem(torch.float32, (40, 33, 34, 35))]
    one, two = (torch.autograd.grad(interpreted(*leaves, 20).sum(), leaves) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_tensors_elsewhere_are_refused(monkeypatch):
    monkeypatch.setattr(_linear_triton, "INTERPRETED", False)
    with pytest.raises(ValueError, match="needs tensors on a CUDA device, got cpu"):
        interpreted(*problem(torch.float32, (4, 8, 8, 8)))


def test_the_rank_is_never_specialised_on():
    # what the interpreter replaces is seen in a process without it
    program = """
from lowrank_kernels import _product_triton as kernels
for kernel in (kernels.fused_kernel, kernels.product_kernel):
    print(*sorted(p.name for p in kernel.params if p.do_not_specialize))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.split("\n")[:2] == ["R", "N k m"]


def test_tuning_measures_once_for_a_power_of_two_of_rows_and_keeps_the_fastest(monkeypatch):
    tried = []

    def milliseconds(call):
        call()
        tried.append(call)
        return {2: 1.0}.get(len(tried) % 3, 5.0)  # the second of three

    monkeypatch.setattr(_tuner_triton, "ENABLED", True)
    monkeypatch.setattr(_tuner_triton, "_chosen", {})
    monkeypatch.setattr(_tuner_triton, "milliseconds", milliseconds)
    x, down, up, bias = batch(*problem(torch.float32, (12, 40, 33, 36)))
    want = lowrank_linear_reference(x[0], down[0], up[0], bias[0])
    for rows, measured in ((12, 3), (9, 3), (12, 3), (8, 6)):
        got = kernels.fused(x[:, :rows], down, up, bias)[0]
        assert_close(f"y of {rows}", got, want[:rows])
        assert len(tried) == measured
    assert set(_tuner_triton._chosen.values()) == {_tiles.FUSED[4][1]}


def test_nothing_is_measured_unless_it_is_asked_for(monkeypatch):
    monkeypatch.delattr(_tuner_triton, "milliseconds")
    interpreted(*problem(torch.float32, (5, 8, 8, 8)), 4)
