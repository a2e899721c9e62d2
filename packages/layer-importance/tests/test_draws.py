from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from layer_importance import Report, analyze
from layer_importance._draws import Draws, uniform
from layer_importance._tasks import task as named
from layer_importance._tasks._labels import drawn
from layer_importance.tasks import Regression

SAMPLED = ["fisher_information", "uncertainty_delta"]


class Block(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Tokens(nn.Module):
    """Each token by itself: padding changes nothing about the others."""

    def __init__(self, heads: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(6, heads)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


def double(net: nn.Module) -> nn.Module:
    return net.double().eval()


def rows() -> tuple[nn.Module, list[Any], Any]:
    torch.manual_seed(0)
    net = nn.Sequential(*(Block() for _ in range(3)), nn.Linear(6, 4))
    x, y = torch.randn(24, 6).double(), torch.randint(4, (24,))
    return double(net), [(x[i : i + 1], y[i : i + 1]) for i in range(24)], "classification"


def values() -> tuple[nn.Module, list[Any], Any]:
    net, data, _ = rows()
    return net, [(x, torch.randn(1, 4).double()) for x, _ in data], Regression()


def texts() -> tuple[nn.Module, list[Any], Any]:
    torch.manual_seed(0)
    ids = [torch.randint(5, (1, 5)) for _ in range(24)]
    data = [{"input_ids": one, "labels": one} for one in ids]
    return double(Tokens()), data, "generation"


def spans() -> tuple[nn.Module, list[Any], Any]:
    torch.manual_seed(0)
    data = [(torch.randint(7, (1, 5)), torch.tensor([[1, 3]])) for _ in range(24)]
    return double(Tokens(2)), data, "qa"


KINDS = [rows, values, texts, spans]


def together(data: list[Any], sizes: list[int]) -> list[Any]:
    found, start = [], 0
    for size in sizes:
        part = data[start : start + size]
        start += size
        if isinstance(part[0], dict):
            found.append({key: torch.cat([one[key] for one in part]) for key in part[0]})
        else:
            found.append(tuple(torch.cat(column) for column in zip(*part, strict=True)))
    return found


def run(made: tuple[nn.Module, list[Any], Any], sizes: list[int], seed: int = 0) -> Report:
    net, data, task = made
    return analyze(net, together(data, sizes), methods=SAMPLED, task=named(task), seed=seed)


def same(one: Report, two: Report, name: str) -> None:
    for unit, score in one[name].items():
        assert two[name][unit].value == pytest.approx(score.value, rel=1e-9)
        assert two[name][unit].samples == score.samples


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("sizes", [[5, 7, 12], [1] * 24, [23, 1]])
def test_labels_drawn_from_the_model_do_not_depend_on_the_split(
    make: Callable[[], Any], sizes: list[int]
) -> None:
    whole, split = run(make(), [24]), run(make(), sizes)
    for name in whole.methods:
        same(whole, split, name)


@pytest.mark.parametrize("make", KINDS)
def test_but_they_do_on_the_seed(make: Callable[[], Any]) -> None:
    whole, other = run(make(), [12, 12]), run(make(), [12, 12], seed=1)
    first = next(iter(whole["fisher_information"]))
    assert other["fisher_information"][first].value != whole["fisher_information"][first].value


def test_samples_that_are_alike_are_several_draws() -> None:
    net, data, task = rows()
    found = run((net, [data[0]] * 24, task), [24])["fisher_information"]
    assert all(score.standard_error > 0 for score in found.values())


@pytest.mark.parametrize("left", [0, 3])
def test_nor_on_padding(left: int) -> None:
    net, data, task = texts()
    padded = [
        {
            "input_ids": nn.functional.pad(one["input_ids"], (left, 3 - left), value=6),
            "labels": nn.functional.pad(one["labels"], (left, 3 - left), value=-100),
            "attention_mask": nn.functional.pad(torch.ones(1, 5).long(), (left, 3 - left)),
        }
        for one in data
    ]
    plain = [{**one, "attention_mask": torch.ones(1, 5).long()} for one in data]
    same(run((net, plain, task), [24]), run((net, padded, task), [24]), "fisher_information")


def test_classes_come_as_often_as_their_probability_says() -> None:
    logits = torch.tensor([0.5, 0.0, 0.2, 0.3]).log().expand(20000, 4)
    shares = torch.bincount(drawn(logits, Draws(0, 7, 20000)), minlength=4) / 20000
    assert shares[1] == 0
    assert (shares - torch.tensor([0.5, 0.0, 0.2, 0.3])).abs().max() < 5 * 0.5 / 20000**0.5


def test_two_draws_for_one_sample_are_different() -> None:
    draws = Draws(0, 3, 2)
    assert not torch.equal(uniform(draws, [2, 3]), uniform(draws, [2, 3]))


def test_numbers_of_neighbours_have_nothing_in_common() -> None:
    found = uniform(Draws(0, 0, 4000), [4000, 2])
    assert (found.T.corrcoef() - torch.eye(2)).abs().max() < 0.08
    assert torch.stack([found[1:, 0], found[:-1, 0]]).corrcoef()[0, 1].abs() < 0.08
    other = uniform(Draws(1, 0, 4000), [4000, 2])
    assert torch.stack([found[1:, 0], other[:-1, 0]]).corrcoef()[0, 1].abs() < 0.08


def test_places_that_do_not_count_use_up_no_numbers() -> None:
    where = torch.tensor([[False, True, True, False], [True, True, False, False]])
    few, all_ = uniform(Draws(0, 3, 2), [2, 4], where=where), uniform(Draws(0, 3, 2), [2, 2])
    assert torch.equal(few[where].reshape(2, 2), all_)
    assert not few[~where].any()


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 9), st.integers(0, 8))
def test_numbers_are_the_samples_own(seed: int, first: int, count: int, cut: int) -> None:
    whole, cut = uniform(Draws(seed, first, count), [count, 3]), min(cut, count)
    parts = [
        uniform(Draws(seed, first, cut), [cut, 3]),
        uniform(Draws(seed, first + cut, count - cut), [count - cut, 3]),
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_tasks_of_others_may_draw_as_they_like() -> None:
    draws = Draws(0, 3, 2)
    assert isinstance(draws, torch.Generator)
    assert torch.multinomial(torch.ones(2, 3), 1, generator=draws).shape == (2, 1)
    again = [torch.rand(3, generator=Draws(0, 3, 2)) for _ in range(2)]
    assert torch.equal(*again)
