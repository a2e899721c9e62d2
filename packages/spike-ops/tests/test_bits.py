import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from spike_ops import SpikeIndex, pack_bits, unpack_bits
from spike_ops._bits import (
    bytes_needed,
    count_bits,
    pack_bits_reference,
    unpack_bits_reference,
)
from spike_ops._index import positions

DENSITIES = [0.0, 0.02, 0.3, 0.8, 1.0]


def fired(size, density, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density


@pytest.mark.parametrize("size", range(70))
def test_bits_are_those_of_numpy_at_every_length(size):
    for density in DENSITIES:
        spikes = fired(size, density, size)
        expected = torch.from_numpy(np.packbits(spikes.numpy(), bitorder="little"))
        assert torch.equal(pack_bits(spikes), expected)
        assert torch.equal(pack_bits_reference(spikes), expected)
        assert len(expected) == bytes_needed(size)


@given(st.lists(st.integers(0, 4), max_size=3), st.floats(0, 1), st.integers(0, 100))
def test_unpacking_undoes_packing(shape, density, seed):
    spikes = fired(shape, density, seed)
    packed = pack_bits(spikes)
    assert torch.equal(unpack_bits(packed, shape), spikes)
    assert torch.equal(unpack_bits_reference(packed, shape), spikes)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.int64]
)
def test_any_type_packs_to_the_same_bits_and_back(dtype):
    spikes = fired((3, 7), 0.4)
    packed = pack_bits(spikes.to(dtype))
    assert torch.equal(packed, pack_bits(spikes))
    back = unpack_bits(packed, (3, 7), dtype)
    assert back.dtype == dtype
    assert torch.equal(back, spikes.to(dtype))


def test_whatever_is_not_zero_is_a_spike():
    values = torch.tensor([0.0, -0.0, 2.5, -1.0, float("nan"), float("inf")])
    assert unpack_bits(pack_bits(values), (6,)).tolist() == [False, False, True, True, True, True]


def test_memory_order_does_not_matter():
    spikes = fired((5, 9), 0.5)
    assert torch.equal(pack_bits(spikes.t()), pack_bits(spikes.t().contiguous()))


@given(st.integers(0, 700), st.sampled_from([*DENSITIES, 0.1]), st.integers(0, 100))
def test_count_and_positions_are_those_of_the_dense_tensor(size, density, seed):
    spikes = fired(size, density, seed)
    packed = pack_bits(spikes)
    assert count_bits(packed) == int(spikes.sum())
    assert torch.equal(positions(packed, size), spikes.nonzero().flatten())


def test_clustered_spikes_are_found():
    spikes = torch.zeros(4096, dtype=torch.bool)
    spikes[1000:1037] = spikes[4090:] = True
    assert torch.equal(positions(pack_bits(spikes), 4096), spikes.nonzero().flatten())


@given(st.integers(0, 9), st.integers(1, 40), st.sampled_from(DENSITIES), st.integers(0, 50))
def test_index_names_the_spikes_of_each_row_and_column(rows, columns, density, seed):
    spikes = fired((rows, columns), density, seed)
    index = SpikeIndex(pack_bits(spikes), spikes.numel())
    for bags, dense in ((index.by_row(columns), spikes), (index.by_column(columns), spikes.t())):
        borders = [*bags.starts.tolist(), index.count]
        assert len(borders) == len(dense) + 1
        for row, start, end in zip(dense, borders, borders[1:], strict=False):
            assert bags.entries[start:end].tolist() == row.nonzero().flatten().tolist()


def test_index_finds_everything_once():
    index = SpikeIndex(pack_bits(fired((8, 8), 0.4)), 64)
    assert index.by_row(8) is index.by_row(8)
    assert index.by_column(8) is index.by_column(8)
    assert index.positions is index.positions


def test_index_serves_more_columns_than_16_bits_count():
    spikes = torch.zeros(2, 70_000, dtype=torch.bool)
    spikes[0, 69_999] = spikes[1, 3] = spikes[1, 69_999] = True
    bags = SpikeIndex(pack_bits(spikes), spikes.numel()).by_column(70_000)
    assert bags.entries.tolist() == [1, 0, 1]
    assert bags.starts[3].item() == 0
    assert bags.starts[69_999].item() == 1
