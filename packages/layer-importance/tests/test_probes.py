import math

import numpy as np
import pytest
import torch
from torch import Tensor

from layer_importance._probes import ClassMoments, ValueMoments
from layer_importance._renyi import cosine, entropy, mutual_information, near, same


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def class_information(rows: Tensor, labels: Tensor) -> Tensor:
    half = len(rows) // 2
    moments = ClassMoments(rows.shape[1])
    moments.add(rows[:half], labels[:half])
    losses, blind = moments.losses(rows[half:], labels[half:])
    return blind - losses


def value_information(rows: Tensor, labels: Tensor) -> Tensor:
    half = len(rows) // 2
    moments = ValueMoments(rows.shape[1], labels[0].numel())
    moments.add(rows[:half], labels[:half])
    losses, blind = moments.losses(rows[half:], labels[half:])
    return blind - losses


def assert_mean(values: Tensor, truth: float) -> None:
    error = float(values.std()) / len(values) ** 0.5
    assert float(values.mean()) == pytest.approx(truth, abs=4 * error)
    assert error < 0.02


def test_two_normal_classes_give_their_mutual_information() -> None:
    labels = (torch.rand(10_000, generator=torch.Generator().manual_seed(1)) < 0.5).long()
    shift = 1.2
    rows = normal(10_000, 5)
    rows[:, 2] += shift * (2 * labels - 1)
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    lost = np.logaddexp(0, -2 * shift * (shift + z))
    truth = math.log(2) - float((density * lost).sum() * (z[1] - z[0]))
    assert 0.3 < truth < 0.5
    assert_mean(class_information(rows, labels), truth)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8])
def test_two_normal_values_give_their_mutual_information(correlation: float) -> None:
    x, noise = normal(20_000, 1), normal(20_000, 1, seed=1)
    y = correlation * x + math.sqrt(1 - correlation**2) * noise
    assert_mean(value_information(x, y[:, 0]), -math.log(1 - correlation**2) / 2)


def test_a_normal_channel_carries_half_the_log_of_one_plus_signal_to_noise() -> None:
    signal, noise = normal(20_000, 2), normal(20_000, 2, seed=1)
    both = value_information(signal + 0.5 * noise, signal)
    assert_mean(both, 2 * math.log(1 + 4) / 2)


@pytest.mark.parametrize("classes", [2, 7])
def test_shuffled_labels_carry_nothing(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, means = [], normal(classes, 20, seed=3)
    for seed in range(10):
        # unbalanced on purpose: knowing the shares must not count as information
        shares = torch.arange(1.0, classes + 1)
        labels = torch.multinomial(shares, 600, replacement=True, generator=generator)
        rows = means[labels] + normal(600, 20, seed=seed)
        assert float(class_information(rows, labels).mean()) > 0.3
        shuffled = labels[torch.randperm(600, generator=generator)]
        values.append(float(class_information(rows, shuffled).mean()))
    assert max(values) < 0.01
    assert sum(values) <= 0


def test_a_feature_without_variance_within_classes_tells_everything() -> None:
    labels = torch.arange(400) % 2
    rows = normal(400, 4)
    rows[:, 1] = 2.0 * labels - 1
    assert float(class_information(rows, labels).mean()) > 0.68  # log 2 = 0.693
    assert float(class_information(rows[:, 1:2], labels).mean()) > 0.68


def test_more_features_than_samples_do_not_make_information() -> None:
    labels = torch.arange(120) % 2
    assert float(class_information(normal(120, 300), labels).mean()) < 0.05


def test_rows_that_are_all_alike_know_nothing_and_are_no_error() -> None:
    rows, labels = torch.ones(40, 3, dtype=torch.float64), torch.arange(40) % 4
    assert float(class_information(rows, labels).abs().max()) == 0
    assert float(value_information(rows, normal(40)).abs().max()) == 0


def test_a_class_that_was_never_seen_has_a_finite_loss() -> None:
    rows, labels = normal(40, 3), torch.zeros(40, dtype=torch.long)
    labels[-1] = 9
    assert bool(class_information(rows, labels).isfinite().all())


@pytest.mark.parametrize("cut", [0, 1, 13, 30])
def test_moments_do_not_depend_on_the_split(cut: int) -> None:
    seed = 0
    rows, labels = 5 + normal(30, 4, seed=seed), (normal(30, seed=seed + 1) > 0).long()
    for kind, answers in ((ClassMoments, labels), (ValueMoments, normal(30, seed=seed + 2))):
        whole, first, second = kind(4), kind(4), kind(4)
        whole.add(rows, answers)
        first.add(rows[:cut], answers[:cut])
        second.add(rows[cut:], answers[cut:])
        first.merge(kind.from_state(second.state()))
        ours, theirs = whole.losses(rows, answers)[0], first.losses(rows, answers)[0]
        assert torch.allclose(ours, theirs, rtol=1e-6)


def test_points_that_are_alike_have_no_entropy_and_orthogonal_ones_all_of_it() -> None:
    assert entropy(cosine(torch.ones(16, 3, dtype=torch.float64))) == pytest.approx(0, abs=1e-12)
    assert entropy(cosine(torch.eye(16, dtype=torch.float64))) == pytest.approx(4)
    halves = torch.eye(2, dtype=torch.float64).repeat_interleave(8, 0)
    assert entropy(cosine(halves)) == pytest.approx(1)


def test_labels_that_are_read_off_share_all_their_bits_and_unrelated_ones_none() -> None:
    first = torch.arange(16)[:, None] % 4
    second = torch.arange(16)[:, None] // 4
    points = torch.eye(4, dtype=torch.float64)[first[:, 0]]
    assert mutual_information(cosine(points), same(first)) == pytest.approx(2)
    assert mutual_information(cosine(points), same(second)) == pytest.approx(0, abs=1e-12)


def test_the_entropy_of_real_features_is_not_that_of_the_number_of_samples() -> None:
    rows = normal(200, 3)
    assert 0.5 < entropy(cosine(rows)) < math.log2(200) - 3


def test_values_are_near_where_they_are_less_than_their_median_apart() -> None:
    K = near(torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))
    assert K[0].tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-2)])
    assert near(torch.ones(3, 1)).tolist() == torch.ones(3, 3).tolist()
