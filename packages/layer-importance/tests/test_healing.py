import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance._execute.carry_out import carry_out
from layer_importance._heal_distill import distill
from layer_importance._heal_norms import reestimate_norms


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), *[Block(4) for _ in range(3)], *head).double()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# batch norms


@pytest.mark.parametrize("exact", [False, True])
def test_the_first_norm_gets_mean_and_variance_of_all_data_together(exact: bool) -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)).double()
    x = torch.randn(7, 2, 3, 5, dtype=torch.float64) * 3 + 1e6

    names = reestimate_norms(net, [x[:2], x[2:3], x[3:]], exact=exact)

    values = x.transpose(0, 1).flatten(1)
    assert names == ["0"]
    torch.testing.assert_close(net[0].running_mean, values.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(net[0].running_var, values.var(1), rtol=1e-9, atol=0)


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(1, 11), max_size=4, unique=True))
def test_a_pass_for_each_norm_is_the_same_for_every_split(cuts: list[int]) -> None:
    x = torch.randn(12, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, split = convolutional(), convolutional()
    places = [0, *sorted(cuts), 12]

    reestimate_norms(whole, [x], exact=True)
    reestimate_norms(split, [x[a:b] for a, b in itertools.pairwise(places)], exact=True)

    for name, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_exactly_estimated_norms_normalise_the_data() -> None:
    net, x = convolutional().eval(), torch.randn(9, 3, 6, 6, dtype=torch.float64)

    reestimate_norms(net, [x], exact=True)

    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        seen: list[Tensor] = []
        handle = norm.register_forward_hook(lambda module, args, y, seen=seen: seen.append(y))
        with torch.no_grad():
            net(x)
        handle.remove()
        values = seen[0].transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-9)
        torch.testing.assert_close(values.var(1), torch.ones(4).double(), rtol=1e-3, atol=0)


def test_one_batch_in_one_pass_is_what_training_mode_sees() -> None:
    net, x = convolutional(), torch.randn(9, 3, 6, 6, dtype=torch.float64)
    trained = copy.deepcopy(net)
    for norm in (m for m in trained.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    trained.train()(x)

    reestimate_norms(net, [x])

    for name, value in trained.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_only_statistics_change() -> None:
    net = convolutional().train()
    before = state(net)

    reestimate_norms(net, [torch.randn(4, 3, 6, 6, dtype=torch.float64)])

    changed = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if "running" in name}
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "batches must give at least one batch"),
        ([torch.full((2, 3, 6, 6), torch.nan).double()], "batch 0 must be finite"),
    ],
)
def test_after_an_error_every_statistic_is_as_it_was(
    batches: list[Tensor], message: str, exact: bool
) -> None:
    net = convolutional()
    before = state(net)

    with pytest.raises(ValueError, match=message):
        reestimate_norms(net, [*batches[:0], *batches], exact=exact)

    assert same(net, before)


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="two or more values a channel"):
        reestimate_norms(nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(1, 2)], exact=True)


def test_a_net_without_norms_has_nothing_to_estimate() -> None:
    assert reestimate_norms(nn.Sequential(nn.Linear(2, 2)), [torch.randn(3, 2)]) == []


# distillation


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[Residual() for _ in range(3)], nn.Linear(8, 4))


def lessons(count: int = 6) -> list[Tensor]:
    return list(torch.randn(count, 16, 8, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_a_compressed_model_comes_nearer_to_its_teacher_without_labels(distance: Any) -> None:
    model, data = teacher(), lessons()
    done = carry_out(model, ["1"], example=data[0])

    report = distill(done.model, model, data[:5], held_out=data[5:], steps=60, distance=distance)

    assert report.kept
    assert report.after < 0.5 * report.before


def test_the_distance_is_the_mean_divergence_of_all_samples() -> None:
    model, data = teacher(), lessons(2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[3].weight.add_(0.1 * torch.randn(4, 8))
        p, q = (F.log_softmax(m(torch.cat(data)), -1) for m in (model, other))
    expected = float((p.exp() * (p - q)).sum(-1).mean())

    report = distill(other, model, data, steps=1, learning_rate=1e-12)

    assert report.before == pytest.approx(expected, rel=1e-5)


def test_padded_tokens_teach_nothing() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embed(input_ids))

    model, ids, mask = Words(), torch.tensor([[1, 2, 8], [3, 8, 8]]), torch.ones(2, 3)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.embed.weight[8] += 1  # only what is padded differs
    mask[0, 2], mask[1, 1:] = 0, 0
    batch = {"input_ids": ids, "attention_mask": mask}

    assert distill(other, model, [batch], steps=1).before == 0.0
    assert distill(other, model, [batch | {"attention_mask": torch.ones(2, 3)}], steps=1).before > 0


def test_the_same_seed_teaches_the_same_and_nothing_else_moves() -> None:
    model, data = teacher(), lessons()
    results = []
    for _ in range(2):
        student = carry_out(model, ["0"], example=data[0]).model
        frozen, noise = state(model), torch.get_rng_state()
        distill(student, model, data, steps=5, parameters=["1."], seed=4)
        assert same(model, frozen)
        assert torch.equal(torch.get_rng_state(), noise)
        assert all(parameter.grad is None for parameter in student.parameters())
        results.append(student)
    assert same(results[0], state(results[1]))
    untouched = carry_out(model, ["0"], example=data[0]).model
    moved = {
        n
        for n, v in results[0].state_dict().items()
        if not torch.equal(v, untouched.state_dict()[n])
    }
    assert moved == {name for name in untouched.state_dict() if name.startswith("1.")}


def test_lessons_that_lead_away_are_taken_back() -> None:
    model, data = teacher(), lessons()
    student = carry_out(model, ["1"], example=data[0]).model
    before = state(student)

    report = distill(student, model, data, steps=3, learning_rate=1e3)

    assert not report.kept
    assert report.after == report.before
    assert same(student, before)


def test_an_error_half_way_leaves_the_old_weights() -> None:
    model, data = teacher(), lessons()
    student = carry_out(model, ["1"], example=data[0]).model
    before = state(student)
    calls = 0

    def broken(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > len(data) + 2:
            raise OSError("the disk is gone")
        from layer_importance import Call

        return Call((batch,))

    with pytest.raises(OSError, match="the disk is gone"):
        distill(student, model, data, steps=9, inputs=broken)
    assert same(student, before)


@pytest.mark.parametrize(
    "words, message",
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate and temperature must be positive"),
        ({"temperature": -1.0}, "learning_rate and temperature must be positive"),
        ({"distance": "l1"}, "distance must be kl or mse, got 'l1'"),
        ({"parameters": ["nobody"]}, "parameters must name some that require gradients"),
    ],
)
def test_bad_requests_are_named(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill(teacher(), teacher(), lessons(1), **words)
    with pytest.raises(ValueError, match="batches must give at least one batch"):
        distill(teacher(), teacher(), [])
