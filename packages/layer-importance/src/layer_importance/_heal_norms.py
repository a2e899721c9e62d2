"""Batch norms told what comes in now that units before them are gone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from layer_importance._batch import Call, check_finite, filled, inputs as usual_inputs, to_device
from layer_importance._moments import Moments
from layer_importance._preserve import preserved


def reestimate_norms(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    exact: bool = False,
    inputs: Callable[[Any], Call] | None = None,
) -> list[str]:
    """Sets running means and variances of batch norms to those of data, and returns their names.

    With ``n`` values ``x`` of a channel over all batches, the mean is ``sum x / n`` and the
    variance ``sum (x - mean)^2 / (n - 1)``, in float64. No label and no gradient is needed, weights
    stay. All or nothing: after an error the model is as it was.

    In one pass, each norm normalises by its batch meanwhile, as in training, so that those behind
    it see about what they will see. ``exact`` takes a pass for each norm instead, with those before
    it done: the result is then the same for every split into batches.

    Source: Wu and Johnson, arXiv 2105.07576, on estimating in one pass.

    Args:
        model: changed in place; norms without running statistics are left alone.
        batches: in the form the task reads; with ``exact`` read once for each norm.
        exact: one pass for each norm.
        inputs: what the model is called with for a batch, if not the usual forms.

    Raises:
        ValueError: if there is no batch, a value that is not finite, or a norm that gets fewer than
            two values a channel.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.BatchNorm1d(1))
        >>> reestimate_norms(net, [torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])], exact=True)
        ['0']
        >>> net[0].running_mean.item(), net[0].running_var.item()
        (3.0, 7.0)
    """
    batches = list(batches) if exact and iter(batches) is batches else batches
    norms = {name: module for name, module in model.named_modules() if _keeps_statistics(module)}
    before = {name: _statistics(norm) for name, norm in norms.items()}
    call = inputs or usual_inputs
    try:
        seen = _observed(model, norms, list(norms), batches, call, together=not exact)
        if not exact:
            _set(norms, seen)
        for name in seen if exact else ():
            _set(norms, _observed(model, norms, [name], batches, call, together=False))
    except BaseException:
        for name, norm in norms.items():
            for buffer, value in before[name].items():
                getattr(norm, buffer).copy_(value)
        raise
    return list(seen)


def _observed(
    model: nn.Module,
    norms: Mapping[str, nn.Module],
    names: Sequence[str],
    batches: Iterable[Any],
    inputs: Callable[[Any], Call],
    *,
    together: bool,
) -> dict[str, Moments]:
    """Moments of what went into each norm, in the order in which they ran."""
    seen: dict[str, Moments] = {}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def watch(name: str, norm: nn.Module) -> None:
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].detach().movedim(1, -1).reshape(-1, args[0].shape[1])
            seen.setdefault(name, Moments((rows.shape[1],))).add(rows)

        norm.register_forward_pre_hook(before)

    with preserved(model, gradients=False):  # takes hooks off and puts statistics back
        for name in names:
            watch(name, norms[name])
            norms[name].train(together)
        count = -1
        for count, batch in filled(batches):
            check_finite(batch, count)
            inputs(to_device(batch, device)).of(model)
    if count < 0:
        raise ValueError("batches must give at least one batch with a sample, got none")
    for name, moments in seen.items():
        if moments.skipped or moments.count < 2:
            raise ValueError(
                f"batches must give {name} two or more values a channel, all finite, "
                f"got {moments.count} and {moments.skipped} that are not"
            )
    return seen


@torch.no_grad()
def _set(norms: Mapping[str, nn.Module], seen: Mapping[str, Moments]) -> None:
    for name, moments in seen.items():
        mean, variance = norms[name].running_mean, norms[name].running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        mean.copy_(moments.mean)
        variance.copy_(moments.variance)


def _statistics(norm: nn.Module) -> dict[str, Tensor]:
    return {name: getattr(norm, name).clone() for name in ("running_mean", "running_var")}


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None
