import os
import subprocess
import sys

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

from lowrank_kernels import (  # noqa: E402
    _linear_triton as kernels,
    lowrank_linear,
    lowrank_linear_reference,
)
from lowrank_kernels.testing import assert_close, check_linear  # noqa: E402

DTYPES = [torch.float32, torch.float16]
# rows, n, m, R: around the tiles, and far from them
SIZES = [(1, 1, 1, 1), (1, 40, 70, 9), (16, 32, 32, 32), (17, 33, 65, 66), (5, 129, 3, 40)]


def interpreted(x, down, up, bias=None, rank=None, **options):
    with torch.no_grad():
        return lowrank_linear(x, down, up, bias, rank, implementation="triton", **options)


def one_launch(x, down, up, bias, r):
    return kernels.fused(x, down, up, bias, r)


def two_launches(x, down, up, bias, r):
    return kernels.product(kernels.product(x, down[:r], None), up[:, :r], bias)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_obeys_the_laws_of_the_product(dtype):
    check_linear(interpreted, torch.empty(0, dtype=dtype), gradients=False)


@pytest.mark.parametrize("launch", [one_launch, two_launches])
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
        assert not block[64 : 64 + numbers].isnan().any()


@pytest.mark.parametrize("launch", [one_launch, two_launches])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_takes_any_strides(launch, dtype):
    x, down, up, bias = problem(dtype, (5, 40, 33, 36))
    want = launch(x, down, up, bias, 19)
    wide = torch.full((5, 80), torch.nan, dtype=dtype)
    wide[:, ::2] = x
    other = down.t().contiguous().t(), up.t().contiguous().t()
    assert torch.equal(launch(wide[:, ::2], *other, bias, 19), want)


@pytest.mark.parametrize("launch", [one_launch, two_launches])
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
    with pytest.raises(ValueError, match="has no gradient"):
        lowrank_linear(x, down.requires_grad_(), up, bias, implementation="triton")
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.8, got 9"):
        interpreted(x, down, up, bias, 9)


def test_tensors_elsewhere_are_refused(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(ValueError, match="needs tensors on a CUDA device, got cpu"):
        interpreted(*problem(torch.float32, (4, 8, 8, 8)))


def test_the_rank_is_never_specialised_on():
    # what the interpreter replaces is seen in a process without it
    program = """
from lowrank_kernels import _linear_triton as kernels
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
    assert found.split("\n")[:2] == ["rank", "k m"]
