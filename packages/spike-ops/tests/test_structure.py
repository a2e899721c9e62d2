"""Structures: degrees, densities, paths, moments; the same seed gives the same."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from spike_ops.structure import (
    Columns,
    DistanceDependent,
    FixedInDegree,
    LayeredColumn,
    RandomConnections,
    ScaleFree,
    SmallWorld,
    Structure,
    balanced_variance,
    balanced_weight,
    dale_signs,
    potjans_diesmann,
)

SQUARE: dict[str, Structure] = {
    "random": RandomConnections(0.2),
    "in-degree": FixedInDegree(7),
    "small world": SmallWorld(6, 0.2),
    "scale free": ScaleFree(3),
    "distance": DistanceDependent((8, 8), 0.9, 2.0),
    "columns": Columns(4, 0.6, 0.05),
    "layers": LayeredColumn((40, 24), ((0.1, 0.5), (0.3, 0.0)), (True, False)),
}
each = pytest.mark.parametrize("structure", SQUARE.values(), ids=SQUARE)


def reseeded(structure: Structure, seed: int) -> Structure:
    return replace(structure, seed=seed)  # type: ignore[call-arg]


@each
def test_a_seed_gives_one_mask_and_another_gives_another(structure: Structure) -> None:
    torch.manual_seed(1)
    first = structure.mask(64, 64)
    torch.manual_seed(2)
    assert first.dtype == torch.bool
    assert torch.equal(first, structure.mask(64, 64))
    assert torch.equal(first, structure.wiring(64, 64).mask)
    assert not torch.equal(first, reseeded(structure, 5).mask(64, 64))
    assert reseeded(structure, 0) == structure


@each
def test_the_global_generator_is_left_alone(structure: Structure) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    structure.mask(64, 64)
    assert torch.equal(torch.rand(3), wanted)


@each
def test_sizes_below_one_are_refused(structure: Structure) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        structure.mask(0, 64)


@pytest.mark.parametrize("name", ["small world", "scale free", "layers"])
def test_graphs_connect_a_population_with_itself(name: str) -> None:
    with pytest.raises(ValueError, match="sizes must be equal"):
        SQUARE[name].mask(64, 63)


@given(st.floats(0, 1), st.integers(0, 50))
def test_random_connections_have_their_density(p: float, seed: int) -> None:
    mask = RandomConnections(p, seed=seed).mask(100, 80)
    assert float(mask.double().mean()) == pytest.approx(p, abs=5 * math.sqrt(0.25 / 8000))
    loopless = RandomConnections(p, self_connections=False, seed=seed).mask(100, 80)
    assert not loopless.diagonal().any()


@given(st.integers(0, 20), st.integers(0, 50), st.booleans())
def test_in_degrees_are_exact_and_sources_uniform(degree: int, seed: int, loops: bool) -> None:
    mask = FixedInDegree(degree, loops, seed).mask(50, 21)
    assert (mask.sum(1) == degree).all()
    assert loops or not mask.diagonal().any()
    spread = math.sqrt(50 * degree / 21 + 1)
    assert (mask.sum(0) - 50 * degree / 21).abs().max() <= 6 * spread


def test_an_in_degree_above_the_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match="degree must be at most 9 of 10, got 10"):
        FixedInDegree(10, self_connections=False).mask(4, 10)


def clustering(mask: Tensor) -> float:
    a = mask.double()
    degree = a.sum(1)
    return float(((a @ a @ a).diagonal() / (degree * (degree - 1))).mean())


def path_length(mask: Tensor) -> float:
    size, a = len(mask), mask.double()
    reached, total = torch.eye(size).bool(), 0.0
    for step in range(1, size):
        ahead = (reached.double() @ a > 0) | reached
        total += step * float((ahead & ~reached).sum())
        reached = ahead
        if reached.all():
            return total / (size * (size - 1))
    return math.inf


def test_a_ring_has_the_clustering_and_paths_of_the_paper() -> None:
    ring = SmallWorld(10, 0.0).mask(200, 200)
    assert (ring.sum(1) == 10).all()
    assert clustering(ring) == pytest.approx(3 * (10 - 2) / (4 * (10 - 1)))
    assert path_length(ring) == pytest.approx(200 / (2 * 10), rel=0.06)


def test_a_small_world_is_clustered_like_a_ring_with_paths_like_a_random_graph() -> None:
    ring, small, chance = (SmallWorld(10, p).mask(200, 200) for p in (0.0, 0.05, 1.0))
    for mask in (small, chance):
        assert torch.equal(mask, mask.T)
        assert not mask.diagonal().any()
        assert int(mask.sum()) == 2 * 200 * 10 // 2
    assert clustering(small) > 0.75 * clustering(ring)
    assert path_length(small) < 0.4 * path_length(ring)
    assert clustering(chance) < 0.2 * clustering(ring)


def test_a_ring_that_is_too_small_or_odd_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbours must be even"):
        SmallWorld(3)
    with pytest.raises(ValueError, match="neighbours must be below the size 4"):
        SmallWorld(4).mask(4, 4)


def test_a_complete_ring_has_nowhere_to_rewire_to() -> None:
    assert torch.equal(SmallWorld(4, 1.0).mask(5, 5), ~torch.eye(5, dtype=torch.bool))


def test_a_scale_free_graph_has_its_edges_hubs_and_tail() -> None:
    size, m = 600, 3
    mask = ScaleFree(m).mask(size, size)
    degrees = mask.sum(1).double()
    assert torch.equal(mask, mask.T)
    assert int(mask.sum()) // 2 == m * (m + 1) // 2 + m * (size - m - 1)
    assert int(degrees.min()) == m
    # a random graph of this mean has no neuron with more than some 20
    assert float(degrees.max()) > 40
    # P(K >= k) ~ k^-2: the mean-field law m (m + 1) / (k (k + 1))
    for k in (6, 12):
        wanted = m * (m + 1) / (k * (k + 1))
        assert float((degrees >= k).double().mean()) == pytest.approx(wanted, rel=0.35)


def test_distance_falls_off_as_said() -> None:
    structure = DistanceDependent((40, 40), 0.8, 3.0, seed=1)
    d, mask = structure.distances(), structure.mask(1600, 1600)
    for low in (0, 1, 3, 6, 10):
        ring = (d >= low) & (d < low + 1)
        wanted = float((0.8 * torch.exp(-d[ring] / 3)).mean())
        count = int(ring.sum())
        slack = 5 * math.sqrt(wanted / count)
        assert float(mask[ring].double().mean()) == pytest.approx(wanted, abs=slack)


def test_distances_are_those_of_the_grid() -> None:
    grid = DistanceDependent((3, 4))
    there = torch.tensor([[i, j] for i in range(3) for j in range(4)]).double()
    assert torch.allclose(grid.distances(), torch.cdist(there, there))
    around = DistanceDependent((3, 4), periodic=True).distances()
    assert float(around[0, 3]) == 1
    assert float(around[0, 11]) == pytest.approx(math.sqrt(2))
    coarse = DistanceDependent((4,), source=(2,)).distances()
    assert coarse[:, 0].tolist() == [0.5, 0.5, 1.5, 2.5]


def test_delays_grow_with_distance() -> None:
    grid = DistanceDependent((30,), velocity=2.0)
    delays = grid.delays(30, 30)
    assert delays is not None
    assert delays[0, :9].tolist() == [1, 1, 1, 2, 2, 2, 3, 4, 4]
    assert DistanceDependent((30,)).delays(30, 30) is None
    with pytest.raises(ValueError, match="sizes must be those of the grids"):
        grid.mask(30, 29)


def test_columns_are_dense_within_and_sparse_between() -> None:
    columns = Columns(5, 0.5, 0.03)
    mask = columns.mask(202, 300)
    same = columns.column_of(202)[:, None] == columns.column_of(300)
    assert float(mask[same].double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(mask[~same].double().mean()) == pytest.approx(0.03, abs=0.01)
    assert columns.column_of(202).bincount().tolist() == [41, 40, 41, 40, 40]
    with pytest.raises(ValueError, match="at least the 5 columns"):
        columns.mask(4, 300)


def test_the_microcircuit_has_the_densities_and_signs_of_its_table() -> None:
    column = potjans_diesmann(0.02)
    size = sum(column.sizes)
    mask, place = column.mask(size, size), column.population_of()
    names = dict(zip(column.names or (), range(8), strict=True))
    for to, source, wanted in (
        ("L2/3e", "L2/3e", 0.1009), ("L4e", "L4i", 0.1350), ("L6e", "L6i", 0.2252),
        ("L5e", "L2/3e", 0.1004), ("L2/3e", "L6i", 0.0),
    ):  # fmt: skip
        block = mask[place == names[to]][:, place == names[source]].double()
        slack = 5 * math.sqrt(0.25 / block.numel()) * math.sqrt(4 * wanted)
        assert float(block.mean()) == pytest.approx(wanted, abs=slack + 1e-12)
    signs = column.signs(size)
    assert signs is not None
    excitatory = sum(column.sizes[::2])
    assert int((signs > 0).sum()) == excitatory
    assert sum(potjans_diesmann(1.0).sizes) == 77169


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="probabilities must be 2 rows of 2"):
        LayeredColumn((1, 2), ((0.1, 0.2),))
    with pytest.raises(ValueError, match="every probability must be in"):
        LayeredColumn((1,), ((1.1,),))
    with pytest.raises(ValueError, match="sizes sum to 3 neurons, got 4"):
        LayeredColumn((1, 2), ((0.1, 0.2), (0.1, 0.2))).mask(4, 4)


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("exact", [True, False])
def test_balanced_weights_cancel_and_fluctuate_by_one(spread: float, exact: bool) -> None:
    signs, drawn = dale_signs(1000), torch.Generator().manual_seed(0)
    mask = RandomConnections(0.2).mask(300, 1000)
    weight = balanced_weight(mask, signs, spread=spread, exact=exact).double()
    assert torch.equal(weight != 0, mask)
    assert torch.equal(weight.sign()[mask], signs.double().expand_as(weight)[mask])
    rows = weight.sum(1)
    if exact:
        assert rows.abs().max() <= 1e-4
    # one row's sum is the sum of about 200 terms of order 1/√160: a few, not the 12 of one kind
    assert float(rows.mean().abs()) <= 5 * float(rows.std()) / math.sqrt(300) + 1e-4
    rate = 0.1
    inputs = (torch.rand(3000, 1000, generator=drawn) < rate).double()
    driven = (inputs - rate) @ weight.T
    wanted = rate * (1 - rate) * balanced_variance(160, 40) * math.exp(spread**2)
    assert float(driven.var()) == pytest.approx(wanted, rel=0.05)


def test_four_fifths_of_excitation_need_inhibition_four_times_as_strong() -> None:
    weight = balanced_weight(torch.ones(2, 50, dtype=torch.bool), dale_signs(50), gain=2.0)
    assert weight[0, 0] == pytest.approx(2 / math.sqrt(40))
    assert weight[0, -1] == pytest.approx(-4 * float(weight[0, 0]))


def test_weights_without_one_kind_cannot_be_balanced() -> None:
    with pytest.raises(ValueError, match="connections of both signs"):
        balanced_weight(torch.ones(2, 5, dtype=torch.bool), torch.ones(5))
    with pytest.raises(ValueError, match="mask must be"):
        balanced_weight(torch.ones(2, 5, dtype=torch.bool), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int64])
def test_a_mask_of_zeros_and_ones_is_one_of_bool(dtype):
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]])
    signs = torch.tensor([1, 1, 1, -1])
    wanted = balanced_weight(mask.bool(), signs, spread=0.3)
    assert torch.equal(balanced_weight(mask.to(dtype), signs, spread=0.3), wanted)
    assert torch.equal(wanted != 0, mask != 0)


@pytest.mark.parametrize(
    "call, kind, told",
    [
        (lambda m, s: balanced_weight(2 * m, s), ValueError, "mask must be bool, or zeros and"),
        (lambda m, s: balanced_weight(m / 2, s), ValueError, "mask must be bool, or zeros and"),
        (lambda m, s: balanced_weight(m, 2 * s), ValueError, r"signs must be \+1 or -1"),
        (lambda m, s: balanced_weight(m, s, gain=math.nan), ValueError, "gain must be finite"),
        (lambda m, s: balanced_weight(m, s, spread="1"), TypeError, "spread must be a number"),
        (lambda m, s: balanced_weight([[1]], s), TypeError, "mask must be a torch.Tensor"),
    ],
)
def test_what_cannot_be_balanced_is_named(call, kind, told):
    with pytest.raises(kind, match=told):
        call(torch.ones(2, 5), dale_signs(5))
