"""Numpy and torch side by side, on the host and off it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fd_sketch import FrequentDirections
from fd_sketch._arrays import home_of
from fd_sketch._torch import plain_arithmetic

VALUES = np.random.default_rng(0).standard_normal((40, 6))


def test_importing_the_package_leaves_torch_alone():
    code = "import sys, numpy, fd_sketch as f; f.ExactGram(2).partial_fit(numpy.ones((3, 2)))"
    check = f"{code}.sketch(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_torch_and_numpy_agree_to_the_bit_on_the_host():
    for dtype in (np.float32, np.float64):
        X = VALUES.astype(dtype)
        ours = FrequentDirections(6, 3, center=True, decay=0.9)
        theirs = ours.copy()
        for start in (0, 15, 40):
            ours.partial_fit(X[start : start + 15])
            theirs.partial_fit(torch.from_numpy(X)[start : start + 15])
        assert np.array_equal(ours.sketch(), theirs.sketch().numpy())
        assert ours.to_bytes() == theirs.to_bytes()


def test_takes_strided_and_read_only_rows():
    X = np.asfortranarray(VALUES)[::-2]
    X.flags.writeable = False
    plain = FrequentDirections(6, 3).partial_fit(X.copy())
    sketch = FrequentDirections(6, 3).partial_fit(X)
    assert np.array_equal(sketch.sketch(), plain.sketch())
    assert np.allclose(sketch.mean, plain.mean, rtol=1e-12)


def test_reduced_precision_is_off_while_a_sketch_computes_and_back_afterwards(monkeypatch):
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr("fd_sketch._arrays.Home.on_host", False)
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with plain_arithmetic(home_of(torch.ones(2))):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_batches_on_another_device_are_refused():
    sketch = FrequentDirections(6, 3).partial_fit(torch.from_numpy(VALUES))
    with pytest.raises(ValueError, match=r"X must be on cpu .* to\(device\) moves"):
        sketch.partial_fit(torch.ones(2, 6, device="meta"))


def test_numpy_lives_on_the_host_only():
    sketch = FrequentDirections(6, 3).partial_fit(VALUES)
    with pytest.raises(ValueError, match="cuda"):
        sketch.to("cuda")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_as_float32(dtype):
    X = torch.from_numpy(VALUES).to(dtype)
    sketch = FrequentDirections(6, 6).partial_fit(X, sample_weight=torch.ones(40, dtype=dtype))
    wide = X.double().numpy()
    B = sketch.sketch()
    assert B.dtype == torch.float32
    assert np.allclose(B.T @ B, wide.T @ wide, rtol=1e-4, atol=1e-4)
    assert np.isclose(sketch.total_mass(), np.sum(wide * wide), rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sketch_moves_to_a_gpu_and_back(dtype):
    X = torch.from_numpy(VALUES.astype(dtype))
    host = FrequentDirections(6, 3, center=True).partial_fit(X)
    moved = host.copy().to("cuda")
    assert moved.sketch().device.type == "cuda"
    host.partial_fit(X)
    back = moved.partial_fit(X.cuda()).to("cpu")
    room = 100 * float(np.finfo(dtype).eps) * host.total_mass()
    A, B = host.sketch().double().numpy(), back.sketch().double().numpy()
    assert np.abs(A.T @ A - B.T @ B).max() <= room
