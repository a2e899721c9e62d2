import pytest
import torch

from spike_ops import SpikeTensor
from spike_ops.functional import spike_attention


def spikes_of(*shape, density=0.3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


def three(*leading, queries=7, tokens=9, depth=5, width=4, dtype=torch.float32, density=0.3):
    shapes = ((queries, depth), (tokens, depth), (tokens, width))
    return [
        spikes_of(*leading, *shape, seed=i, dtype=dtype, density=density)
        for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize("method", ["auto", "event", "dense"])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("depth", [3, 200])  # one for each order of the products
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_counts_are_those_of_integers(method, leading, depth, density):
    q, k, v = three(*leading, depth=depth, width=depth, density=density)
    exact = q.long() @ k.long().mT @ v.long()
    got = spike_attention(q, k, v, method=method)
    assert torch.equal(got, exact.float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_types_are_kept_and_counts_only_rounded_at_the_end(dtype):
    q, k, v = three(2, tokens=200, depth=40, dtype=dtype, density=0.8)
    got = spike_attention(q, k, v, scale=0.125)
    assert got.dtype == dtype
    assert torch.equal(got, ((q.long() @ k.long().mT @ v.long()) * 0.125).to(dtype))


@pytest.mark.parametrize("method", ["auto", "event"])
@pytest.mark.parametrize("depth", [3, 200])
def test_gradients_are_those_of_dense_products(method, depth):
    outcomes = []
    for function in (
        lambda *each: spike_attention(*map(SpikeTensor.from_dense, each), method=method),
        lambda q, k, v: q @ k.mT @ v,
    ):
        leaves = [each.requires_grad_() for each in three(2, depth=depth, dtype=torch.float64)]
        result = function(*leaves)
        (result * torch.arange(result.numel()).view(result.shape)).sum().backward()
        outcomes.append([result.detach(), *[leaf.grad for leaf in leaves]])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_wrong_arguments_are_named():
    q, k, v = three()
    with pytest.raises(ValueError, match=r"key \[\.\.\., M, D\]"):
        spike_attention(q, k[:, 1:], v)
    with pytest.raises(ValueError, match=r"value \[\.\.\., M, E\]"):
        spike_attention(q, k, v[1:])
    with pytest.raises(TypeError, match="one dtype"):
        spike_attention(q, k.double(), v)
    with pytest.raises(ValueError, match="spikes must be 0 or 1"):
        spike_attention(2 * q, k, v)
