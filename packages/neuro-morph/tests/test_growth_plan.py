from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    Duplicate,
    GrowthPlan,
    GrowthPolicy,
    GrowthRefusedError,
    Morpher,
    PolicySettings,
    Split,
)
from neuro_morph._candidates import widening_of
from neuro_morph._triggers import Period, Quorum


def convolutions() -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return model, optimizer, torch.randn(16, 3, 8, 8)


def planned(sizes: Any = 4.0, **settings: Any) -> tuple[GrowthPlan, torch.Tensor]:
    model, optimizer, images = convolutions()
    morpher = Morpher(model, optimizer, example_inputs=images, capture="dispatch")
    return GrowthPlan(morpher, sizes, **settings), images


def steps(plan: GrowthPlan, images: torch.Tensor, count: int, **told: float) -> list[Any]:
    optimizer, found = plan.morpher.optimizers[0], []
    for _ in range(count):
        optimizer.zero_grad()
        loss = plan.morpher.model(images).square().mean()
        loss.backward()
        optimizer.step()
        found.append(plan.step(loss, **told))
    return found


def widths(plan: GrowthPlan) -> list[int]:
    return [m.out_channels for m in plan.morpher.model.modules() if isinstance(m, nn.Conv2d)]


def test_all_groups_grow_at_once_by_equal_factors_at_the_parts_that_were_planned() -> None:
    plan, images = planned(at=[0.2, 0.5], total_steps=10)
    found = steps(plan, images, 10)
    assert [event is not None for event in found] == [False, True, False, False, True, *[False] * 5]
    assert widths(plan) == [16, 24]
    sizes = [(e.step, e.target, e.detail["by"]) for e in plan.morpher.events]
    assert sizes == [(2, "0", 4), (2, "3", 6), (5, "0", 8), (5, "3", 12)]
    assert all(e.relative_change <= 1e-5 for e in plan.morpher.events)
    assert {e.reason for e in plan.morpher.events[:2]} == {"planned at 20% of the run"}


def test_a_plan_names_groups_and_leaves_the_others_as_they_are() -> None:
    plan, images = planned({"3": 9}, at=[0.0], total_steps=100)
    steps(plan, images, 1)
    assert widths(plan) == [4, 9]


def test_the_part_of_the_run_can_be_told() -> None:
    plan, images = planned(2.0, at=[0.3])
    assert steps(plan, images, 3, progress=0.29) == [None] * 3
    assert steps(plan, images, 1, progress=0.31)[0].target == "3"
    with pytest.raises(ValueError, match="progress must be given"):
        plan.step(0.0)


def test_several_stages_that_are_due_at_once_are_one() -> None:
    plan, images = planned(4.0, at=[0.1, 0.2])
    steps(plan, images, 1, progress=0.5)
    assert widths(plan) == [16, 24]
    assert len(plan.morpher.events) == 2


def test_gradients_that_wait_for_a_step_hold_a_plan_back() -> None:
    plan, images = planned(2.0, at=[0.1])
    plan.morpher.model(images).sum().backward()
    assert plan.step(progress=0.5) is None
    assert widths(plan) == [4, 6]
    plan.morpher.optimizers[0].step()
    assert plan.step(progress=0.5) is not None


def test_new_rows_read_new_units_of_the_layer_before() -> None:
    plan, images = planned(2.0, at=[0.0])
    steps(plan, images, 1, progress=0.0)
    weight = plan.morpher.model[3].weight
    assert not weight[:6, 4:].any()  # old units do not read new ones yet
    norms = weight.flatten(1).norm(dim=1)
    assert weight[6:, 4:].abs().min() > 0
    assert 0.5 < norms[6:].mean() / norms[:6].mean() < 2.0


def test_a_plan_stands_where_a_policy_does() -> None:
    plan, _ = planned(2.0, at=[0.5], total_steps=2)
    hooks = plan.morpher.optimizers[0]._optimizer_step_post_hooks
    watched = len(hooks)
    assert plan.morpher.policy is plan
    assert [plan.morpher.step(torch.tensor(0.0)) is None for _ in range(2)] == [False, True]
    plan.close()
    assert len(hooks) == watched - 1


def test_what_is_refused_is_noted_and_the_rest_is_done() -> None:
    plan, images = planned(2.0, at=[0.0])
    plan.morpher.model[0].weight.register_hook(lambda gradient: gradient)
    plan.morpher.tolerance = -1.0  # nothing is exact enough
    assert steps(plan, images, 1, progress=0.0) == [None]
    assert {e.decision for e in plan.morpher.events} == {"refused"}
    assert widths(plan) == [4, 6]


