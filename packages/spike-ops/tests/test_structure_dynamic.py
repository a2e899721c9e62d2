"""Lateral inhibition, Dale's law and rewiring."""

import copy

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from spike_ops import SpikeTensor
from spike_ops.learning import PairSTDP, apply_
from spike_ops.nn import SparseSynapse
from spike_ops.structure import (
    DaleSign,
    FixedInDegree,
    GlobalInhibition,
    KWinners,
    MexicanHat,
    dale_,
    dale_signs,
    deep_rewire_,
    k_winners,
    keep_signs_,
    set_rewire_,
)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_exactly_k_win_and_they_are_the_strongest(size: int, rows: int, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    activity = torch.randint(4, (rows, size), generator=drawn).float()  # with ties
    for k in range(1, size + 1):
        won = k_winners(activity, k)
        assert (won.sum(1) == k).all()
        for row, mark in zip(activity, won, strict=True):
            if k < size:
                assert row[mark].min() >= row[~mark].max()


def test_winners_pass_their_gradient_and_losers_none() -> None:
    x = torch.tensor([[0.3, 0.9, 0.5], [0.2, 0.1, 0.4]], requires_grad=True)
    KWinners(2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1], [1, 0, 1]]


def test_packed_spikes_compete_too() -> None:
    spikes = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = KWinners(1, groups=2)(SpikeTensor.from_dense(spikes))
    assert found.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0]]


def test_numbers_of_winners_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be in 1..3, got 4"):
        k_winners(torch.ones(3), 4)
    with pytest.raises(ValueError, match="groups must divide the 5 neurons, got 2"):
        KWinners(1, groups=2)(torch.ones(5))
    with pytest.raises(ValueError, match="at least 1"):
        KWinners(0)


def test_global_inhibition_is_a_matrix_with_a_flat_off_diagonal() -> None:
    x = torch.randn(3, 6, dtype=torch.float64)
    matrix = torch.full((6, 6), -0.7 / 5).double().fill_diagonal_(1.0)
    assert torch.allclose(GlobalInhibition(0.7)(x), x @ matrix)


def test_a_mexican_hat_is_its_kernel_and_answers_contrasts() -> None:
    hat = MexicanHat(1.0, 2.0).double()
    point = torch.zeros(2, 25, 25).double()
    point[0, 12, 12] = 1
    answer = hat(point)
    reach = hat.kernel.shape[0] // 2
    assert torch.allclose(answer[0, 12 - reach : 13 + reach, 12 - reach : 13 + reach], hat.kernel)
    assert not answer[1].any()
    assert answer[0, 12, 12] > 0
    assert answer[0, 12, 15] < 0
    assert float(hat.kernel.sum().abs()) < 1e-6


def test_an_endless_hat_is_a_circular_convolution() -> None:
    hat, x = MexicanHat(0.7, 1.2, a_e=1.5, periodic=True).double(), torch.randn(5, 6).double()
    reach, wanted = hat.kernel.shape[0] // 2, torch.zeros(5, 6).double()
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            wanted += hat.kernel[i + reach, j + reach] * x.roll((i, j), (0, 1))
    assert torch.allclose(hat(x), wanted)
    with pytest.raises(ValueError, match="sigma_i must be above"):
        MexicanHat(2.0, 1.0)


def test_dale_keeps_signs_under_any_optimiser() -> None:
    torch.manual_seed(0)
    signs = dale_signs(10, 0.7)
    layer = nn.Linear(10, 5)
    assert isinstance(layer.weight, Tensor)
    before = layer.weight.detach().clone()
    dale_(layer, signs)
    assert torch.equal(layer.weight, before.abs() * signs)
    optimizer = torch.optim.Adam(layer.parameters(), 0.3)
    for _ in range(30):
        optimizer.zero_grad()
        (layer(torch.randn(20, 10)) - 1).square().mean().backward()
        optimizer.step()
        assert (layer.weight * signs >= 0).all()
    assert not torch.equal(layer.weight.detach().abs(), before.abs())
    again = dale_(nn.Linear(10, 5), signs)
    again.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(again.weight, layer.weight)


def test_dale_keeps_signs_under_rules_of_learning() -> None:
    torch.manual_seed(0)
    signs, layer = dale_signs(6, 0.5), nn.Linear(6, 4, bias=False)
    dale_(layer, signs)
    before = layer.weight.detach().clone()
    apply_(layer, -2 * before + 0.1 * signs)
    wanted = (0.1 * signs - before) * (before.abs() < 0.1)
    assert torch.allclose(layer.weight, wanted)
    pre, post = ((torch.rand(20, 2, size) < 0.3).float() for size in (6, 4))
    PairSTDP().step(layer, pre, post, lr=0.5)
    assert (layer.weight * signs >= 0).all()


def test_dale_holds_for_the_channels_of_kernels() -> None:
    signs = dale_signs(4, 0.5)
    layer = dale_(nn.Conv2d(4, 3, 3), signs)
    assert torch.equal(layer.weight.sign(), signs.reshape(1, 4, 1, 1).expand(3, 4, 3, 3))


