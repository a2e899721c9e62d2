"""STDP gated by a reward: definitions, closed forms, and a bandit that is learned."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from spike_ops import SpikeTensor
from spike_ops.learning import PairSTDP, PowerLaw, RewardSTDP

STDP = PairSTDP(3.0, 5.0, 0.9, 0.6)
RULES = {
    "at once": RewardSTDP(STDP, tau_eligibility=None),
    "eligibility": RewardSTDP(STDP, tau_eligibility=6.0),
    "eligibility, kept": RewardSTDP(STDP, tau_eligibility=6.0, carry=True),
    "dopamine": RewardSTDP(STDP, tau_eligibility=6.0, tau_dopamine=3.0, carry=True),
    "multiplicative": RewardSTDP(PairSTDP(3.0, 5.0, dependence=PowerLaw()), 4.0, carry=True),
    "nearest": RewardSTDP(PairSTDP(3.0, 5.0, pairing="nearest", order="use_then_update")),
    "exponential": RewardSTDP(PairSTDP(3.0, discretization="exponential"), 0.5, 2.0, carry=True),
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
KINDS = ("steps", "samples", "neurons")


def window(
    steps: int, batch: int, before: int, after: int, kind: str, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    pre, post = (
        (torch.rand(steps, batch, size, generator=drawn) < 0.3).double() for size in (before, after)
    )
    weight = torch.rand(after, before, generator=drawn, dtype=torch.float64)
    reward = torch.randn(steps, batch, after, generator=drawn, dtype=torch.float64)
    return (
        pre,
        post,
        weight,
        {"steps": reward[:, 0, 0], "samples": reward[..., 0]}.get(kind, reward),
    )


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp(min=1))


@each_rule
@settings(max_examples=20)
@given(
    st.tuples(*[st.integers(1, high) for high in (40, 3, 7, 7)]),
    st.sampled_from(KINDS),
    st.integers(0, 99),
)
def test_a_window_is_its_definition_with_eligibilities_written_out(
    rule: RewardSTDP, shape: tuple[int, int, int, int], kind: str, seed: int
) -> None:
    pre, post, weight, reward = window(*shape, kind, seed)
    wanted = rule.reference(pre, post, weight, reward)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        before, after = SpikeTensor.from_dense(pre), SpikeTensor.from_dense(post)
        found = rule(before, after, weight.to(dtype), reward.to(dtype))
        largest = float(reward.abs().sum()) ** 0.5
        assert (found.dw.double() - wanted.dw).abs().max() <= bound * max(
            largest, float(wanted.dw.abs().max()), 1
        )
        for one, other in zip(found.state, wanted.state, strict=True):
            assert distance(one.double(), other) <= bound


@each_rule
@pytest.mark.parametrize("kind", KINDS)
def test_windows_in_sequence_are_one_window_where_eligibility_is_kept(
    rule: RewardSTDP, kind: str
) -> None:
    pre, post, weight, reward = window(30, 3, 5, 4, kind, 1)
    whole, parts, state = rule(pre, post, weight, reward), torch.zeros_like(weight), None
    for s, y, r in zip(*(each.split([7, 1, 12, 10]) for each in (pre, post, reward)), strict=True):
        dw, state = rule(s, y, weight, r, state)
        parts = parts + dw
    exact = rule.carry or rule.tau_eligibility is None
    assert (distance(parts, whole.dw) <= 1e-12) == exact


def test_the_reward_of_later_is_discounted_by_the_wait() -> None:
    rule = RewardSTDP(PairSTDP(a_minus=0.0), tau_eligibility=4.0)
    spikes, reward = torch.zeros(10, 1, 1), torch.zeros(10)
    spikes[2], reward[7] = 1, 2.0
    assert float(rule(spikes, spikes, torch.zeros(1, 1), reward).dw) == pytest.approx(2 * 0.75**5)
    early = reward.flip(0)  # at step 2 too
    assert float(rule(spikes, spikes, torch.zeros(1, 1), early).dw) == pytest.approx(2)


def test_dopamine_lasts() -> None:
    # one reward at the step of one pair: Σ_k (λ_e λ_d)^k
    rule = RewardSTDP(PairSTDP(a_minus=0.0), tau_eligibility=2.0, tau_dopamine=4.0)
    spikes, reward = torch.zeros(60, 1, 1).double(), torch.zeros(60).double()
    spikes[0], reward[0] = 1, 1.0
    found = float(rule(spikes, spikes, torch.zeros(1, 1).double(), reward).dw)
    assert found == pytest.approx(1 / (1 - 0.5 * 0.75), rel=1e-9)


def test_without_eligibility_and_with_reward_one_it_is_plain_stdp() -> None:
    pre, post, weight, _ = window(20, 3, 5, 4, "steps", 0)
    found = RULES["at once"](pre, post, weight, torch.ones(20)).dw
    assert distance(found, STDP(pre, post, weight).dw) <= 1e-12


@pytest.mark.parametrize("shape", [(19,), (20, 2), (20, 3, 5), (20, 3, 4, 1)])
def test_rewards_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    pre, post, weight, _ = window(20, 3, 5, 4, "steps", 0)
    with pytest.raises(ValueError, match="reward must be one of"):
        RULES["at once"](pre, post, weight, torch.ones(shape))


def test_states_of_another_batch_are_refused() -> None:
    pre, post, weight, reward = window(20, 3, 5, 4, "samples", 0)
    state = RULES["dopamine"](pre, post, weight, reward).state
    with pytest.raises(ValueError, match="state must be tensors"):
        RULES["dopamine"](pre[:, :2], post[:, :2], weight, reward[:, :2], state)


def test_a_bandit_is_learned_from_its_rewards_alone() -> None:
    # two cues, two arms; the right arm pays one step after the choice has been made
    torch.manual_seed(0)
    rule = RewardSTDP(PairSTDP(2.0, a_minus=0.0), tau_eligibility=4.0)
    layer, right, last = nn.Linear(2, 2, bias=False), torch.tensor([1, 0]), []
    nn.init.constant_(layer.weight, 0.5)
    for _ in range(60):
        cue = torch.randint(2, (8,))
        pre, post = torch.zeros(6, 8, 2), torch.zeros(6, 8, 2)
        pre[0] = torch.eye(2)[cue]
        chosen = torch.multinomial((6 * (pre[0] @ layer.weight.T)).softmax(1), 1)[:, 0].detach()
        post[1] = torch.eye(2)[chosen]
        reward = torch.zeros(6, 8)
        reward[4] = (chosen == right[cue]).float() - 0.5
        rule.step(layer, pre, post, reward, lr=0.1, bounds=(0.0, 1.0))
        last.append(float((chosen == right[cue]).float().mean()))
    assert sum(last[:3]) / 3 < 0.8
    assert sum(last[-20:]) / 20 > 0.95
    assert torch.equal(layer.weight.argmax(0), right)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_single_neuron_that_seldom_fires_learns_by_a_reward_of_any_kind(
    kind: str, batch: int
) -> None:
    rule, drawn = RewardSTDP(PairSTDP(pairing="nearest")), torch.Generator().manual_seed(7)
    _, _, weight, reward = window(50, batch, 1024, 1, kind, 7)
    pre, post = (
        (torch.rand(50, batch, size, generator=drawn) < 0.02).double() for size in (1024, 1)
    )
    wanted = rule.reference(pre, post, weight, reward)
    found = rule(SpikeTensor.from_dense(pre), SpikeTensor.from_dense(post), weight, reward)
    assert distance(found.dw, wanted.dw) < 1e-12
    assert wanted.dw.abs().max() > 0
