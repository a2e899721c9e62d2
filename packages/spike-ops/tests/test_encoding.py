import math

import pytest
import torch
from hypothesis import given, strategies as st

from spike_ops import SpikeTensor, encoding
from spike_ops.neuron import LIF

VALUES = torch.linspace(0, 1, 257).reshape(1, 257)

# what encodes values in 0..1, and the settings it is tried at
ENCODERS = [
    (encoding.rate, {}),
    (encoding.poisson, {}),
    (encoding.burst, {}),
    (encoding.latency, {}),
    (encoding.latency, {"kind": "log"}),
    (encoding.ttfs, {}),
    (encoding.phase, {"period": 8}),
    (encoding.weighted_phase, {"bits": 8}),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("encode, settings", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_spikes_are_zeros_and_ones_time_first_and_packed_where_asked(encode, settings, dtype):
    x = torch.rand(3, 4, generator=generator()).to(dtype)
    torch.manual_seed(1)
    spikes = encode(x, 16, **settings)
    assert spikes.shape == (16, 3, 4)
    assert spikes.dtype == dtype
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    torch.manual_seed(1)
    packed = encode(x, 16, spike_out=True, **settings)
    assert isinstance(packed, SpikeTensor)
    assert torch.equal(packed.to_dense(), spikes)


@pytest.mark.parametrize("encode, settings", ENCODERS[2:])
def test_a_larger_value_never_fires_less_or_later(encode, settings):
    spikes = encode(VALUES, 16, **settings)
    if encode is encoding.weighted_phase:
        told = encoding.decode_weighted_phase(spikes)
    elif encode is encoding.burst:
        told = spikes.sum(0)
    else:
        fired = spikes.sum(0) > 0
        told = torch.where(fired, -spikes.argmax(0), -16)
    assert (told.diff(dim=1) >= 0).all()
    assert told.unique().numel() > 4


RANDOM = (encoding.rate, encoding.poisson)


@pytest.mark.parametrize("encode, settings", ENCODERS)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_outside_the_unit_interval_are_refused(encode, settings, value):
    if encode is encoding.poisson and value == 1.1:
        return
    with pytest.raises(ValueError, match="must be (in 0..1, got|finite and at least 0)"):
        encode(torch.tensor([0.5, value]), 16, **settings)


@pytest.mark.parametrize("encode, settings", ENCODERS)
def test_no_steps_and_integers_are_refused(encode, settings):
    with pytest.raises(ValueError, match="steps must be"):
        encode(VALUES, 0, **settings)
    if encode is not encoding.poisson:
        with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
            encode(torch.tensor([1]), 16, **settings)


@pytest.mark.parametrize("gain", [1.0, 0.4])
def test_rates_have_the_mean_and_variance_of_a_binomial(gain):
    steps, trials = 100, 4_000
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64).expand(trials, 5)
    counts = encoding.rate(x, steps, gain=gain, generator=generator()).sum(0)
    p = gain * x[0]
    variance = steps * p * (1 - p)
    # five standard errors of the mean and, with the fourth moment of a Gaussian, of the variance
    assert ((counts.mean(0) - steps * p).abs() <= 5 * (variance / trials).sqrt()).all()
    assert ((counts.var(0) - variance).abs() <= 5 * variance * (2 / trials) ** 0.5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rates_in_half_precision_are_those_of_their_values(dtype):
    steps, batch = 100, 20_000
    for value in (1e-4, 1e-3, 0.3, 0.9990234375):
        x = torch.full((batch,), value, dtype=dtype)
        p, trials = x[0].double().item(), steps * batch
        counts = [
            encoding.rate(x, steps, generator=generator()).double().sum(),
            encoding.poisson(x, steps, generator=generator()).double().sum(),
            encoding.poisson(1000 * x, steps, dt=1e-3, generator=generator()).double().sum(),
        ]
        chances = [p, -math.expm1(-p), -math.expm1(-1e-3 * (1000 * x)[0].double().item())]
        for counted, chance in zip(counts, chances, strict=True):
            assert abs(counted - chance * trials) <= 5 * math.sqrt(chance * (1 - chance) * trials)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_fires_where_float32_does(dtype):
    x = torch.rand(1, 500, generator=generator()).to(dtype)
    for encode in RANDOM:
        half, single = (encode(each, 20, generator=generator(1)) for each in (x, x.float()))
        assert half.dtype == dtype
        assert torch.equal(half.float(), single)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_decodes_to_what_float32_does_rounded(dtype):
    often = encoding.rate(torch.full((50,), 0.997), 1000, generator=generator())
    for spikes in (often, torch.ones(1000, 1)):
        told = encoding.decode_poisson(spikes.to(dtype))
        assert torch.equal(told, encoding.decode_poisson(spikes).to(dtype))
    moved, start = torch.ones(1001, 1, 2), torch.zeros(1)
    moved[:, :, 0] = 0
    told = encoding.decode_delta(moved.to(dtype), 0.1, start=start.to(dtype))
    assert torch.equal(told, encoding.decode_delta(moved, 0.1, start=start).to(dtype))
    x = torch.rand(9, generator=generator()).to(dtype)
    answers = encoding.population(x, 600)
    assert answers.dtype == dtype
    assert torch.equal(answers, encoding.population(x.float(), 600).to(dtype))


def test_steps_of_rates_are_independent():
    spikes = encoding.rate(
        torch.full((20_000,), 0.3, dtype=torch.float64), 2, generator=generator()
    )
    both = (spikes[0] * spikes[1]).mean()
    assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / 20_000)


def test_a_seed_gives_the_same_spikes_and_another_gives_others():
    for encode in RANDOM:
        first = encode(VALUES, 8, generator=generator(3))
        assert torch.equal(first, encode(VALUES, 8, generator=generator(3)))
        assert not torch.equal(first, encode(VALUES, 8, generator=generator(4)))


def test_decoded_rates_keep_hoeffdings_bound():
    steps, delta = 500, 1e-6
    for gain in (1.0, 0.5):
        spikes = encoding.rate(VALUES, steps, gain=gain, generator=generator())
        bound = math.sqrt(math.log(2 * VALUES.numel() / delta) / (2 * steps)) / gain
        assert (encoding.decode_rate(spikes, gain=gain) - VALUES).abs().max() <= bound


def test_poisson_steps_have_the_probability_of_an_event():
    rates = torch.tensor([0.0, 5.0, 50.0, 300.0], dtype=torch.float64).expand(20_000, 4)
    spikes = encoding.poisson(rates, 4, dt=0.01, generator=generator())
    p = 1 - torch.exp(-rates[0] * 0.01)
    error = (p * (1 - p) / 80_000).sqrt()
    assert ((spikes.mean((0, 1)) - p).abs() <= 5 * error).all()
    told = encoding.decode_poisson(spikes.reshape(-1, 4), dt=0.01)
    slope = 100 / (1 - p)
    assert ((told - rates[0]).abs() <= 6 * slope * error).all()


def test_a_direct_current_is_a_view_of_the_values():
    x = torch.randn(3, 4)
    currents = encoding.direct(x, 7)
    assert currents.data_ptr() == x.data_ptr()
    assert all(torch.equal(current, x) for current in currents)
    assert LIF()(currents).shape == (7, 3, 4)


@pytest.mark.parametrize("most, shortest, longest", [(1, 1, 1), (5, 1, 3), (4, 2, 6), (9, 1, 1)])
def test_bursts_have_their_number_and_distance_and_decode_from_above(most, shortest, longest):
    x = VALUES.double()
    settings = {"most": most, "shortest": shortest, "longest": longest}
    steps = next(n for n in range(1, 99) if accepted(encoding.burst, x, n, settings))
    spikes = encoding.burst(x, steps, **settings)
    assert spikes[-1].sum() > 0
    for value, train in zip(x[0].tolist(), spikes[:, 0].T, strict=True):
        times = train.nonzero().flatten().tolist()
        apart = math.ceil(longest - (longest - shortest) * value)
        assert times == [apart * k for k in range(math.ceil(most * value))]
    error = encoding.decode_burst(spikes, most=most) - x
    assert (error >= -1e-12).all()
    assert (error < 1 / most).all()


def accepted(encode, x, steps, settings):
    try:
        encode(x, steps, **settings)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("steps", [2, 5, 16, 101])
def test_linear_latencies_decode_within_half_a_step(steps):
    x = VALUES.double()
    spikes = encoding.latency(x, steps)
    assert (spikes.sum(0) == 1).all()
    error = (encoding.decode_latency(spikes) - x).abs().max()
    assert error <= 0.5 / (steps - 1) + 1e-12


def test_logarithmic_latencies_are_those_of_a_charging_membrane():
    tau, threshold = 20.0, 0.1
    x = VALUES.double()
    spikes = encoding.latency(x, 60, kind="log", tau=tau, threshold=threshold)
    time = spikes.argmax(0)
    fired = spikes.sum(0) > 0
    assert torch.equal(spikes.sum(0), fired.double())

    # the membrane x (1 - e^(-t/τ)) reaches θ within half a step of the spike
    def membrane(t):
        return x * (1 - torch.exp(-t / tau))

    assert (membrane(time + 0.5)[fired] >= threshold - 1e-12).all()
    assert (membrane(time - 0.5)[fired] <= threshold + 1e-12).all()
    assert (membrane(torch.tensor(58.5))[~fired] < threshold + 0.01).all()
    told = encoding.decode_latency(spikes, kind="log", tau=tau, threshold=threshold)
    low = threshold / (1 - torch.exp(-(time + 0.5) / tau))
    high = threshold / (1 - torch.exp(-(time - 0.5).clamp(min=1e-9) / tau))
    assert ((low <= x + 1e-12) & (x <= high + 1e-12))[fired].all()
    assert ((low <= told + 1e-12) & (told <= high + 1e-12))[fired].all()
    assert (told[~fired] == 0).all()


@pytest.mark.parametrize("tau, threshold", [(1.0, 1.0), (5.0, 1.0), (3.0, 0.5)])
def test_first_spikes_decode_within_the_ratio_of_two_thresholds(tau, threshold):
    x = VALUES.double()
    spikes = encoding.ttfs(x, 12, tau=tau, threshold=threshold)
    told = encoding.decode_ttfs(spikes, tau=tau, threshold=threshold)
    fired = spikes.sum(0) > 0
    later = fired & (spikes.argmax(0) > 0)
    assert (spikes.sum(0) <= 1).all()
    assert (told <= x + 1e-12)[fired].all()
    assert (x < told * math.exp(1 / tau) + 1e-12)[later].all()
    assert (x[~fired] < threshold * math.exp(-11 / tau)).all()
    assert (told[~fired] == 0).all()


@pytest.mark.parametrize("period, periods", [(2, 1), (8, 3), (33, 1)])
def test_phases_repeat_and_decode_within_half_a_phase(period, periods):
    x = VALUES.double()
    spikes = encoding.phase(x, period * periods, period=period)
    assert (spikes.reshape(periods, period, *x.shape).sum(1) == 1).all()
    error = (encoding.decode_phase(spikes, period=period) - x).abs().max()
    assert error <= 0.5 / (period - 1) + 1e-12


@pytest.mark.parametrize("bits, periods", [(1, 1), (4, 2), (8, 1), (20, 1)])
def test_weighted_phases_are_binary_digits(bits, periods):
    x = VALUES.double()
    spikes = encoding.weighted_phase(x, bits * periods, bits=bits)
    told = encoding.decode_weighted_phase(spikes, bits=bits)
    error = x - told
    assert (error >= 0).all()
    assert (error <= 2.0**-bits).all()
    whole = torch.floor(x * 2**bits).clamp(max=2**bits - 1) / 2**bits
    assert torch.equal(told, whole)


@given(
    seed=st.integers(0, 10**6),
    threshold=st.floats(0.01, 2.0),
    share=st.floats(0.0, 1.0),
)
def test_changes_decode_within_the_threshold_where_the_signal_is_slow(seed, threshold, share):
    moves = torch.rand(40, 2, 3, generator=generator(seed), dtype=torch.float64) * 2 - 1
    x = (moves * share * threshold).cumsum(0)
    spikes = encoding.delta(x, threshold)
    assert spikes.shape == (40, 2, 2, 3)
    assert (spikes.sum(2) <= 1).all()
    told = encoding.decode_delta(spikes, threshold, start=x[0])
    assert (told - x).abs().max() <= threshold * (1 + 1e-9)


def test_changes_fire_on_and_off_by_the_definition():
    x = torch.tensor([0.0, 0.6, 1.3, 1.3, -2.0, -2.0, -2.0]).reshape(7, 1, 1).double()
    spikes = encoding.delta(x, 0.5)
    assert spikes[:, 0, 1, 0].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert spikes[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    later = encoding.delta(x[1:], 0.5, start=torch.zeros(1, 1))
    assert torch.equal(later, spikes[1:])


@pytest.mark.parametrize(
    "neurons, beta, low, high", [(3, 1.5, 0, 1), (8, 1.5, -2, 5), (12, 1, 0, 1)]
)
def test_populations_have_gaussian_fields_and_are_inverted(neurons, beta, low, high):
    x = torch.linspace(low, high, 101, dtype=torch.float64)
    answers = encoding.population(x, neurons, low=low, high=high, beta=beta)
    spacing = (high - low) / (neurons - 2)
    for i in range(1, neurons + 1):
        centre, sigma = low + (2 * i - 3) / 2 * spacing, spacing / beta
        torch.testing.assert_close(
            answers[:, i - 1], torch.exp(-((x - centre) ** 2) / (2 * sigma**2))
        )
    told = encoding.decode_population(answers, low=low, high=high, beta=beta)
    torch.testing.assert_close(told, x, atol=1e-12 * (high - low), rtol=1e-12)


def test_a_population_survives_its_spikes():
    x = torch.linspace(0.1, 0.9, 17, dtype=torch.float64)
    answers = encoding.population(x, 8)
    spikes = encoding.latency(answers, 200)
    told = encoding.decode_population(encoding.decode_latency(spikes))
    # half a step of each of two answers of at least 0.3: σ² (error / a) / spacing twice
    sigma = spacing = 1 / 6
    sigma /= 1.5
    bound = sigma**2 / spacing * 2 * (0.5 / 199) / (0.3 - 0.5 / 199)
    assert (told - x).abs().max() <= bound
    assert encoding.decode_population(torch.zeros(1, 8)).isnan().all()


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: encoding.rate(VALUES, 3, gain=1.5), "gain must be"),
        (lambda: encoding.poisson(VALUES, 3, dt=0.0), "dt must be positive"),
        (lambda: encoding.poisson(torch.tensor([math.inf]), 3), "rates must be finite"),
        (lambda: encoding.burst(VALUES, 3), "steps must be at least"),
        (lambda: encoding.burst(VALUES, 99, shortest=4), "shortest <= longest"),
        (lambda: encoding.latency(VALUES, 3, kind="cubic"), "kind must be"),
        (lambda: encoding.latency(VALUES, 3, threshold=0.0), "threshold must be positive"),
        (lambda: encoding.ttfs(VALUES, 3, tau=-1.0), "tau must be positive"),
        (lambda: encoding.phase(VALUES, 9, period=4), "multiple of the period"),
        (lambda: encoding.weighted_phase(VALUES, 60, bits=60), "bits must be in 1..52"),
        (lambda: encoding.delta(VALUES[0], 0.1), r"x must be \[T, B, ...\]"),
        (lambda: encoding.delta(VALUES / 0, 0.1), "x must be finite"),
        (lambda: encoding.decode_delta(VALUES, 0.1, start=VALUES), "2, ..."),
        (lambda: encoding.population(VALUES, 2), "neurons must be at least 3"),
        (lambda: encoding.population(VALUES, 4, low=1.0), "low must be below high"),
        (lambda: encoding.decode_rate(torch.zeros(0, 3)), "T at least 1"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: encoding.rate(VALUES, 2.5), "steps must be a whole number, got 2.5"),
        (lambda: encoding.direct(VALUES, 2.5), "steps must be a whole number"),
        (lambda: encoding.latency(VALUES, "3"), "steps must be a whole number, got '3'"),
        (lambda: encoding.phase(VALUES, 8, period=2.0), "period must be a whole number"),
        (lambda: encoding.burst(VALUES, 20, most=2.5), "most must be a whole number"),
        (lambda: encoding.population(VALUES, 3.5), "neurons must be a whole number"),
        (lambda: encoding.rate(VALUES, 2, gain="1"), "gain must be a number, got '1'"),
        (lambda: encoding.ttfs(VALUES, 2, tau=VALUES), "tau must be a number, got a tensor"),
        (lambda: encoding.rate(VALUES, 2, generator=0), "generator must be a torch.Generator"),
        (lambda: encoding.rate([0.5], 2), "x must be a torch.Tensor, got list"),
        (lambda: encoding.poisson([0.5], 2), "rates must be a torch.Tensor, got list"),
        (lambda: encoding.direct([0.5], 2), "x must be a torch.Tensor, got list"),
        (lambda: encoding.decode_rate([0.5]), "spikes must be a torch.Tensor, got list"),
    ],
)  # fmt: skip
def test_what_is_no_number_or_tensor_is_named(call, rule):
    with pytest.raises(TypeError, match=rule):
        call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_whole_rates_are_taken_as_the_floats_they_are(dtype):
    rates = torch.tensor([0, 1, 60]).to(dtype)
    spikes, wanted = (
        encoding.poisson(each, 400, dt=0.05, generator=generator())
        for each in (rates, rates.float())
    )
    assert torch.equal(spikes, wanted)
    assert spikes[:, 0].sum() == 0 < spikes[:, 1].sum() <= spikes[:, 2].sum()


def test_a_rate_that_cannot_be_is_the_one_that_is_named():
    with pytest.raises(ValueError, match="at least 0, got inf"):
        encoding.poisson(torch.tensor([3.0, math.inf]), 3)