@pytest.mark.parametrize(
    "sizes, settings, message",
    [
        (1.0, {}, "sizes must be above 1, got 1.0"),
        ({"3": 6}, {}, "sizes of '3' must be above the 6 units"),
        (2.0, {"at": []}, "at must be parts of the run"),
        (2.0, {"at": [0.3, 0.2]}, "at must be parts of the run"),
        (2.0, {"at": [1.0]}, "at must be parts of the run"),
        (2.0, {"total_steps": 0}, "total_steps must be at least 1, got 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(sizes: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(sizes, **settings)


def test_a_group_that_is_not_there_is_refused() -> None:
    with pytest.raises(KeyError):
        planned({"nowhere": 9})


def test_where_only_all_units_twice_is_exact_the_nearest_multiple_is_taken() -> None:
    plan, _ = planned()
    graph = plan.morpher.graph
    only = {"equal": [(2, 4), (9, 8)], "copy": [(3, 3)]}
    for way, cases in only.items():
        for by, added in cases:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(graph), "ways", lambda self, group, way=way: (way,))
                edit = widening_of(graph, graph["0"], by, None)
            assert edit is not None
            assert edit.by == added
            assert isinstance(edit.init, Duplicate if way == "equal" else Split)


def test_a_policy_can_be_told_how_much_of_the_run_is_done() -> None:
    model, optimizer, images = convolutions()
    batches = [(part, part.mean((1, 2, 3))) for part in images.split(4)]

    def losses(model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0])[:, 0] - batch[1]).square()

    morpher = Morpher(model, optimizer, example_inputs=images, capture="dispatch")
    settings = PolicySettings(quorum=Quorum([Period(10**9)]), check_every=1, measure_every=0)
    policy = GrowthPolicy(morpher, losses, batches, batches, settings=settings)
    for progress in (0.4, 0.8, 0.0):
        policy.step(1.0, progress=progress)
    blocked = [decision.blocked or "" for _, decision in policy.decisions]
    assert ["last 25%" in why for why in blocked] == [False, True, False]
    with pytest.raises(ValueError, match="progress must be from 0 to 1, got 1.5"):
        policy.step(1.0, progress=1.5)


def doubled() -> tuple[Morpher, torch.Tensor]:
    """A stream that a LayerNorm counts: only whole multiples of its units are exact."""

    class PostNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
            self.up = nn.ModuleList([nn.Linear(8, 6), nn.Linear(8, 6)])
            self.down = nn.ModuleList([nn.Linear(6, 8), nn.Linear(6, 8)])
            self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.into(x)
            for up, down, norm in zip(self.up, self.down, self.norms, strict=True):
                x = norm(x + down(up(x).relu()))
            return self.out(x)

    torch.manual_seed(0)
    model, x = PostNorm().double(), torch.randn(5, 4, dtype=torch.float64)
    return Morpher(model, example_inputs=x, capture="dispatch"), x


def test_groups_of_which_only_multiples_are_exact_never_grow_beyond_their_size() -> None:
    for sizes, expected in ((1.25, [8, 8]), (2.0, [16, 12]), (2.5, [16, 15]), (4.0, [32, 24])):
        morpher = doubled()[0]
        plan = GrowthPlan(morpher, sizes, at=[0.2, 0.4], total_steps=10)
        for _ in range(10):
            plan.step()
        assert [morpher.graph[name].size for name in ("into", "up.0")] == expected
        assert list(plan.left_out) == (["into"] if sizes == 1.25 else [])
    with pytest.raises(ValueError, match="sizes of 'into' must be at least 16: only multiples"):
        GrowthPlan(doubled()[0], {"into": 12})


@pytest.mark.parametrize("progress", [-0.1, 1.5, float("nan")])
def test_a_progress_that_is_no_part_of_the_run_is_refused(progress: float) -> None:
    plan, _ = planned(at=[0.5])
    with pytest.raises(ValueError, match="progress must be from 0 to 1"):
        plan.step(progress=progress)
    assert (plan.taken, plan.morpher.steps, plan.stage) == (0, 0, 0)


def test_gradients_that_wait_for_another_optimizer_are_not_touched() -> None:
    model, _, images = convolutions()
    optimizers = [torch.optim.SGD(model[k].parameters(), 0.1) for k in (0, 3)]
    morpher = Morpher(model, optimizers, example_inputs=images, capture="dispatch")
    plan = GrowthPlan(morpher, 2.0, at=[0.0], total_steps=10)
    model(images).square().mean().backward()
    optimizers[0].step()
    waiting = model[3].weight.grad.clone()
    assert plan.step() is None
    assert torch.equal(model[3].weight.grad, waiting)
    optimizers[1].step()
    model(images).square().mean().backward()  # added to what the steps have used
    assert plan.step() is None
    for optimizer in optimizers:
        optimizer.step()
    assert plan.step() is not None
    assert model[3].weight.grad is None


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_were_cleared_do_not_wait(to_none: bool) -> None:
    model, optimizer, images = convolutions()
    morpher = Morpher(model, optimizer, example_inputs=images, capture="dispatch")
    plan = GrowthPlan(morpher, 2.0, at=[0.0], total_steps=10)
    model(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=to_none)
    assert plan.step() is not None


def test_sizes_of_a_group_that_cannot_grow_are_refused_with_its_reason() -> None:
    with pytest.raises(GrowthRefusedError, match="'8' cannot grow: it is the model's output"):
        planned({"8": 20})


def test_a_loss_that_is_not_finite_puts_growth_off_to_the_next_that_is() -> None:
    plan, images = planned(2.0, at=[0.0], total_steps=10)
    optimizer = plan.morpher.optimizers[0]
    grown = []
    for loss in (float("nan"), torch.tensor(float("inf")), torch.tensor(1.0), None):
        optimizer.zero_grad()
        plan.morpher.model(images).square().mean().backward()
        optimizer.step()
        grown.append(plan.step(loss) is not None)
    assert grown == [False, False, True, False]
    assert plan.taken == 4
