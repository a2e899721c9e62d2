import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st

from spike_ops import SpikeTensor, decoding, losses
from spike_ops.neuron import LIF

SEEDS = st.integers(0, 10**6)


def spikes_of(seed, *shape, share=0.3):
    drawn = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn < share).double()


def floats(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=SEEDS, steps=st.integers(1, 9))
def test_counts_rates_and_first_spikes_are_those_of_the_trains(seed, steps):
    spikes = spikes_of(seed, steps, 2, 3)
    for b in range(2):
        for n in range(3):
            times = [t for t in range(steps) if spikes[t, b, n]]
            assert decoding.count(spikes)[b, n] == len(times)
            assert decoding.rate(spikes)[b, n] == pytest.approx(len(times) / steps)
            assert decoding.first_spike(spikes)[b, n] == (times[0] if times else steps)


@pytest.mark.parametrize(
    "decode", [decoding.count, decoding.rate, decoding.first_spike, decoding.max_membrane]
)
def test_packed_spikes_decode_like_dense_ones_and_pass_gradients(decode):
    dense = spikes_of(0, 8, 2, 3).float().requires_grad_()
    packed = SpikeTensor.from_dense(dense.detach()).requires_grad_()
    told = decode(dense)
    assert torch.equal(decode(packed), told)
    weight = torch.randn(told.shape)
    (told * weight).sum().backward()
    (decode(packed) * weight).sum().backward()
    assert torch.equal(packed.grad.to_dense() if hasattr(packed.grad, "packed") else packed.grad,
                       dense.grad)  # fmt: skip


def test_membranes_decode_to_the_largest_and_the_last():
    v = floats(0, 7, 2, 3)
    assert torch.equal(decoding.max_membrane(v), v.amax(0))
    assert torch.equal(decoding.last_membrane(v), v[6])


def test_classes_are_voted_for_by_their_neurons():
    values = floats(0, 2, 12)
    expected = torch.stack([values[:, 4 * k : 4 * k + 4].sum(1) for k in range(3)], 1)
    torch.testing.assert_close(decoding.pool(values, 3), expected)
    with pytest.raises(ValueError, match="values must be"):
        decoding.pool(values, 5)


def test_the_gradient_of_a_first_spike_moves_it():
    spikes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).reshape(3, 1, 2).requires_grad_()
    (decoding.first_spike(spikes) * torch.tensor([2.0, 3.0])).sum().backward()
    assert spikes.grad[:, 0].tolist() == [[0, 0], [-2, 0], [0, -3]]


