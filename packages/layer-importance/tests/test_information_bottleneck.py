from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from layer_importance import MethodScores, Task
from layer_importance._methods.information_bottleneck import InformationBottleneck

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def classes(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Two classes that differ along feature 0 alone."""
    labels = (normal(count, seed=9) > 0).long()
    x = normal(count, 6)
    x[:, 0] += 2 * (2 * labels - 1)
    return x, labels


class Values(Task):
    name = "values"

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        return (output[:, 0] - labels).square()


def without_label(x: Tensor) -> Tensor:
    keep = torch.ones(6, dtype=x.dtype)
    keep[0] = 0
    return x * keep


def test_a_unit_that_projects_out_the_label_takes_all_usable_information(
    score_blocks: Score,
) -> None:
    x, labels = classes()
    scores = score_blocks(InformationBottleneck(), [torch.tanh, without_label], x, labels)
    extras = scores.extras
    assert extras["usable_in"]["blocks.0"] > 0.5
    assert abs(extras["usable_out"]["blocks.1"]) < 0.02
    assert scores["blocks.1"].value == pytest.approx(-extras["usable_in"]["blocks.1"], abs=0.02)
    assert scores["blocks.1"].value < -10 * scores["blocks.1"].standard_error
    assert extras["renyi_labels"]["blocks.0"] > extras["renyi_labels"]["blocks.1"]
    assert extras["hsic_labels"]["blocks.0"] > 10 * abs(extras["hsic_labels"]["blocks.1"])


def test_a_unit_that_makes_the_label_linear_adds_information(score_blocks: Score) -> None:
    x = normal(1000, 6)
    labels = (x[:, 0] * x[:, 1] > 0).long()

    def product(x: Tensor) -> Tensor:
        return torch.cat([(x[:, :1] * x[:, 1:2]).sign(), x[:, 1:]], 1)

    score = score_blocks(InformationBottleneck(), [product], x, labels)["blocks.0"]
    assert score.value > 0.6  # of log 2 = 0.69


def test_a_unit_that_does_nothing_or_turns_its_stream_changes_nothing(score_blocks: Score) -> None:
    x, labels = classes()
    turn = torch.linalg.qr(normal(6, 6, seed=7))[0]
    blocks = [lambda x: x, lambda x: x @ turn, lambda x: 3 * x + 1]
    scores = score_blocks(InformationBottleneck(), blocks, x, labels)
    assert scores["blocks.0"].value == 0
    assert scores["blocks.0"].standard_error == 0
    assert abs(scores["blocks.1"].value) < 1e-9
    assert abs(scores["blocks.2"].value) < 1e-9
    assert scores.direction == "diagnostic"


def test_shuffled_labels_leave_nothing_to_add(score_blocks: Score) -> None:
    x, labels = classes()
    shuffled = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    scores = score_blocks(InformationBottleneck(), [torch.tanh, without_label], x, shuffled)
    for column in ("usable_in", "usable_out"):
        assert max(scores.extras[column].values()) < 0.01
    assert abs(scores.extras["hsic_labels"]["blocks.0"]) < 0.01


def test_values_are_read_by_regression(score_blocks: Score) -> None:
    x = normal(2000, 6)
    y = 0.8 * x[:, 2] + 0.6 * normal(2000, seed=3)
    scores = score_blocks(InformationBottleneck(), [torch.tanh], x, y, task=Values())
    assert scores.extras["usable_in"]["blocks.0"] == pytest.approx(0.5108, abs=0.08)
    assert scores["blocks.0"].value < 0


def test_it_says_why_it_cannot_run_or_score(score_blocks: Score) -> None:
    x, labels = classes(300)
    with pytest.raises(KeyError, match="needs one label a sample, got labels of shape"):
        score_blocks(InformationBottleneck(), [torch.tanh], x, normal(300, 2, 2), task=Values())
    many = score_blocks(
        InformationBottleneck(max_classes=5), [torch.tanh], x, torch.arange(300) % 6
    )
    assert many.missing["blocks.0"] == "there are more than 5 classes"
    few = score_blocks(InformationBottleneck(), [torch.tanh], x[:12], labels[:12])
    assert "needs at least 8 samples to fit on" in few.missing["blocks.0"]
    wide = score_blocks(InformationBottleneck(max_width=4), [torch.tanh], x, labels)
    assert wide.missing["blocks.0"] == "its stream is wider than 4: 6"


def test_samples_without_an_answer_do_not_count(score_blocks: Score) -> None:
    x, labels = classes(400)
    spoiled = torch.cat([x, normal(100, 6, seed=5)])
    marked = torch.cat([labels, torch.full((100,), -100)])

    class Ignoring(Task):
        name = "ignoring"

        def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
            return output.sum(1)

    clean = score_blocks(InformationBottleneck(), [torch.tanh], x, labels, task=Ignoring())
    other = score_blocks(InformationBottleneck(), [torch.tanh], spoiled, marked, task=Ignoring())
    assert other["blocks.0"].value == pytest.approx(clean["blocks.0"].value, rel=1e-9)


def test_splits_order_merges_and_padding_do_not_matter(
    score_blocks: Score, score_padded: Callable[..., list[MethodScores]]
) -> None:
    (x, labels), blocks = classes(200), [torch.tanh, lambda x: x + x.relu()]

    def method() -> InformationBottleneck:
        return InformationBottleneck(samples=50)

    whole = score_blocks(method(), blocks, x, labels, split=200)
    first, second = method(), method()
    score_blocks(first, blocks, x[:70], labels[:70])
    score_blocks(second, blocks, x[70:], labels[70:])
    first.merge(second.state())
    turned = score_blocks(method(), blocks, x.flip(0), labels.flip(0), split=7)
    for other in (first.scores(), turned):
        for name in whole:
            assert other[name].value == pytest.approx(whole[name].value, rel=1e-6)
            assert other[name].standard_error == pytest.approx(whole[name].standard_error, rel=1e-6)
        for column, values in whole.extras.items():
            assert other.extras[column] == pytest.approx(values, rel=1e-6)
    short, filled = score_padded(InformationBottleneck, blocks)
    assert len(short) == 2
    for name in short:
        assert filled[name].value == pytest.approx(short[name].value, rel=1e-9)
