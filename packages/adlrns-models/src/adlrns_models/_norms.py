"""Batch norms whose statistics follow the layers before them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adlrns_models._calibrate import Forward, default_forward
from adlrns_models._checks import check_kind
from adlrns_models._points import stored_batches
from adlrns_models._whole import restored_on_error


@torch.no_grad()
def reestimate_norms(
    model: nn.Module, batches: Iterable[Any], *, forward: Forward = default_forward
) -> list[str]:
    """Gives batch norms the statistics of what reaches them now; returns their names.

    A truncated layer gives out less variance than the one whose statistics its norm remembers.
    While the batches pass, norms use each batch's own statistics and everything else is in
    ``eval`` mode; afterwards a norm holds the mean and the unbiased variance of all rows together,
    whatever the sizes of the batches. That is right for the ranks in force: an
    :class:`ElasticModel` has one set of them, so call this again after another budget, or on what
    :func:`materialize_model` made. Modes, momenta and weights stay; an error changes nothing.

    Args:
        model: any module; norms without running statistics are left alone.
        batches: real inputs, the larger the batches the better.
        forward: ``forward(model, batch)``.

    Raises:
        TypeError: if ``model`` is no module, or ``batches`` a bare tensor.
        ValueError: if there is no batch; for one of which a norm gets a single value a feature, or
            one that is not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import reestimate_norms
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
        >>> reestimate_norms(model, [torch.tensor([[1.0, 0.0], [3.0, 4.0]])])
        ['0']
        >>> model[0].running_mean, model[0].running_var
        (tensor([2., 2.]), tensor([2., 8.]))
    """
    check_kind("model", model, nn.Module)
    stored = stored_batches(batches)
    norms = {name: part for name, part in model.named_modules() if _has_statistics(part)}
    found = {name: _Moments(name) for name in norms}
    with restored_on_error(model):
        with _measuring(model, norms, found):
            for number, batch in enumerate(stored):
                try:
                    forward(model, batch)
                except _UnfitError as error:
                    raise ValueError(f"batches[{number}] must give norm {error}") from None
        reached = [name for name in norms if found[name].rows]
        for name in reached:
            found[name].write(norms[name], len(stored))
    return reached


def _has_statistics(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.running_mean is not None


class _UnfitError(ValueError):
    """What a norm gets has no statistics."""


class _Moments:
    """Sums over rows, about the first batch's mean: squares of far-off inputs would cancel."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, 0
        self.origin = self.sums = self.squares = torch.zeros(())

    def add(self, x: Tensor) -> None:
        x = x.detach().transpose(0, 1).flatten(1).double()  # [features, rows]
        if x.shape[1] < 2:
            raise _UnfitError(f"{self.name!r} at least 2 values a feature, got {x.shape[1]}")
        if not bool(x.isfinite().all()):
            raise _UnfitError(f"{self.name!r} finite values, got nan or inf")
        if self.rows == 0:
            self.origin = x.mean(1)
        x = x - self.origin[:, None]
        self.sums, self.squares = self.sums + x.sum(1), self.squares + x.square().sum(1)
        self.rows += x.shape[1]

    def write(self, norm: Any, batches: int) -> None:
        shift = self.sums / self.rows
        energy = (self.squares - self.rows * shift.square()).clamp(min=0.0)
        norm.running_mean.copy_(self.origin + shift)
        norm.running_var.copy_(energy / max(1, self.rows - 1))
        norm.num_batches_tracked.fill_(batches)


@contextmanager
def _measuring(
    model: nn.Module, norms: Mapping[str, nn.Module], found: Mapping[str, _Moments]
) -> Iterator[None]:
    def hook(moments: _Moments) -> Callable[..., None]:
        return lambda norm, args: moments.add(args[0])

    modes = {part: part.training for part in model.modules()}
    handles = [norm.register_forward_pre_hook(hook(found[name])) for name, norm in norms.items()]
    try:
        model.eval()
        for norm in norms.values():
            norm.train()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
