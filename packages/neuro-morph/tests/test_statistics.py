import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthGraph
from neuro_morph._accumulators import Limits
from neuro_morph._statistics import collect_statistics


def linear_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)).double()


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(36, 2),
    ).double()


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def data(model: nn.Module, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, *shape, generator=generator, dtype=torch.float64)
    out = model.eval()(x).shape
    return x, torch.randn(out, generator=generator, dtype=torch.float64)


def measured(model: nn.Module, x: Tensor, y: Tensor, sizes: list[int], **limits: int) -> Any:
    graph = GrowthGraph.capture(model, x, capture="dispatch")
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    return collect_statistics(model, graph, batches, loss_fn, limits=Limits(**limits))


def numbers(statistics: Any) -> list[Tensor]:
    found = []
    for group in statistics.groups.values():
        held = [group.x_x, group.unit_mean, group.unit_second, group.gradient_mean]
        held += [group.gradient_second, group.taylor, group.samples, group.inputs]
        for r in group.readers:
            held += [r.h_h, r.h_g, r.g_g, r.x_g, r.x_h]
        found += [t for t in held if t is not None]
    return found


@pytest.mark.parametrize("net, shape", [(linear_net, (5,)), (conv_net, (2, 8, 8))])
def test_how_examples_come_in_batches_does_not_matter(net: Any, shape: tuple[int, ...]) -> None:
    model = net()
    x, y = data(model, *shape)
    whole = numbers(measured(model, x, y, [12], positions=7))
    parts = numbers(measured(model, x, y, [1, 7, 4], positions=7))
    assert len(whole) == len(parts) > 10
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    model = conv_net()
    x, y = data(model, 2, 8, 8)
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[3].weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measured(model, x, y, [12])
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model[4].training
    assert bool((model[0].weight.grad == 1).all())
    assert model[3].weight.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_moments_are_those_of_a_loop_over_examples() -> None:
    model = linear_net()
    x, y = data(model, 5)
    group = measured(model, x, y, [5, 7])["0"]
    reader = group.readers[0]
    want = dict.fromkeys(("x_x", "h_h", "h_g", "g_g", "x_g", "x_h", "gradient", "taylor"), 0.0)
    one = torch.ones(1, dtype=torch.float64)
    for k in range(12):
        a = model[0](x[k]).detach().requires_grad_()
        h = torch.relu(a)
        h.retain_grad()
        z = model[2](h)
        z.retain_grad()
        (z - y[k]).square().mean().backward()
        row, units, g = torch.cat([x[k], one]), torch.cat([h.detach(), one]), -z.grad
        want["x_x"] += row.outer(row) / 12
        want["h_h"] += units.outer(units) / 12
        want["h_g"] += units.outer(g) / 12
        want["g_g"] += g.outer(g) / 12
        want["x_g"] += row.outer(g) / 12
        want["x_h"] += row.outer(units) / 12
        want["gradient"] += -a.grad.outer(row) / 12
        want["taylor"] += (h.detach() * h.grad).square() / 12
    torch.testing.assert_close(group.x_x, want["x_x"])
    torch.testing.assert_close(group.gradient_mean, want["gradient"])
    torch.testing.assert_close(group.taylor, want["taylor"])
    torch.testing.assert_close(reader.x_g[..., 0], want["x_g"])
    torch.testing.assert_close(reader.x_h[:, 0], want["x_h"])
    for name in ("h_h", "h_g", "g_g"):
        torch.testing.assert_close(getattr(reader, name), want[name])


def test_examples_gradients_are_those_of_autograd_where_a_kernel_is_shared() -> None:
    model = conv_net()
    x, y = data(model, 2, 8, 8)
    group = measured(model, x, y, [12])["0"]
    each = []
    for k in range(12):
        model.zero_grad()
        loss_fn(model, (x[k : k + 1], y[k : k + 1])).backward()
        held = torch.cat([model[0].weight.grad.flatten(1), model[0].bias.grad[:, None]], 1)
        each.append(-held)
    stacked = torch.stack(each)
    torch.testing.assert_close(group.gradient_mean, stacked.mean(0))
    torch.testing.assert_close(group.gradient_second, stacked.square().mean(0))


def test_positions_left_out_are_weighed_by_those_that_stay() -> None:
    model = conv_net()
    x, y = data(model, 2, 8, 8)
    full, few = (measured(model, x, y, [12], positions=n)["0"] for n in (64, 32))
    constant = float(few.x_x[-1, -1])  # of the bias: one for each position
    assert constant == float(full.x_x[-1, -1]) == 64
    assert not torch.allclose(few.x_x, full.x_x)


def test_a_group_that_no_plain_layer_reads_is_named_with_the_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten()).double()
    x, y = data(model, 2, 2, 2)
    statistics = measured(model, x, y, [12])
    assert all("groups" in why for why in statistics.skipped.values())
    with pytest.raises(KeyError, match="no statistics of group 'nothing'"):
        statistics["nothing"]


def test_bad_batches_and_losses_are_refused() -> None:
    model = linear_net()
    x, y = data(model, 5)
    graph = GrowthGraph.capture(model, x, capture="dispatch")
    with pytest.raises(ValueError, match="at least one batch"):
        collect_statistics(model, graph, [], loss_fn)
    with pytest.raises(ValueError, match="one finite number"):
        collect_statistics(model, graph, [(x * float("nan"), y)], loss_fn)
    with pytest.raises(ValueError, match="at least one example"):
        collect_statistics(model, graph, [(x[:0], y[:0])], loss_fn)