def test_a_neuron_learns_to_fire_when_it_should():
    weight = torch.tensor(0.3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.02)
    for _ in range(200):
        spikes = LIF(tau=8.0)(weight * torch.ones(20, 1, 1))
        loss = losses.spike_time_mse(spikes, torch.tensor([[4]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss == 0:
            break
    assert decoding.first_spike(spikes) == 4


def each_class_loss():
    return [
        (losses.ce_rate, lambda o, y: F.cross_entropy(o.sum(0) / len(o), y)),
        (losses.ce_count, lambda o, y: F.cross_entropy(o.sum(0), y)),
        (losses.ce_max_membrane, lambda o, y: F.cross_entropy(o.amax(0), y)),
        (lambda o, y: losses.tet(o, y, weight=0.0),
         lambda o, y: sum(F.cross_entropy(each, y) for each in o) / len(o)),
        (lambda o, y: losses.tet(o, y, weight=0.2, potential=0.7),
         lambda o, y: sum(0.8 * F.cross_entropy(each, y) + 0.2 * ((each - 0.7) ** 2).mean()
                          for each in o) / len(o)),
    ]  # fmt: skip


@pytest.mark.parametrize("loss, definition", each_class_loss())
def test_losses_of_classes_are_their_definitions_and_gradients(loss, definition):
    outputs = floats(0, 6, 4, 5).requires_grad_()
    target = torch.tensor([0, 4, 2, 2])
    torch.testing.assert_close(loss(outputs, target), definition(outputs, target))
    assert torch.autograd.gradcheck(lambda o: loss(o, target), (outputs,))


def test_count_losses_want_a_number_of_spikes():
    spikes = spikes_of(0, 10, 3, 4)
    target = torch.tensor([1, 0, 3])
    expected = 0.0
    for b in range(3):
        for c in range(4):
            wanted = 10 * (0.9 if c == target[b] else 0.2)
            expected += float(spikes[:, b, c].sum() - wanted) ** 2 / 12
    loss = losses.mse_count(spikes, target, correct=0.9, incorrect=0.2)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [losses.ce_rate, losses.ce_count, losses.mse_count, losses.tet])
def test_losses_of_classes_take_packed_spikes(loss):
    dense = spikes_of(1, 8, 2, 4).float()
    target = torch.tensor([3, 0])
    assert torch.equal(loss(SpikeTensor.from_dense(dense), target), loss(dense, target))


def test_the_floor_of_the_rate_loss_is_where_it_is_said_to_be():
    perfect = F.one_hot(torch.tensor([2]), 10).double().expand(7, 1, 10)
    expected = math.log(1 + 9 / math.e)
    assert losses.ce_rate(perfect, torch.tensor([2])).item() == pytest.approx(expected)


def filtered_integral(s, g, tau, fine=400, tail=14):
    """The distance by its integral, in small steps of time."""
    t = torch.arange(int((len(s) + tail * tau) * fine)).double() / fine
    f = torch.zeros_like(t)
    for train, sign in ((s, 1.0), (g, -1.0)):
        for spike in train.nonzero().flatten().tolist():
            f += sign * torch.where(t >= spike, torch.exp(-(t - spike) / tau), 0.0)
    # the left and the right sum enclose each piece; their mean is the trapezium on each step
    squares = f**2
    left = squares[:-1].sum()
    inside = squares[:-1] * math.exp(-2 / (tau * fine))
    return ((left + inside.sum()) / 2 / fine / tau).item()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_van_rossum_distance_is_its_integral(seed, tau):
    s, g = spikes_of(seed, 12, 1, 1), spikes_of(seed + 50, 12, 1, 1)
    told = losses.van_rossum_distance(s, g, tau).item()
    assert told == pytest.approx(filtered_integral(s.flatten(), g.flatten(), tau), rel=1e-5)


@given(seed=SEEDS, tau=st.floats(0.2, 50.0), steps=st.integers(1, 30))
def test_the_van_rossum_distance_is_its_double_sum_over_spikes(seed, tau, steps):
    s, g = spikes_of(seed, steps, 1, 2), spikes_of(seed + 1, steps, 1, 2)
    step = torch.arange(steps).double()
    kernel = torch.exp(-(step[:, None] - step).abs() / tau)
    d = (s - g)[:, 0]
    expected = (d * (kernel @ d)).sum(0) / 2
    torch.testing.assert_close(losses.van_rossum_distance(s, g, tau)[0], expected)


def test_long_trains_are_filtered_in_blocks():
    s, g = spikes_of(3, 1_300, 1, 2), spikes_of(4, 1_300, 1, 2)
    step = torch.arange(1_300).double()
    kernel = torch.exp(-(step[:, None] - step).abs() / 30.0)
    d = (s - g)[:, 0]
    torch.testing.assert_close(
        losses.van_rossum_distance(s, g, 30.0)[0], (d * (kernel @ d)).sum(0) / 2
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_van_rossum_distance_in_half_precision_is_that_of_float64_rounded(dtype):
    s, g = spikes_of(0, 700, 2, 3).to(dtype), spikes_of(1, 700, 2, 3).to(dtype)
    exact = losses.van_rossum_distance(s.double(), g.double(), 30.0)
    got = losses.van_rossum_distance(s.requires_grad_(), g, 30.0)
    assert got.dtype == dtype
    room = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), exact, rtol=room, atol=0)
    got.sum().backward()
    assert s.grad.dtype == dtype


def test_the_van_rossum_distance_of_one_spike_is_known():
    one = torch.zeros(9, 1, 1, dtype=torch.float64)
    other = one.clone()
    one[1], other[6] = 1, 1
    assert losses.van_rossum(one, 0 * one, tau=3.0).item() == pytest.approx(0.5)
    assert losses.van_rossum(one, other, tau=3.0).item() == pytest.approx(1 - math.exp(-5 / 3))
    assert losses.van_rossum(one, one, tau=3.0) == 0
    fine = floats(0, 5, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: losses.van_rossum(s, one[:5, :, :1] + 0 * s, 2.0), fine
    )


def test_rates_are_taxed_by_neuron_over_time_and_batch():
    spikes = spikes_of(0, 20, 3, 5)
    r = [float(spikes[:, :, n].mean()) for n in range(5)]
    assert losses.rate_l1(spikes).item() == pytest.approx(sum(r) / 5)
    assert losses.rate_l2(spikes).item() == pytest.approx(sum(each**2 for each in r) / 5)
    for order in (1, 2):
        above = sum(max(0, each - 0.3) ** order for each in r) / 5
        below = sum(max(0, 0.3 - each) ** order for each in r) / 5
        assert above > 0
        assert below > 0
        assert losses.rate_above(spikes, 0.3, order=order).item() == pytest.approx(above)
        assert losses.rate_below(spikes, 0.3, order=order).item() == pytest.approx(below)
    losses.rate_below(spikes.requires_grad_(), 0.31, order=1).backward()
    short = torch.tensor([each < 0.31 for each in r])
    assert torch.equal(spikes.grad[0, 0] < 0, short)


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: losses.ce_rate(torch.ones(3, 4), torch.tensor([1])), r"\[T, B, C\]"),
        (lambda: losses.ce_rate(torch.ones(3, 4, 2), torch.tensor([1])), r"\[T, B, C\]"),
        (lambda: losses.mse_count(torch.ones(3, 1, 2), torch.tensor([1]), correct=2), "correct"),
        (lambda: losses.tet(torch.ones(3, 1, 2), torch.tensor([1]), weight=2), "weight must be"),
        (lambda: losses.van_rossum(torch.ones(3, 1), torch.ones(3, 2), 1.0), "one shape"),
        (lambda: losses.van_rossum(torch.ones(3, 1), torch.ones(3, 1), 0.0), "tau must be"),
        (lambda: losses.spike_time_mse(torch.ones(3, 1), torch.ones(3)), r"\[T, B, ...\]"),
        (lambda: losses.rate_l1(torch.ones(3)), r"\[T, B, ...\]"),
        (lambda: losses.rate_above(torch.ones(3, 1), 1.5), "bound must be"),
        (lambda: losses.rate_below(torch.ones(3, 1), 0.5, order=3), "order must be"),
        (lambda: decoding.count(torch.ones(0, 3)), "T at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


def test_targets_that_are_no_numbers_of_classes_are_refused():
    with pytest.raises(TypeError, match="target must hold class numbers"):
        losses.ce_rate(torch.ones(3, 1, 2), torch.tensor([1.0]))


CLASSES = [losses.ce_rate, losses.ce_count, losses.mse_count, losses.ce_max_membrane, losses.tet]


@pytest.mark.parametrize("wrong", [-1, 2, 7])
@pytest.mark.parametrize("loss", CLASSES)
def test_a_target_that_is_no_class_is_named(loss, wrong):
    with pytest.raises(ValueError, match=rf"target must be classes in 0..1, got .*{wrong}"):
        loss(torch.ones(3, 2, 2), torch.tensor([wrong, wrong]))


@pytest.mark.parametrize("loss", CLASSES)
def test_a_target_that_is_no_tensor_is_named(loss):
    with pytest.raises(TypeError, match="target must be a torch.Tensor, got list"):
        loss(torch.ones(3, 1, 2), [1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("packed", [False, True])
def test_half_precision_loses_no_count(dtype, packed):
    halves = (torch.rand(4099, 2, 6, generator=torch.Generator().manual_seed(0)) < 0.9).to(dtype)
    halves[:4097, 0, 0], halves[4097:, 0, 0], target = 0, 1, torch.tensor([1, 0])
    given = SpikeTensor.from_dense(halves) if packed else halves
    counts = decoding.count(given)
    assert torch.equal(counts.double(), halves.double().sum(0))
    assert torch.equal(decoding.pool(counts, 3), decoding.pool(decoding.count(halves.float()), 3))
    assert decoding.first_spike(given)[0, 0] == 4097
    assert decoding.pool(torch.ones(1, 4097, dtype=dtype), 1) == 4097
    for loss in (losses.ce_count, losses.mse_count):
        assert torch.equal(loss(given, target), loss(halves.float(), target))
    leaf = halves[:4].clone().requires_grad_()
    (decoding.count(leaf).sum() + decoding.first_spike(leaf).sum()).backward()
    assert leaf.grad.dtype == dtype
    assert leaf.grad.any()
