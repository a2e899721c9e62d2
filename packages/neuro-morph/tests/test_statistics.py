import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthGraph
from neuro_morph._accumulators import Limits
from neuro_morph._layer_rows import gram
from neuro_morph._leading import leading_svd
from neuro_morph._patches import output_rows, patches, summed_patches
from neuro_morph._score import parts_of, scores_of
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
    with pytest.raises(ValueError, match="finite numbers, got a mean loss of nan"):
        collect_statistics(model, graph, [(x * float("nan"), y)], loss_fn)
    with pytest.raises(ValueError, match="at least one example"):
        collect_statistics(model, graph, [(x[:0], y[:0])], loss_fn)


def test_losses_of_the_examples_measure_what_their_mean_does() -> None:
    model = linear_net()
    x, y = data(model, 5)
    graph = GrowthGraph.capture(model, x, capture="dispatch")
    each = lambda m, b: (m(b[0]) - b[1]).square().flatten(1).mean(1)  # noqa: E731
    mean, single = (
        collect_statistics(model, graph, [(x[:5], y[:5]), (x[5:], y[5:])], fn)
        for fn in (lambda m, b: each(m, b).mean(), each)
    )
    assert mean.loss == single.loss
    for name in mean.groups:
        assert torch.equal(mean[name].gradient_mean, single[name].gradient_mean)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
        (nn.Conv2d(2, 3, (3, 2), padding="same", dilation=(1, 2)), (2, 6, 7)),
        (nn.Conv2d(2, 3, 3, stride=(2, 3), padding=2, padding_mode="reflect"), (2, 7, 8)),
        (nn.Conv3d(2, 3, 2, padding=1, padding_mode="circular"), (2, 3, 4, 3)),
    ],
)
def test_patches_are_summed_without_being_formed(layer: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 5, *shape[1:], dtype=torch.float64)
    out = layer.double()(x[:, :2])
    g = torch.randn_like(output_rows(layer, out))
    want = torch.einsum("npfk,npo->fok", patches(layer, x), g)
    torch.testing.assert_close(summed_patches(layer, x, g), want)


@pytest.mark.parametrize("shape", [(9, 4), (400, 300), (300, 500)])
def test_leading_singular_values_are_those_of_the_whole(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
    matrix = matrix * torch.arange(1, shape[1] + 1).double() ** -0.5  # a spectrum that falls slowly
    u, s, v = leading_svd(matrix, 4)
    want = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(s, want[:4], rtol=1e-5, atol=0)
    torch.testing.assert_close(u.T @ u, torch.eye(4).double())
    left = matrix - u * s @ v
    assert float(left.square().sum()) == pytest.approx(float(want[4:].square().sum()), rel=1e-6)
    again = leading_svd(matrix, 4)
    assert torch.equal(again[1], s)


@pytest.mark.parametrize("net, shape", [(linear_net, (5,)), (conv_net, (2, 8, 8))])
def test_in_single_precision_they_are_the_same_to_its_rounding(
    net: Any, shape: tuple[int, ...]
) -> None:
    model = net()
    x, y = data(model, *shape)
    fine = numbers(measured(model, x, y, [12]))
    coarse = numbers(measured(model.float(), x.float(), y.float(), [12]))
    assert all(each.dtype == torch.float64 for each in coarse)
    for a, b in zip(fine, coarse, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("parts", [(), ("gains",), ("gradients",)])
def test_only_what_is_asked_for_is_measured(parts: tuple[str, ...]) -> None:
    model = conv_net()
    x, y = data(model, 2, 8, 8)
    graph = GrowthGraph.capture(model, x, capture="dispatch")
    whole = collect_statistics(model, graph, [(x, y)], loss_fn)
    few = collect_statistics(model, graph, [(x, y)], loss_fn, parts=parts)
    for name, held in few.groups.items():
        torch.testing.assert_close(held.unit_second, whole[name].unit_second)
        torch.testing.assert_close(held.taylor, whole[name].taylor)
        assert (held.x_x is not None) == (held.readers[0].x_g is not None) == ("gains" in parts)
        assert (held.gradient_second is not None) == ("gradients" in parts)
    if "gains" in parts:
        assert scores_of(few) == scores_of(whole)
    else:
        with pytest.raises(ValueError, match="the statistics have no gains"):
            scores_of(few)
    weights = {"gradient_variance": 1.0, "tiny_gain": 0.0, "dead_units": 1.0}
    assert parts_of(weights) == {"gradients"}
    with pytest.raises(ValueError, match="parts must be among gains, gradients"):
        collect_statistics(model, graph, [(x, y)], loss_fn, parts=["all"])


@pytest.mark.parametrize("size", [1, 320, 321, 500])
def test_half_of_a_product_with_itself_is_all_of_it(size: int) -> None:
    rows = torch.randn(7, size, dtype=torch.float64)
    torch.testing.assert_close(gram(rows), rows.T @ rows)
