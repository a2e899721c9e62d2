"""The surface that tables of measurements stand for: it rises both ways, inside and beyond."""

import functools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import PerfEstimator, PerfRow, PerfTable, linear_shape

PLAIN = PerfEstimator("desktop-cpu")
BATCHES = (1, 2, 3, 7, 8, 30, 64, 65, 500, 512, 4096)
RANKS = (0, 1, 3, 4, 5, 20, 31, 32, 33, 60, 64)


def conv(batch, rank):
    return PLAIN.conv2d(batch, 64, 96, 3, 14, rank=rank, padding=1).latency_s


# what the roofline says of layers, by batch and rank
PRIORS = {
    "small": lambda batch, rank: PLAIN.linear(batch, 64, 64, rank).latency_s,
    "wide": lambda batch, rank: PLAIN.linear(batch, 4096, 64, rank).energy_j,
    "large": lambda batch, rank: PLAIN.linear(batch, 1024, 1024, rank).latency_s,
    "image": conv,
    "none": lambda batch, rank: 1.0,
}
PRIORS = {name: functools.cache(prior) for name, prior in PRIORS.items()}
batches = st.sampled_from((1, 8, 64, 512))
ranks = st.sampled_from((0, 4, 32, 64))
seconds = st.sampled_from((1e-7, 1e-5, 1.1e-5, 1e-4, 1e-3))
# any cases, each batch with ranks of its own; flat ones too
tables = st.one_of(
    st.dictionaries(st.tuples(batches, ranks), seconds, min_size=1),
    st.sets(st.tuples(batches, ranks), min_size=1).map(lambda cases: dict.fromkeys(cases, 1e-4)),
)


def predicted(table, prior, batches=BATCHES, ranks=RANKS):
    measured = PerfTable([PerfRow("layer", *case, s) for case, s in table.items()])
    return np.array(
        [[measured.latency_s("layer", b, r, prior=prior) for r in ranks] for b in batches]
    )


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@given(table=tables)
def test_no_prediction_falls_with_rank_or_batch(prior, table):
    found = predicted(table, prior)
    for axis in (0, 1):
        before = np.delete(found, -1, axis)
        assert (np.diff(found, axis=axis) >= -1e-12 * before).all()


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("cases", [(8,), (8, 64), (1, 8, 512)])
def test_a_multiple_of_the_roofline_is_found_again_beyond_what_was_measured(prior, cases):
    found = predicted({(b, r): 3 * prior(b, r) for b in cases for r in (4, 32)}, prior)
    for b, row in zip(BATCHES, found, strict=True):
        for r, value in zip(RANKS, row, strict=True):
            between = 4 < r < 32 or (cases[0] < b < cases[-1] and b not in cases)
            if not between:  # there straight lines are drawn
                assert value == pytest.approx(3 * prior(b, r), rel=1e-12)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@given(table=tables)
def test_beyond_the_batches_a_value_grows_as_the_roofline_does_at_one_of_the_ranks(prior, table):
    sizes, known = sorted({b for b, _ in table}), sorted({r for _, r in table})
    ranks = [r for r in RANKS if known[0] <= r <= known[-1]]
    for edge, beyond in ((sizes[0], 1), (sizes[-1], 4096)):
        growth = [prior(beyond, rank) / prior(edge, rank) for rank in known]
        there, here = predicted(table, prior, (beyond, edge), ranks)
        assert (there >= min(growth) * here * (1 - 1e-9)).all()
        assert (there <= max(growth) * here * (1 + 1e-9)).all()


def test_a_flat_table_stays_flat_beyond_its_batch():
    rows = [PerfRow(linear_shape(1024, 1024), 512, rank, 1e-4) for rank in (4, 64, 512)]
    estimator = PLAIN.with_table(PerfTable(rows))
    found = [estimator.linear(1, 1024, 1024, r).latency_s for r in (4, 30, 64, 300, 512)]
    assert found == pytest.approx([found[0]] * 5)
    assert 6.03e-6 < found[0] < 1.147e-5  # between what the roofline makes of either end
