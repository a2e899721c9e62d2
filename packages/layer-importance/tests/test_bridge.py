import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from layer_importance._bridge import Bridge, BridgeMoments


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def moments_of(x: Tensor, y: Tensor) -> BridgeMoments:
    moments = BridgeMoments(x.shape[-1])
    moments.add(x, y)
    return moments


def test_an_affine_block_is_bridged_exactly() -> None:
    x = 3 + normal(200, 6)
    block = nn.Linear(6, 6, dtype=torch.float64).requires_grad_(False)
    bridge = moments_of(x, x + block(x)).solve(ridge=0.0)
    fresh = normal(50, 6, seed=1)
    assert torch.allclose(bridge(fresh), fresh + block(fresh), atol=1e-12)


def test_the_residual_from_moments_is_that_of_running_the_bridge_on_held_out_tokens() -> None:
    x, held = normal(300, 5), 2 * normal(100, 5, seed=1) + 1
    bridge = moments_of(x, x + x.tanh() + 1).solve(ridge=1e-3)
    y = held + held.relu()
    direct = (y - bridge(held)).square().sum(1).mean().detach()
    assert moments_of(held, y).residual(bridge) == pytest.approx(float(direct), rel=1e-12)


def test_what_a_bridge_leaves_over_is_the_conditional_variance_of_a_gaussian() -> None:
    x, noise = normal(200_000, 3), normal(200_000, 3, seed=1)
    moments = moments_of(x, x + 2 * x + 0.5 * noise)
    bridge = moments.solve(ridge=0.0)
    assert moments.residual(bridge) == pytest.approx(3 * 0.25, rel=0.01)
    assert moments.variance == pytest.approx(3 * (4 + 0.25), rel=0.01)
    assert moments.output_variance == pytest.approx(3 * (9 + 0.25), rel=0.01)


def test_the_ridge_is_the_minimiser_of_its_penalised_sum() -> None:
    x, f = normal(40, 4), normal(40, 4, seed=1)
    bridge = moments_of(x, x + f).solve(ridge=0.3)
    X, F = x - x.mean(0), f - f.mean(0)
    penalty = 0.3 * X.square().sum() / 4
    direct = torch.linalg.solve(X.T @ X + penalty * torch.eye(4), X.T @ F)
    assert torch.allclose(bridge.weight, direct, atol=1e-12)
    assert torch.allclose(bridge.bias, f.mean(0))
    assert torch.allclose(bridge.mean, x.mean(0))


def test_a_stream_that_lies_in_few_directions_needs_no_ridge() -> None:
    x = normal(100, 2) @ normal(2, 8, seed=1)
    bridge = moments_of(x, -x).solve(ridge=0.0)
    assert torch.allclose(bridge(x), -x, atol=1e-10)
    assert bool(bridge.weight.isfinite().all())


def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    x = 1e6 + normal(500, 3)
    moments = BridgeMoments(3)
    for part in x.split(37):
        moments.add(part, 2 * part)
    bridge = moments.solve(ridge=0.0)
    assert torch.allclose(bridge(x) - 2 * x, torch.zeros_like(x), atol=1e-7)


@given(cut=st.integers(1, 29), seed=st.integers(0, 99))
def test_neither_the_split_nor_a_merge_nor_saving_changes_the_moments(cut: int, seed: int) -> None:
    x, y = normal(30, 3, seed=seed), normal(30, 3, seed=seed + 100)
    parts = moments_of(x[:cut], y[:cut])
    parts.merge(BridgeMoments.from_state(moments_of(x[cut:], y[cut:]).state()))
    whole = moments_of(x, y)
    assert parts.count == whole.count
    for name, tensor in whole.state().items():
        assert torch.allclose(parts.state()[name], tensor, atol=1e-12), name


def test_tokens_that_are_not_finite_are_left_out_and_counted() -> None:
    x, y = normal(20, 3), normal(20, 3, seed=1)
    spoiled = x.clone()
    spoiled[4, 1] = torch.nan
    y[7, 2] = torch.inf
    kept = [i for i in range(20) if i not in (4, 7)]
    moments, clean = moments_of(spoiled, y), moments_of(x[kept], y[kept])
    assert (moments.count, moments.skipped) == (18, 2)
    assert torch.allclose(moments.solve().weight, clean.solve().weight)


def test_a_bridge_works_on_channels_before_places_and_keeps_the_shape() -> None:
    x = normal(4, 3, 5, 6)
    tokens = x.movedim(1, -1)
    y = x.flip(1)
    bridge = moments_of(tokens, y.movedim(1, -1)).solve(ridge=0.0, channels=1)
    assert torch.allclose(bridge(x), y, atol=1e-12)


def test_a_bridge_is_a_module_that_is_trained_saved_and_cast() -> None:
    x = normal(50, 4)
    bridge = moments_of(x, 2 * x).solve()
    assert {name for name, _ in bridge.named_parameters()} == {"weight", "bias"}
    twin = Bridge(torch.zeros(4, 4), torch.zeros(4), torch.zeros(4)).double()
    twin.load_state_dict(bridge.state_dict())
    assert torch.equal(twin(x), bridge(x))
    assert bridge.float()(x.float()).dtype == torch.float32


def test_in_low_precision_the_mean_is_taken_off_first() -> None:
    x = 100 + normal(400, 4)
    bridge = moments_of(x, x + (x - 100).flip(1)).solve()
    error = (bridge.float()(x.float()).double() - bridge.double()(x)).detach().abs().max()
    assert float(error) < 1e-4


@pytest.mark.parametrize(
    "ridge, match", [(-1.0, "ridge must be at least 0"), (float("nan"), "ridge must be")]
)
def test_a_ridge_that_is_none_is_refused(ridge: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        moments_of(normal(5, 2), normal(5, 2)).solve(ridge=ridge)


def test_moments_refuse_what_does_not_fit_and_stay_as_they_were() -> None:
    moments = BridgeMoments(3)
    with pytest.raises(ValueError, match="at least one token, got none"):
        moments.solve()
    with pytest.raises(ValueError, match=r"shape \[..., 3\], got \[2, 3\] and \[2, 4\]"):
        moments.add(normal(2, 3), normal(2, 4))
    with pytest.raises(ValueError, match="width must be 3, got 4"):
        moments.merge(BridgeMoments(4))
    with pytest.raises(ValueError, match="weight, bias and mean must have shapes"):
        Bridge(torch.zeros(2, 2), torch.zeros(3), torch.zeros(3))
    assert moments.count == 0
