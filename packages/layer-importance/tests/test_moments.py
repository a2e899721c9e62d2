"""Streaming moments: the same for every split, and however many samples wait."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from layer_importance import Moments


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(
    cuts=st.lists(st.integers(0, 900), max_size=4),
    offset=st.sampled_from([0.0, 1e6]),
    shape=st.sampled_from([(), (3,), (2, 2)]),
)
def test_neither_the_split_nor_a_merge_nor_saving_changes_them(
    cuts: list[int], offset: float, shape: tuple[int, ...]
) -> None:
    values = normal(900, *shape) + offset
    moments, edges = Moments(shape), [0, *sorted(cuts), 900]
    for number, (start, end) in enumerate(pairwise(edges)):
        part = Moments(shape)
        part.add(values[start:end])
        if number % 2:
            moments.merge(Moments.from_state(part.state()))
        else:
            moments.add(values[start:end])
    assert moments.count == 900
    assert torch.allclose(moments.mean, values.mean(0), rtol=1e-14, atol=1e-12)
    # a mean of 1e6 costs the digits that the numbers themselves have lost
    assert torch.allclose(moments.variance, values.var(0), rtol=1e-12 if not offset else 1e-9)


@given(cut=st.integers(1, 40), batch=st.sampled_from([1, 7, 300]))
def test_going_on_from_a_state_ends_in_the_same_bits(cut: int, batch: int) -> None:
    values = normal(40 * batch)
    whole, first = Moments(), Moments()
    for part in values.split(batch):
        whole.add(part)
    for part in values.split(batch)[:cut]:
        first.add(part)
    resumed = Moments()
    resumed.merge(Moments.from_state(first.state()))
    for part in values.split(batch)[cut:]:
        resumed.add(part)
    assert torch.equal(resumed.mean, whole.mean)
    assert torch.equal(resumed.variance, whole.variance)


def test_what_waits_is_bounded_and_a_copy() -> None:
    values, moments = torch.ones(10, dtype=torch.float64), Moments()
    moments.add(values)
    values.zero_()
    assert float(moments.mean) == 1
    for _ in range(1000):
        moments.add(torch.ones(10))
        assert moments.state()["waiting"].numel() < 1024 + 10


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_counted_and_left_out(bad: float) -> None:
    values = normal(6, 2)
    values[2, 1] = bad
    moments = Moments((2,))
    moments.add(values)
    assert (moments.count, moments.skipped) == (5, 1)
    assert torch.allclose(moments.mean, values[[0, 1, 3, 4, 5]].mean(0))


def test_another_shape_is_refused_and_changes_nothing() -> None:
    moments = Moments((2,))
    with pytest.raises(ValueError, match=r"values must have shape \[N, 2\], got \[3\]"):
        moments.add(torch.ones(3))
    assert moments.count == 0