def test_updates_keep_signs_in_place() -> None:
    signs = torch.tensor([1.0, -1.0, 1.0])
    weight = torch.tensor([[0.5, 0.5, -0.5], [1.0, -2.0, 3.0]])
    kept = keep_signs_(weight, signs)
    assert kept is weight
    assert weight.tolist() == [[0.5, 0, 0], [1, -2, 3]]


def test_signs_that_are_none_or_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="signs must be .1 or -1"):
        DaleSign(torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="one for each input"):
        dale_(nn.Linear(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match="excitatory in"):
        dale_signs(4, 1.5)


def trained(seed: int) -> tuple[nn.Parameter, Tensor, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    mask = FixedInDegree(5, seed=seed).mask(12, 20)
    weight = nn.Parameter(torch.randn(12, 20) * mask)
    optimizer = torch.optim.Adam([weight], 0.01)
    weight.grad = torch.randn(12, 20) * mask
    optimizer.step()
    return weight, mask, optimizer


@given(st.floats(0, 1), st.integers(0, 50))
def test_the_weakest_move_and_what_stays_is_untouched(fraction: float, seed: int) -> None:
    weight, mask, optimizer = trained(seed)
    before, old = weight.detach().clone(), mask.clone()
    moments = optimizer.state[weight]["exp_avg"].clone()
    drawn = torch.Generator().manual_seed(seed)
    moved = set_rewire_(weight, mask, fraction, generator=drawn, optimizer=optimizer)
    assert moved == int(fraction * 60)
    assert int(mask.sum()) == 60
    died, born, stayed = old & ~mask, mask & ~old, old & mask
    assert int(died.sum()) == int(born.sum()) == moved
    if moved and stayed.any():
        assert before[died].abs().max() <= before[stayed].abs().min()
    assert torch.equal(weight.detach(), before * stayed)
    assert torch.equal(optimizer.state[weight]["exp_avg"], moments * stayed)


@given(st.integers(0, 50), st.floats(0, 0.5))
def test_connections_that_change_sign_die_and_as_many_are_born(seed: int, noise: float) -> None:
    weight, mask, optimizer = trained(seed)
    signs = torch.where(torch.rand(12, 20) < 0.5, -1.0, 1.0)
    start = torch.where(weight.detach() * signs < 0, -weight.detach(), weight.detach())
    with torch.no_grad():
        weight.copy_(start)
        flipped = mask & (torch.rand(12, 20) < 0.2)
        weight[flipped] *= -1
    old, drawn = mask.clone(), torch.Generator().manual_seed(seed)
    moved = deep_rewire_(weight, mask, signs, noise=noise, generator=drawn, optimizer=optimizer)
    assert int(mask.sum()) == 60
    born = mask & ~old
    assert int(born.sum()) == moved
    assert not weight[born].any()
    assert not weight[~mask].any()
    assert (weight * signs >= 0).all()
    if noise == 0:
        assert torch.equal(old & ~mask, flipped)
        assert torch.equal(weight.detach()[old & mask], start[old & mask])


def test_shrinking_kills_what_is_small() -> None:
    weight = nn.Parameter(torch.tensor([[0.05, -0.5, 0.2, 0.0, 0.0]]))
    mask = weight.detach() != 0
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])  # by Dale's law
    moved = deep_rewire_(weight, mask, signs, shrink=0.1, generator=torch.Generator())
    assert moved == 1
    assert weight.detach().flatten()[:3].tolist() == pytest.approx([0, -0.4, 0.1])
    assert not mask[0, 0]


def test_masks_of_zeros_and_ones_do_as_well_and_wrong_ones_are_refused() -> None:
    weight, mask, _ = trained(0)
    numbers = mask.float()
    set_rewire_(weight, numbers, 0.3, generator=torch.Generator())
    assert float(numbers.sum()) == 60
    with pytest.raises(ValueError, match="mask must have the weight's shape"):
        set_rewire_(weight, mask[:3], 0.3, generator=torch.Generator())
    with pytest.raises(ValueError, match="fraction must be in"):
        set_rewire_(weight, mask, 1.3, generator=torch.Generator())


def test_a_full_weight_has_nowhere_to_move() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert set_rewire_(weight, mask, 0.5, generator=torch.Generator()) == 0
    assert deep_rewire_(weight, mask, torch.ones(2), generator=torch.Generator()) == 0
    assert mask.all()
    assert weight.tolist() == [[1, 0]]


def test_a_layer_of_a_structure_learns_and_is_rewired_without_losing_it() -> None:
    torch.manual_seed(0)
    layer = SparseSynapse(20, 12, bias=False, connection=FixedInDegree(5))
    mask = layer.mask
    assert mask is not None
    x, y = ((torch.rand(30, 2, size) < 0.3).float() for size in (20, 12))
    before = layer.weight.detach().clone()
    PairSTDP().step(layer, x, y, lr=0.1, bounds=(-1.0, 1.0))
    assert not torch.equal(layer.weight.detach(), before)
    assert not layer.weight[~mask].any()
    drawn = torch.Generator().manual_seed(0)
    assert set_rewire_(layer.weight, mask, 0.5, generator=drawn) == 30
    assert int(mask.sum()) == 60
    layer.weight.data[mask] = 1.0  # the new connections carry spikes, the old ones none
    assert torch.allclose(layer(x), x @ mask.float().T)
