"""Laws of dynamic layers and their gates."""

import torch
from torch import Tensor

from adlrns_models._dynamic import DynamicLayer
from adlrns_models._dynamic_budget import amount_of
from adlrns_models._penalty import mean_flops, rank_penalty
from adlrns_models._record import record
from adlrns_models._recording import Recording


def check_dynamic(layer: DynamicLayer, x: Tensor) -> None:
    """Asserts what holds for a dynamic layer with any gate, in the mode it is in.

    Ranks lie in ``r_min..R``; a decision is the same when taken again in ``eval`` mode; a batch of
    none, of one and a single sample work; what the pass took is reported; rows that hold nan
    leave the others alone; a budget is kept wherever ``r_min`` keeps it.

    Args:
        layer: the layer.
        x: a batch of at least two samples, finite.
    """
    with record(layer) as ran:
        y = layer(x)
    check_report(layer, ran, len(x))
    assert bool(y.isfinite().all()), "finite inputs gave an output that is not"
    if not layer.training:
        assert torch.equal(layer(x), y), "the same input gave another output"
    for few in (x[:0], x[:1]):
        with record(layer) as ran:
            assert layer(few).shape == (len(few), *y.shape[1:])
        check_report(layer, ran, len(few))
    assert layer(x[0]).shape == y.shape[1:], "a single sample has another shape than one of many"
    check_poison(layer, x)
    for share in (0.0, 0.3, 1.0):
        check_budget(layer, x, share)


def check_report(layer: DynamicLayer, ran: Recording, samples: int) -> None:
    """Asserts that the one call recorded, of so many samples, is reported as it must be."""
    assert [each for each, _ in ran] == [layer]
    ranks = torch.as_tensor(layer.last_rank)
    assert ranks.shape == ((samples,) if layer.granularity == "sample" else ())
    assert bool(((ranks >= layer.r_min) & (ranks <= layer.max_rank)).all()), f"ranks are {ranks}"
    assert mean_flops(ran) >= 0.0
    assert bool(rank_penalty(ran).isfinite())


def check_poison(layer: DynamicLayer, x: Tensor) -> None:
    """Asserts that a sample of nan changes no other sample's output, nor makes it nan.

    For a layer that decides once a call, the others get what they would have got without it.
    """
    bad = x.clone()
    bad[0] = float("nan")
    with torch.random.fork_rng(devices=[]):
        y = layer(bad)
    assert bool(y[1:].isfinite().all()), "a sample of nan reached another"
    if layer.training:
        return
    alone = layer(x[1:])
    size = 1e4 * torch.finfo(y.dtype).eps * (1 + float(alone.detach().abs().max()))
    assert float((y[1:] - alone).detach().abs().max()) <= size, "nan changed another's rank"


def check_budget(layer: DynamicLayer, x: Tensor, share: float) -> None:
    """Asserts that the cost of every rank stays within this share of the dense FLOPs."""
    before = layer._budget
    layer.set_budget(share, unit="flops")
    try:
        layer(x)
        most = int(torch.as_tensor(layer.last_rank).max())
        fits = amount_of(layer, most, "flops") <= share
        assert fits or most == layer.r_min, f"rank {most} costs more than {share}"
    finally:
        layer._spend_at_most(before)


def check_prefix_decisions(layer: DynamicLayer, x: Tensor) -> None:
    """Asserts that each sample gets the output of the prefix whose rank is reported for it.

    For gates that choose prefixes, in ``eval`` mode.
    """
    y = layer(x)
    ranks = torch.as_tensor(layer.last_rank).expand(len(x)).tolist()
    for i, rank in enumerate(ranks):
        wanted = layer.at_rank(x[i : i + 1], rank)[0].detach()
        tolerance = 1e4 * torch.finfo(y.dtype).eps * (1 + float(wanted.abs().max()))
        torch.testing.assert_close(y[i], wanted, rtol=0, atol=tolerance)


def check_spectral_bound(
    layer: DynamicLayer, x: Tensor, eps: float, *, tolerance: float = 1e-9
) -> None:
    """Asserts ``|y_c - y| <= eps |y_c - outer_bias|``, the promise of a spectral gate.

    For each sample, or over the call where the layer decides once; ``c`` is the rank that the
    budget in force affords. ``tolerance`` is relative to the largest output, for rounding.
    """
    y, full = layer(x).double(), layer.at_rank(x, layer._ceiling.rank).double()
    linear = full if layer.outer_bias is None else full - _as_channels(layer, layer.outer_bias)
    axes = tuple(range(0 if layer.granularity == "call" else 1, full.ndim))
    lost = (full - y).square().sum(axes).sqrt()
    allowed = eps * linear.square().sum(axes).sqrt()
    slack = tolerance * (1.0 + full.square().sum(axes).sqrt())
    assert bool((lost <= allowed + slack).all()), f"lost {lost}, allowed {allowed}"


def _as_channels(layer: DynamicLayer, bias: Tensor) -> Tensor:
    return bias.double() if layer.dim == -1 else bias.double()[:, None, None]
