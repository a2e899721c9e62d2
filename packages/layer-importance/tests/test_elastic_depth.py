import copy
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import analyze, carry_out, plan
from layer_importance._bridge import Bridge
from layer_importance._elastic_depth import ElasticDepth


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.block(x)
        return x


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block() for _ in range(4)], nn.Linear(8, 2))


ORDER = ["2", "0", "3"]
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def without(model: nn.Sequential, gone: list[str], x: Tensor) -> Tensor:
    for name, part in model.named_children():
        x = x if name in gone else part(x)
    return x


@pytest.mark.parametrize("level", range(4))
def test_a_level_is_the_model_without_the_first_units_of_the_order(level: int) -> None:
    model, plain = net(), net()
    elastic = ElasticDepth(model, ORDER, example=X)

    elastic.set_level(level)

    assert torch.equal(model(X), without(plain, ORDER[:level], X))
    assert elastic.level == level
    assert elastic.levels == 3


def test_back_at_level_zero_the_model_is_what_it_was_bit_for_bit() -> None:
    model, plain = net(), net()
    elastic = ElasticDepth(model, ORDER, example=X)
    elastic.set_level(3)
    model(X)

    elastic.set_level(0)

    assert torch.equal(model(X), plain(X))
    assert list(model.state_dict()) == list(plain.state_dict())


def test_closing_leaves_nothing_behind() -> None:
    model = net()
    elastic = ElasticDepth(model, ORDER, example=X)
    elastic.set_level(3)

    elastic.close()

    assert torch.equal(model(X), net()(X))
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_bridge_stands_in_while_its_unit_is_passed_by() -> None:
    model = net()
    bridge = Bridge(torch.randn(8, 8), torch.randn(8), torch.zeros(8))
    elastic = ElasticDepth(model, ["2"], example=X, bridges={"2": bridge})

    elastic.set_level(1)

    plain = net()
    expected = plain[4](plain[3](bridge(plain[1](plain[0](X)))))
    torch.testing.assert_close(model(X), expected)


def test_single_runs_of_a_shared_block_go_one_by_one() -> None:
    torch.manual_seed(0)
    model = Looped()
    elastic = ElasticDepth(model, ["block#1", "block#0"], example=X)
    block = Block()
    block.load_state_dict(model.block.state_dict())

    for level, times in ((0, 3), (1, 2), (2, 1), (0, 3)):
        elastic.set_level(level)
        expected = X
        for _ in range(times):
            expected = block(expected)
        assert torch.equal(model(X), expected)


def test_a_change_in_the_middle_of_a_pass_waits_for_the_next() -> None:
    model, plain = net(), net()
    elastic = ElasticDepth(model, ORDER, example=X)
    model[1].register_forward_hook(lambda *_: elastic.set_level(3))

    first, second = model(X), model(X)

    assert torch.equal(first, plain(X))
    assert torch.equal(second, without(plain, ORDER, X))


def test_threads_change_levels_without_meeting_a_pass_half_way() -> None:
    model, plain = net(), net()
    elastic = ElasticDepth(model, ORDER, example=X)
    with torch.no_grad():
        allowed = [without(plain, ORDER[:level], X) for level in range(4)]
    stop, wrong = threading.Event(), []

    def change() -> None:
        while not stop.is_set():
            for level in range(4):
                elastic.set_level(level)

    def serve() -> None:
        with torch.no_grad():
            for _ in range(150):
                y = model(X)
                if not any(torch.equal(y, one) for one in allowed):
                    wrong.append(y)

    changer, servers = (
        threading.Thread(target=change),
        [threading.Thread(target=serve) for _ in range(2)],
    )
    for thread in (changer, *servers):
        thread.start()
    for thread in servers:
        thread.join()
    stop.set()
    changer.join()
    assert not wrong


def test_a_held_level_is_one_threads_own() -> None:
    model, plain = net(), net()
    elastic = ElasticDepth(model, ORDER, example=X)
    other: list[Tensor] = []

    with elastic.at(3):
        elastic.set_level(1)
        held = model(X)
        thread = threading.Thread(target=lambda: other.append(model(X)))
        thread.start()
        thread.join()

    assert torch.equal(held, without(plain, ORDER, X))
    assert torch.equal(other[0], without(plain, ORDER[:1], X))
    assert torch.equal(model(X), without(plain, ORDER[:1], X))


@pytest.mark.parametrize("level", [-1, 4])
def test_levels_that_do_not_exist_are_refused(level: int) -> None:
    elastic = ElasticDepth(net(), ORDER, example=X)

    with pytest.raises(ValueError, match="level must be in 0..3"):
        elastic.set_level(level)
    with pytest.raises(ValueError, match="level must be in 0..3"), elastic.at(level):
        pass
    assert elastic.level == 0


@pytest.mark.parametrize(
    "order, message",
    [
        (["9"], "order must name units of the model, got '9'"),
        ("12", "order must be a list of units or names, got '12'"),
        (["1", "1"], "order must name each unit once"),
    ],
)
def test_orders_that_name_nothing_or_twice_are_refused(order: Any, message: str) -> None:
    model = net()

    with pytest.raises(ValueError, match=message):
        ElasticDepth(model, order, example=X)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_second_set_of_gates_is_refused_and_the_first_still_closes() -> None:
    model, plain = net(), net()
    first = ElasticDepth(model, ["2"], example=X)

    for order in (["2"], ["0"]):
        with pytest.raises(ValueError, match="model already has gates on 2: close the Elastic"):
            ElasticDepth(model, order, example=X)
    first.set_level(1)
    first.close()

    assert torch.equal(model(X), plain(X))
    second = ElasticDepth(model, ["2"], example=X)
    second.set_level(1)
    assert torch.equal(model(X), without(plain, ["2"], X))


def test_a_gate_that_somebody_wrapped_does_nothing_once_it_is_closed() -> None:
    model, plain = net(), net()
    elastic = ElasticDepth(model, ["2"], example=X)
    gate = model[2].forward
    model[2].forward = lambda x: gate(x) + 1  # type: ignore[method-assign]
    elastic.set_level(1)

    elastic.close()

    expected = plain[4](plain[3](plain[2](plain[1](plain[0](X))) + 1))
    assert torch.equal(model(X), expected)


def test_a_model_with_gates_is_not_analysed_changed_or_copied() -> None:
    model = net()
    data = [(X, torch.zeros(5, dtype=torch.long))] * 2
    report = analyze(model, data, methods=["layer_ablation"])
    elastic = ElasticDepth(model, ["2"], example=X)
    asked: dict[str, Callable[[], Any]] = {
        "analyze": lambda: analyze(model, data),
        "plan": lambda: plan(model, data, report=report, units=3),
        "carry_out": lambda: carry_out(model, ["1"], example=X, units=report.units),
        "deepcopy": lambda: copy.deepcopy(model),
        "deepcopy of a part": lambda: copy.deepcopy(model[2]),
        "save": lambda: torch.save(model, io.BytesIO()),
    }

    for what in asked.values():
        with pytest.raises(ValueError, match="gates on 2: close the ElasticDepth first"):
            what()
    elastic.close()

    assert torch.equal(copy.deepcopy(model)(X), net()(X))


def test_closed_gates_have_no_levels() -> None:
    elastic = ElasticDepth(net(), ORDER, example=X)
    elastic.close()
    elastic.close()

    with pytest.raises(ValueError, match="must be open to have levels, got 1 after close"):
        elastic.set_level(1)
    with pytest.raises(ValueError, match="must be open to have levels"), elastic.at(1):
        pass
