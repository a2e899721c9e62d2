"""`STDP`: a layer with its neurons and its plasticity, and what it learns from real digits."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spike_ops import SpikeTensor
from spike_ops.learning import STDP, PairSTDP, PowerLaw, apply_, exponential_trace, normalize_
from spike_ops.neuron import IF
from spike_ops.nn import Linear
from spike_ops.structure import k_winners


def made(**options: float) -> STDP:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False).double()
    nn.init.uniform_(layer.weight, -0.5, 1.5)
    return STDP(IF(stateful=True), layer, **options)


def weight_of(learner: STDP) -> Tensor:
    weight = learner.connection.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def spikes(steps: int = 40) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    return (torch.rand(steps, 2, 4, generator=drawn) > 0.7).double()


def test_changes_are_those_of_the_formula_traces_updated_before_use() -> None:
    learner, x = made(tau_pre=3.0, tau_post=5.0), spikes()
    weight = weight_of(learner)
    pre, post = torch.zeros(2, 4).double(), torch.zeros(2, 3).double()
    fired = 0.0
    for step in x:
        spike, dw = learner(step)
        fired += float(spike.sum())
        pre = pre - pre / 3 + step
        post = post - post / 5 + spike
        grown = torch.einsum("bi,bj->ji", pre, spike) - torch.einsum("bj,bi->ji", post, step)
        assert (dw - weight.clamp(-1, 1) * grown).abs().max() <= 1e-12
        assert isinstance(learner.trace_pre, Tensor)
        assert torch.allclose(learner.trace_pre, pre)
    assert fired > 10


def test_a_window_is_its_steps() -> None:
    one, other, x = made(), made(), spikes()
    fired, changes = zip(*(one(step) for step in x), strict=True)
    whole, dw = other(x)
    assert torch.equal(torch.stack(fired), whole)
    assert torch.allclose(torch.stack(changes).sum(0), dw, atol=1e-12)


def test_packed_spikes_come_out_and_go_in() -> None:
    plain, packed, x = made(), made(), spikes()
    packed.node = IF(stateful=True, spike_out=True)
    for step in x:
        spike, dw = plain(step)
        bits, other = packed(SpikeTensor.from_dense(step))
        assert isinstance(bits, SpikeTensor)
        assert torch.equal(bits.to_dense(), spike)
        assert torch.equal(other, dw)


def test_reset_forgets_traces_and_membranes_but_not_time_constants() -> None:
    learner, x = made(trace_pre=0.5, tau_pre=3.0, tau_post=5.0), spikes(7)
    first = [learner(step) for step in x]
    learner.reset()
    assert (learner.trace_pre, learner.trace_post) == (0.5, 0.0)
    assert (learner.tau_pre, learner.tau_post) == (3.0, 5.0)
    for (spike, dw), step in zip(first, x, strict=True):
        again = learner(step)
        assert torch.equal(spike, again[0])
        assert torch.equal(dw, again[1])


def test_another_batch_needs_a_reset_and_other_shapes_are_refused() -> None:
    learner = made()
    learner(spikes(1)[0])
    with pytest.raises(ValueError, match="call reset"):
        learner.cal_trace(torch.ones(5, 4), torch.ones(5, 3))
    with pytest.raises(ValueError, match="x must be"):
        learner(torch.ones(4))
    with pytest.raises(ValueError, match="tau_p(re|ost) must be at least 1"):
        made(tau_pre=0.5)


def test_the_weight_is_changed_by_its_owner_alone() -> None:
    learner = made()
    before = weight_of(learner).clone()
    _, dw = learner(spikes())
    assert torch.equal(weight_of(learner), before)
    apply_(learner.connection, 0.01 * dw)
    assert (weight_of(learner) - before - 0.01 * dw).abs().max() <= 1e-15


def test_the_update_of_a_spiking_layer_takes_the_change() -> None:
    layer = Linear(4, 3, bias=False, spike_in=True)
    nn.init.constant_(layer.weight, 0.4)
    learner = STDP(IF(stateful=True), layer)
    changes = torch.zeros(3, 4)
    for step in spikes().float():
        _, dw = learner(step)
        layer.update(0.01 * dw)
        changes += 0.01 * dw
    assert changes.abs().max() > 0
    assert torch.allclose(layer.weight, 0.4 + changes, atol=1e-6)


def digits(folder: Path, part: str, count: int) -> tuple[Tensor, Tensor]:
    read = [
        np.frombuffer(gzip.decompress((folder / "mnist" / f"{part}-{kind}.gz").read_bytes()), "u1")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    images = torch.from_numpy(read[0][16 : 16 + 784 * count].reshape(-1, 28, 28).copy())
    return images.flatten(1).float() / 255, torch.from_numpy(read[1][8 : 8 + count].copy()).long()


def winners(spikes: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
    """Return one spike a step and sample: of the neuron furthest above its threshold."""
    drive = exponential_trace(spikes @ weight.T, 0.9)
    return k_winners(drive - threshold, 1).float()


def test_stdp_and_winners_learn_digits_without_labels(data_dir: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    images, labels = digits(data_dir, "train", 2500)
    tests, truth = digits(data_dir, "t10k", 500)
    layer, threshold = nn.Linear(784, 80, bias=False), torch.zeros(80)
    layer.weight.data.uniform_(0.3, 0.7, generator=drawn)
    normalize_(layer.weight, 78.0)

    def spikes(pictures: Tensor) -> Tensor:
        return (torch.rand(10, *pictures.shape, generator=drawn) < 0.5 * pictures).float()

    def accuracy() -> float:
        counts, answers = (
            winners(spikes(each), layer.weight.detach(), threshold).sum(0)
            for each in (images, tests)
        )
        votes = torch.zeros(10, 80).index_add_(0, labels, counts)
        votes /= labels.bincount(minlength=10)[:, None]
        meaning = nn.functional.one_hot(votes.argmax(0), 10).float()  # labels name, and only name
        return float(((answers @ meaning).argmax(1) == truth).float().mean())

    untaught = accuracy()
    rule = PairSTDP(4.0, 4.0, 1.0, 0.0, dependence=PowerLaw(1.0))
    for part in images.split(50):
        x = spikes(part)
        fired = winners(x, layer.weight.detach(), threshold)
        threshold += 0.3 * (80 * fired.mean((0, 1)) - 1)  # all neurons shall win as often
        rule.step(layer, x, fired, lr=0.001, bounds=(0.0, 1.0))
        normalize_(layer.weight, 78.0)
    assert untaught < 0.35
    assert accuracy() > 0.5
