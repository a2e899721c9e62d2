"""Rules of learning against their definitions: rows of rules, laws for all of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from spike_ops import Calibration, SpikeTensor, use_calibration
from spike_ops.learning import (
    BCM,
    Additive,
    Hebbian,
    InhibitorySTDP,
    Oja,
    PairSTDP,
    PowerLaw,
    Proportional,
    SynapticRule,
    SynapticScaling,
    TripletSTDP,
    anti_hebbian_stdp,
    apply_,
    as_gradient_,
    exponential_trace,
    normalize_,
    reverse_trace,
    symmetric_stdp,
)
from spike_ops.learning._traces import exponential_trace_reference

RULES: dict[str, SynapticRule] = {
    "pairs": PairSTDP(3.0, 5.0),
    "pairs, used first": PairSTDP(3.0, 5.0, order="use_then_update"),
    "nearest": PairSTDP(3.0, 5.0, 1.0, 0.7, pairing="nearest"),
    "nearest, used first": PairSTDP(4.0, 2.0, pairing="nearest", order="use_then_update"),
    "multiplicative": PairSTDP(2.0, 2.0, 0.8, 0.9, dependence=PowerLaw(1.0)),
    "power law": PairSTDP(2.0, 6.0, dependence=PowerLaw(0.3, 0.6, -1.5, 1.5)),
    "proportional": PairSTDP(2.0, 2.0, dependence=Proportional()),
    "exponential": PairSTDP(0.5, 9.0, discretization="exponential"),
    "symmetric": symmetric_stdp(0.5, 3.0),
    "anti-Hebbian": anti_hebbian_stdp(1.0, 0.5, 3.0, 4.0),
    "triplets": TripletSTDP(2.0, 3.0, 6.0, 8.0, 0.5, 0.7, 0.6, 0.3),
    "triplets, used first": TripletSTDP(2.0, 3.0, 6.0, 8.0, order="use_then_update"),
    "inhibitory": InhibitorySTDP(5.0, 0.1),
    "inhibitory, used first": InhibitorySTDP(5.0, 0.1, order="use_then_update"),
    "Hebb": Hebbian(),
    "Oja": Oja(),
    "BCM": BCM(3.0, 20.0),
    "scaling": SynapticScaling(0.1, 10.0),
}
NEVER, ALWAYS = Calibration(event_call=1e18), Calibration(dense_call=1e18)
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def window(
    steps: int, batch: int, before: int, after: int, *, seed: int = 0, density: float = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    pre, post = (
        (torch.rand(steps, batch, size, generator=drawn) < density).double()
        for size in (before, after)
    )
    return pre, post, torch.randn(after, before, generator=drawn, dtype=torch.float64)


def distance(left: Tensor, right: Tensor) -> float:
    if not right.numel():
        return 0.0
    return float((left - right).abs().max() / right.abs().max().clamp(min=1))


def grown(rule: SynapticRule) -> SynapticRule:
    # the change is a difference, and float32 rounds what is subtracted
    if isinstance(rule, PairSTDP):
        return replace(rule, a_minus=0.0)
    if isinstance(rule, TripletSTDP):
        return replace(rule, a2_minus=0.0, a3_minus=0.0)
    return replace(rule, target_rate=0.0) if isinstance(rule, InhibitorySTDP) else rule


sizes = st.tuples(*[st.integers(1, high) for high in (40, 3, 8, 8)])


@each_rule
@settings(max_examples=15)
@given(sizes, st.integers(0, 99), st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.booleans())
def test_a_window_is_its_definition_step_by_step(
    rule: SynapticRule, shape: tuple[int, int, int, int], seed: int, density: float, packed: bool
) -> None:
    pre, post, weight = window(*shape, seed=seed, density=density)
    wanted = rule.reference(pre, post, weight)
    largest = grown(rule).reference(pre, post, weight).dw.abs().max().clamp(min=1)
    kind: Callable[[Tensor], Tensor] = SpikeTensor.from_dense if packed else Tensor.clone
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = rule(kind(pre).to(dtype), kind(post), weight.to(dtype))
        assert found.dw.dtype == dtype
        assert (found.dw.double() - wanted.dw).abs().max() <= bound * largest
        for one, other in zip(found.state, wanted.state, strict=True):
            assert distance(one.double(), other) <= bound


@each_rule
@settings(max_examples=15)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(0, 99))
def test_windows_in_sequence_are_one_window(
    rule: SynapticRule, lengths: list[int], seed: int
) -> None:
    pre, post, weight = window(sum(lengths), 3, 5, 4, seed=seed)
    whole, parts, state = rule(pre, post, weight), torch.zeros_like(weight), None
    for s, y in zip(pre.split(lengths), post.split(lengths), strict=True):
        dw, state = rule(s, y, weight, state)
        parts = parts + dw
    if not isinstance(rule, SynapticScaling):  # a factor, not a sum over steps
        assert distance(parts, whole.dw) <= 1e-12
    assert state is not None
    for one, other in zip(state, whole.state, strict=True):
        assert distance(one, other) <= 1e-12


@each_rule
@pytest.mark.parametrize("costs", [NEVER, ALWAYS], ids=["dense", "additions"])
def test_both_ways_of_computing_products_agree(rule: SynapticRule, costs: Calibration) -> None:
    pre, post, weight = window(33, 5, 40, 24, density=0.1)
    with use_calibration(costs):
        found = rule(SpikeTensor.from_dense(pre), SpikeTensor.from_dense(post), weight)
    assert distance(found.dw, rule.reference(pre, post, weight).dw) <= 1e-12


@each_rule
def test_a_call_changes_nothing_and_keeps_no_graph(rule: SynapticRule) -> None:
    pre, post, weight = (each.requires_grad_() for each in window(6, 2, 4, 3))
    before = [each.detach().clone() for each in (pre, post, weight)]
    first, second = rule(pre, post, weight), rule(pre, post, weight)
    assert not first.dw.requires_grad
    assert torch.equal(first.dw, second.dw)
    for one, other in zip((pre, post, weight), before, strict=True):
        assert torch.equal(one, other)


@each_rule
def test_a_state_of_another_batch_is_refused(rule: SynapticRule) -> None:
    pre, post, weight = window(4, 3, 5, 4)
    state = (*rule.initial(pre, post, weight), torch.zeros(1))
    with pytest.raises(ValueError, match="state must be tensors"):
        rule(pre, post, weight, state)


@each_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_lose_no_more_than_their_rounding(rule: SynapticRule, dtype: torch.dtype) -> None:
    pre, post, weight = window(20, 4, 12, 10, density=0.1)
    weight = weight.to(dtype).double()
    wanted = rule.reference(pre, post, weight).dw
    largest = grown(rule).reference(pre, post, weight).dw.abs().max().clamp(min=1)
    found = rule(pre, post, weight.to(dtype)).dw
    assert found.dtype == dtype
    assert (found.double() - wanted).abs().max() <= 8 * torch.finfo(dtype).eps * largest


@each_rule
def test_an_empty_batch_changes_no_rows(rule: SynapticRule) -> None:
    pre, post, weight = window(4, 0, 5, 4)
    found = rule(pre, post, weight).dw
    assert found.shape == weight.shape
    assert found.isfinite().all()


@pytest.mark.parametrize("order", ["update_then_use", "use_then_update"])
def test_pairs_of_spikes_count_by_their_distance(order: str) -> None:
    pre, post, weight = window(20, 2, 3, 4, seed=3)
    rule = PairSTDP(3.0, 5.0, 0.9, 0.4, order=order)  # type: ignore[arg-type]
    plus, minus = rule.decays
    wanted = torch.zeros_like(weight)
    least = 0 if order == "update_then_use" else 1
    for t in range(20):
        for u in range(20):
            both = post[t].T @ pre[u]
            if t - u >= least:
                wanted += 0.9 * plus ** (t - u) * both
            if u - t >= least:
                wanted -= 0.4 * minus ** (u - t) * both
    assert distance(rule(pre, post, weight).dw, wanted) <= 1e-12


@pytest.mark.parametrize("order", ["update_then_use", "use_then_update"])
def test_nearest_pairs_are_those_with_the_last_spike(order: str) -> None:
    pre, post, weight = window(25, 1, 3, 3, seed=4, density=0.2)
    rule = PairSTDP(3.0, 5.0, 0.9, 0.4, pairing="nearest", order=order)  # type: ignore[arg-type]
    least, wanted = 0 if order == "update_then_use" else 1, torch.zeros_like(weight)
    for j in range(3):
        for i in range(3):
            for t in times(post[:, 0, j]):
                if earlier := [u for u in times(pre[:, 0, i]) if t - u >= least]:
                    wanted[j, i] += 0.9 * rule.decays[0] ** (t - max(earlier))
            for u in times(pre[:, 0, i]):
                if earlier := [t for t in times(post[:, 0, j]) if u - t >= least]:
                    wanted[j, i] -= 0.4 * rule.decays[1] ** (u - max(earlier))
    assert distance(rule(pre, post, weight).dw, wanted) <= 1e-12


def times(spikes: Tensor) -> list[int]:
    return spikes.nonzero().flatten().tolist()


def test_a_triplet_adds_what_the_paper_says() -> None:
    # after, before, after: the last spike learns from the pair and from the spike before it
    rule = TripletSTDP(4.0, 5.0, 6.0, 7.0, 0.3, 0.0, 0.8, 0.0)
    pre, post = torch.zeros(12, 1, 1).double(), torch.zeros(12, 1, 1).double()
    post[2], pre[5], post[9] = 1, 1, 1
    wanted = torch.tensor(-4 / 4.0).exp() * (0.3 + 0.8 * torch.tensor(-7 / 7.0).exp())
    found = rule(pre, post, torch.zeros(1, 1).double()).dw
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_triplets_without_triplet_terms_are_pairs() -> None:
    pre, post, weight = window(30, 3, 6, 5)
    triplets = TripletSTDP(3.0, 5.0, 9.0, 9.0, 0.7, 0.6, 0.0, 0.0)
    pairs = PairSTDP(3.0, 5.0, 0.7, 0.6, discretization="exponential")
    assert distance(triplets(pre, post, weight).dw, pairs(pre, post, weight).dw) <= 1e-12


def test_inhibition_rests_at_the_target_rate_and_moves_towards_it() -> None:
    rule = InhibitorySTDP(10.0, 0.05, order="use_then_update")
    drawn, changes = torch.Generator().manual_seed(0), {}
    for rate in (0.01, 0.05, 0.2):
        pre = (torch.rand(4000, 8, 1, generator=drawn) < 0.1).double()
        post = (torch.rand(4000, 8, 1, generator=drawn) < rate).double()
        dw = float(rule(pre, post, torch.zeros(1, 1).double()).dw)
        changes[rate] = dw / (4000 * 8 * 0.1)  # of one spike before the weight
    # (τ - 1) (2 ρ) - 2 ρ₀ τ: the trace that a step finds has the mean ρ (τ - 1)
    for rate, change in changes.items():
        assert change == pytest.approx(18 * rate - 1.0, abs=0.08)


def test_oja_finds_the_first_principal_component() -> None:
    torch.manual_seed(0)
    mix = torch.randn(4, 4, dtype=torch.float64)
    data = torch.randn(1, 4000, 4, dtype=torch.float64) @ mix
    layer = nn.Linear(4, 1, bias=False).double()
    for _ in range(60):
        for part in data.split(200, dim=1):
            Oja().step(layer, part, layer(part).detach(), lr=2e-5)
    first = torch.linalg.svd(data[0], full_matrices=False).Vh[0]
    weight = layer.weight.detach()[0]
    assert float(weight.norm()) == pytest.approx(1, abs=1e-2)
    assert abs(float(weight @ first)) == pytest.approx(1, abs=1e-2)


def test_bcm_becomes_selective_for_one_of_two_inputs() -> None:
    patterns = torch.eye(2, dtype=torch.float64)
    layer, rule, state = nn.Linear(2, 1, bias=False).double(), BCM(1.0, 50.0), None
    nn.init.constant_(layer.weight, 0.5)
    layer.weight.data[0, 0] += 0.05
    x = patterns.repeat(4, 1)[:, None]
    for _ in range(500):
        state = rule.step(layer, x, layer(x).detach(), state, lr=0.02, bounds=(0.0, None))
    answers = (patterns @ layer.weight.detach().T).flatten()
    # half the inputs answered with 2, the others with 0: θ = <y²> = 2 is what they are
    assert answers.tolist() == pytest.approx([2, 0], abs=0.1)


def test_scaling_brings_a_linear_neuron_to_its_rate_and_keeps_ratios() -> None:
    rule, layer, state = SynapticScaling(0.2, 5.0), nn.Linear(2, 1, bias=False), None
    layer.weight.data[:] = torch.tensor([[0.6, 0.2]])
    for _ in range(200):
        rate = layer.weight.detach().sum().reshape(1, 1, 1)
        state = rule.step(layer, torch.ones(1, 1, 2), rate, state, lr=0.1)
    assert layer.weight.tolist()[0] == pytest.approx([0.15, 0.05], rel=1e-3)


def test_power_laws_reach_from_additive_to_multiplicative() -> None:
    weight = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5], dtype=torch.float64)
    assert torch.equal(PowerLaw(0.0).potentiation(weight), torch.ones_like(weight))
    inside = weight.clamp(0, 1)
    assert torch.equal(PowerLaw(1.0).potentiation(weight).clamp(max=1), 1 - inside)
    assert torch.equal(PowerLaw(1.0).depression(weight).clamp(max=1), inside)
    assert float(Additive().depression(weight)) == 1
    with pytest.raises(ValueError, match="low must be below high"):
        PowerLaw(low=1.0, high=1.0)


@given(st.integers(1, 90), st.integers(0, 40), st.sampled_from([0.0, 0.5, 0.97, 1.0]))
def test_traces_are_their_definition_and_reverse_traces_their_transpose(
    steps: int, size: int, decay: float
) -> None:
    drawn = torch.Generator().manual_seed(steps)
    x, y = (torch.rand(steps, size, generator=drawn, dtype=torch.float64) for _ in range(2))
    start = torch.rand(size, generator=drawn, dtype=torch.float64)
    found = exponential_trace(x, decay, initial=start)
    assert distance(found, exponential_trace_reference(x, decay, start)) <= 1e-12
    forward = (exponential_trace(x, decay) * y).sum()
    assert float(forward) == pytest.approx(float((x * reverse_trace(y, decay)).sum()), rel=1e-12)
    changing = torch.full_like(y, decay)
    assert distance(reverse_trace(y, changing), reverse_trace(y, decay)) <= 1e-12


def test_wide_and_narrow_steps_have_the_same_traces() -> None:
    x = (torch.rand(70, 5000) < 0.1).double()
    wide = exponential_trace(x, 0.9, initial=torch.ones(5000).double())
    narrow = exponential_trace(x[:, :50], 0.9, initial=torch.ones(50).double())
    assert distance(wide[:, :50], narrow) <= 1e-12


@pytest.mark.parametrize(
    "pre, post, message",
    [
        (torch.ones(4, 5), torch.ones(4, 2, 3), "pre must be .*T, B"),
        (torch.ones(4, 2, 6), torch.ones(4, 2, 3), "pre must be .* for a weight"),
        (torch.ones(4, 2, 5), torch.ones(5, 2, 3), "post must be .* for a weight"),
        (torch.full((4, 2, 5), 0.5), torch.ones(4, 2, 3), "pre: spikes must be 0 or 1, got 0.5"),
        (torch.full((4, 2, 5), torch.nan), torch.ones(4, 2, 3), "pre: spikes must be 0 or 1"),
        (torch.ones(0, 2, 5), torch.ones(0, 2, 3), "T at least 1"),
    ],
)
def test_wrong_activities_are_refused(pre: Tensor, post: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairSTDP()(pre, post, torch.zeros(3, 5))


def test_rates_may_be_rates_but_must_be_finite() -> None:
    rates = torch.full((4, 2, 5), 0.5)
    assert Hebbian()(rates, torch.ones(4, 2, 3), torch.zeros(3, 5)).dw[0, 0] == 4
    with pytest.raises(ValueError, match="post must be finite, got nan"):
        Hebbian()(rates, torch.full((4, 2, 3), torch.nan), torch.zeros(3, 5))


@pytest.mark.parametrize("wrong", [{"pairing": "some"}, {"order": "late"}, {"tau_pre": 0.5}])
def test_settings_outside_their_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PairSTDP(**wrong)  # type: ignore[arg-type]


def test_steps_change_a_layer_in_place_within_bounds() -> None:
    pre, post, _ = window(20, 2, 4, 3)
    layer = nn.Linear(4, 3).double()
    parameter, bias = layer.weight, layer.bias.detach().clone()
    wanted = layer.weight.detach() + 0.1 * PairSTDP()(pre, post, layer.weight).dw
    PairSTDP().step(layer, pre, post, lr=0.1, bounds=(0.0, 0.5))
    assert layer.weight is parameter
    assert distance(layer.weight.detach(), wanted.clamp(0, 0.5)) <= 1e-15
    assert torch.equal(layer.bias, bias)
    with pytest.raises(ValueError, match="bounds must be"):
        apply_(layer, torch.zeros(3, 4), bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="dw must be"):
        apply_(layer, torch.zeros(4, 3))


def test_zeros_of_a_mask_stay_zeros() -> None:
    layer = nn.Linear(2, 2, bias=False)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    layer.register_buffer("mask", mask)
    apply_(layer, torch.ones(2, 2), bounds=(0.5, 2.0))
    assert torch.equal(layer.weight.detach() > 0, mask > 0)


def test_an_optimiser_carries_changes_out() -> None:
    pre, post, weight = window(20, 2, 4, 3)
    parameter, dw = nn.Parameter(weight.clone()), PairSTDP()(pre, post, weight).dw
    as_gradient_(parameter, dw)
    as_gradient_(parameter, dw)
    torch.optim.SGD([parameter], lr=0.25).step()
    assert distance(parameter.detach(), weight + 0.5 * dw) <= 1e-14


@given(st.floats(0.1, 50.0))
def test_normalised_rows_have_one_sum(total: float) -> None:
    weight = torch.randn(5, 7, dtype=torch.float64)
    weight[2] = 0
    found = normalize_(weight.clone(), total)
    wanted = [0.0 if j == 2 else total for j in range(5)]
    assert found.abs().sum(1).tolist() == pytest.approx(wanted)
    assert torch.equal(found.sign(), weight.sign())


def test_a_rule_is_a_value() -> None:
    assert PairSTDP() == replace(PairSTDP(tau_pre=3.0), tau_pre=20.0)
    with pytest.raises(AttributeError):
        PairSTDP().tau_pre = 3.0  # type: ignore[misc]
