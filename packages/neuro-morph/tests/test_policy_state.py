import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import BackOff, GrowthPolicy, Morpher, PolicySettings, Quorum
from neuro_morph._triggers import Period

X = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
DATA = [(x, x.prod(1, keepdim=True)) for x in X.split(32)]
SETTINGS = PolicySettings(
    quorum=Quorum([Period(4)]),
    check_every=1,
    measure_every=3,
    pause=2,
    trial_steps=3,
    trial_share=None,
)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean(1)


def run() -> tuple[nn.Module, torch.optim.Optimizer, GrowthPolicy]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)  # nothing gains: it backs off
    morpher = Morpher(model, optimizer, example_inputs=X[:2], capture="dispatch")
    return model, optimizer, GrowthPolicy(morpher, loss_fn, DATA[:4], DATA[4:], settings=SETTINGS)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, policy: GrowthPolicy, n: int) -> None:
    for k in range(n):
        optimizer.zero_grad()
        loss = loss_fn(model, DATA[k % 4]).mean()
        loss.backward()
        optimizer.step()
        policy.step(loss)


def test_a_policy_goes_on_from_what_another_knew() -> None:
    one, two = run(), run()
    train(*one, 9)
    state = json.loads(json.dumps(one[2].state_dict()))
    assert state["back_off"]["until"]
    assert state["taken"] == 9
    assert state["tried"] > 0
    two[2].load_state_dict(state)
    two[0].load_state_dict(one[0].state_dict())
    two[2].morpher.steps = one[2].morpher.steps
    assert two[2].state_dict() == one[2].state_dict()
    decided = []
    for model, optimizer, policy in (one, two):
        policy.decisions.clear()
        train(model, optimizer, policy, 8)
        decided.append(policy.decisions)
    assert decided[0] == decided[1]
    assert any(decision.grow for _, decision in decided[0])
    assert two[2].state_dict() == one[2].state_dict()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_step_that_is_cut_short_may_be_told_again(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    (model, optimizer, policy), known = run(), run()
    train(*known, 4)
    train(model, optimizer, policy, 3)
    optimizer.zero_grad()
    loss = loss_fn(model, DATA[3]).mean()
    loss.backward()
    optimizer.step()
    before, weights = policy.state_dict(), [p.detach().clone() for p in model.parameters()]

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(policy, "_step_fn", fail)
        with pytest.raises(error):
            policy.step(loss)
    assert policy.state_dict() == before
    assert (policy.morpher.steps, policy.decisions[3:]) == (3, [])
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    policy.step(loss)
    assert policy.state_dict() == known[2].state_dict()
    assert policy.decisions == known[2].decisions


def test_what_is_left_alone_is_left_alone_by_another() -> None:
    one, two = BackOff(3), BackOff(3)
    one.failed(10, ("widen", "0"))
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two == one
    assert not two.allows("widen", "0", 21)
    assert two.allows("widen", "0", 22)
