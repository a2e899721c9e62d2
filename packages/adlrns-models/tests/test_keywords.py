"""Each keyword of `wrap_model_with_adaptive` does what it says."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import nn

from adlrns_models import (
    AdaptConfig,
    AdaptiveConv2d,
    AdaptiveLinear,
    _linalg,
    iter_adaptive_layers,
    wrap_model_with_adaptive,
)
from adlrns_models.testing import synthetic_inputs

EAGER = {"r_min": 1, "adapt_every": 1, "adapt_cooldown": 0, "shrink_step": 64, "grow_step": 64}


def wrapped(m=32, n=32, **options):
    torch.manual_seed(0)
    return wrap_model_with_adaptive(nn.Sequential(nn.Linear(n, m)), **(EAGER | options))


def ranks_over(model, steps, *, scale=1.0, rows=200):
    layer, found = model[0], []
    for step in range(steps):
        model(scale * synthetic_inputs("power-law", rows, layer.in_features, seed=step).float())
        found.append(layer.current_rank())
    return found


def test_every_documented_keyword_is_tested_here():
    fields = {field.name for field in dataclasses.fields(AdaptConfig)}
    named = {name.split("__")[1] for name in globals() if name.startswith("test__")}
    assert named == fields


def test__eps__a_smaller_one_keeps_a_higher_rank():
    ranks = [ranks_over(wrapped(eps=eps), 6)[-1] for eps in (0.5, 0.1, 0.01, 0.0)]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 4
    assert ranks[-1] == 32
    assert ranks_over(wrapped(eps=1.0), 3)[-1] == 1


def test__r_min__is_the_smallest_rank():
    assert ranks_over(wrapped(eps=0.9), 6)[-1] == 1
    assert ranks_over(wrapped(eps=0.9, r_min=7), 6)[-1] == 7
    assert ranks_over(wrapped(eps=0.9, r_min=99, r_max=128), 6)[-1] == 32


def test__r_max__is_the_largest_rank_and_the_directions_kept():
    model = wrapped(eps=0.0, r_max=9)
    assert ranks_over(model, 3)[-1] == 9
    assert sum(p.numel() for p in model.parameters()) == 9 * 64 + 9 + 32


def test__adapt_every__looks_at_the_rank_once_in_so_many_passes():
    ranks = ranks_over(wrapped(eps=0.3, adapt_every=4, shrink_step=3), 12)
    changes = [i + 1 for i in range(1, 12) if ranks[i] != ranks[i - 1]]
    assert changes == [4, 8, 12]


def test__grow_step__is_the_largest_growth_at_a_time():
    for step in (2, 5):
        model = wrapped(eps=0.01, grow_step=step)
        model[0].set_rank(1)
        ranks = [1, *ranks_over(model, 4)]
        assert [b - a for a, b in pairwise(ranks)][:3] == [step] * 3


def test__shrink_step__is_the_largest_shrinkage_at_a_time():
    for step in (2, 5):
        ranks = [32, *ranks_over(wrapped(eps=0.5, shrink_step=step), 4)]
        assert [a - b for a, b in pairwise(ranks)][:3] == [step] * 3


def test__sketch_size__is_the_rows_of_the_sketch():
    found = {}
    for size in (8, 32):
        layer = wrapped(64, 400, sketch_size=size)[0]
        layer._watch.credit = 1e6
        layer(synthetic_inputs("power-law", 300, 400).float())
        found[size] = layer.sketch.error_bound()
        assert layer.sketch.sketch().shape == (size, 400)
    assert 0 < found[32] < found[8]


def test__include_conv__wraps_convolutions_or_leaves_them():
    for include in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 4))
        model = wrap_model_with_adaptive(model, include_conv=include)
        assert isinstance(model[0], AdaptiveConv2d if include else nn.Conv2d)
        assert isinstance(model[2], AdaptiveLinear)


def test__freeze_during_eval__stops_watching_and_adapting_in_eval_mode():
    for freeze in (True, False):
        model = wrapped(eps=0.3, freeze_during_eval=freeze).eval()
        ranks = ranks_over(model, 5)
        assert (ranks[-1] == 32) is freeze
        assert (model[0].sketch.n_samples_seen == 0) is freeze
        assert model[0].steps == (0 if freeze else 5)
        model.train()
        assert ranks_over(model, 5)[-1] < 32


def test__adapt_cooldown__is_the_passes_a_rank_stays_after_a_change():
    ranks = ranks_over(wrapped(eps=0.3, adapt_cooldown=5, shrink_step=2), 16)
    changes = [i + 1 for i in range(16) if ranks[i] != ([32, *ranks][i])]
    assert changes == [1, 6, 11, 16]


def test__sample_stride__takes_every_so_manieth_row():
    for stride, seen in ((1, 30), (3, 10), (7, 5), (100, 1)):
        layer = wrapped(sample_stride=stride, adapt_every=10**9)[0]
        layer._watch.credit = 1e6
        x = synthetic_inputs("power-law", 30, 32).float()
        layer(x)
        assert layer.sketch.n_samples_seen == seen
        mean = torch.as_tensor(layer.sketch.mean).float()
        torch.testing.assert_close(mean, x[::stride].mean(0), rtol=1e-4, atol=1e-5)


def test__max_rows_fd__caps_the_rows_of_one_pass_spread_over_the_batch():
    for cap, seen in ((10, 10), (40, 40), (1000, 200)):
        layer = wrapped(max_rows_fd=cap, adapt_every=10**9)[0]
        layer._watch.credit = 1e6
        x = torch.arange(200.0)[:, None].expand(200, 32)
        layer(x)
        assert layer.sketch.n_samples_seen == seen
        # evenly spread, from the first row on
        assert float(layer.sketch.mean[0]) == pytest.approx((200 - 200 / seen) / 2, abs=1)


class Broken:
    """Decompositions that fail a number of times, as some do on a device."""

    def __init__(self, monkeypatch, times):
        self.left, self.calls = times, 0
        for name in ("svd", "eigh"):
            monkeypatch.setattr(torch.linalg, name, self.failing(getattr(torch.linalg, name)))

    def failing(self, function):
        def call(*args, **kwargs):
            self.calls += 1
            if self.left:
                self.left -= 1
                raise torch.linalg.LinAlgError("did not converge")
            return function(*args, **kwargs)

        return call


def test__svd_backend__auto_falls_back_to_the_cpu_and_the_others_do_not(monkeypatch):
    linear = nn.Linear(8, 6)
    x = torch.randn(5, 8)
    with monkeypatch.context() as patch:
        broken = Broken(patch, 1)
        model = wrap_model_with_adaptive(nn.Sequential(linear), svd_backend="auto")
        assert broken.calls > 1
    torch.testing.assert_close(model(x), linear(x), rtol=1e-4, atol=1e-5)
    with monkeypatch.context() as patch:
        Broken(patch, 1)
        with pytest.raises(torch.linalg.LinAlgError):
            wrap_model_with_adaptive(nn.Sequential(nn.Linear(8, 6)), svd_backend="cpu")
    with monkeypatch.context() as patch:
        Broken(patch, 99)
        with pytest.raises(torch.linalg.LinAlgError):
            wrap_model_with_adaptive(nn.Sequential(nn.Linear(8, 6)), svd_backend="auto")


def test_a_failed_refit_falls_back_too_and_leaves_the_layer_whole(monkeypatch):
    model = wrapped(svd_backend="cpu", adapt_every=10**9)
    x = synthetic_inputs("power-law", 100, 32).float()
    model(x)
    before = [p.detach().clone() for p in model.parameters()]
    with monkeypatch.context() as patch:
        Broken(patch, 99)
        with pytest.raises(torch.linalg.LinAlgError):
            model[0].adapt_now()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert model[0].current_rank() == 32
    other = wrapped(svd_backend="auto", adapt_every=10**9)
    other(x)
    with monkeypatch.context() as patch:
        Broken(patch, 1)
        other[0].adapt_now()
    model[0].adapt_now()
    assert other[0].current_rank() == model[0].current_rank() < 32


def test_gpu_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    model = nn.Sequential(nn.Linear(4, 4))
    kept = model[0]
    with pytest.raises(ValueError, match='svd_backend must be "auto" or "cpu" .*got "gpu"'):
        wrap_model_with_adaptive(model, svd_backend="gpu")
    assert model[0] is kept


def test_a_backend_says_where_the_work_is_done():
    here = torch.device("cpu")
    seen = []
    _linalg.on_backend("cpu", torch.device("meta"), seen.append)
    _linalg.on_backend("auto", torch.device("meta"), seen.append)
    assert seen == [here, torch.device("meta")]


BAD = [
    ("eps", -0.1, ValueError),
    ("eps", 1.1, ValueError),
    ("eps", float("nan"), ValueError),
    ("eps", "0.1", TypeError),
    ("r_min", -1, ValueError),
    ("r_min", 1.0, TypeError),
    ("r_max", 0, ValueError),
    ("r_max", 3, ValueError),  # below the default r_min
    ("adapt_every", 0, ValueError),
    ("grow_step", 0, ValueError),
    ("shrink_step", 0, ValueError),
    ("sketch_size", 0, ValueError),
    ("sample_stride", 0, ValueError),
    ("max_rows_fd", 0, ValueError),
    ("adapt_cooldown", -1, ValueError),
    ("adapt_cooldown", True, TypeError),
    ("include_conv", 1, TypeError),
    ("freeze_during_eval", "yes", TypeError),
    ("svd_backend", "cuda", ValueError),
]


@pytest.mark.parametrize("name, value, error", BAD)
def test_a_bad_value_is_named(name, value, error):
    model = nn.Sequential(nn.Linear(4, 4))
    kept = model[0]
    with pytest.raises(error, match=f"{name} must .*got {value!r}"):
        wrap_model_with_adaptive(model, **{name: value})
    assert model[0] is kept


def test_defaults_are_those_that_are_documented():
    model = wrap_model_with_adaptive(nn.Sequential(nn.Linear(4, 4)))
    (layer,) = iter_adaptive_layers(model)
    assert layer.config == AdaptConfig()
    assert layer.config.to_dict() == {
        "eps": 0.08,
        "r_min": 4,
        "r_max": 128,
        "adapt_every": 50,
        "grow_step": 16,
        "shrink_step": 32,
        "sketch_size": 256,
        "include_conv": True,
        "freeze_during_eval": True,
        "adapt_cooldown": 10,
        "sample_stride": 1,
        "max_rows_fd": 2048,
        "svd_backend": "auto",
    }
