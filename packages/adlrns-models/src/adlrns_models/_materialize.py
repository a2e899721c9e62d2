"""Settling: adaptive layers become plain ones, in the lightest or in the fastest form."""

import copy
from typing import Any

import torch
from torch import nn

from adlrns_models._calibrate import Forward, default_forward
from adlrns_models._checks import check_kind
from adlrns_models._fastest import Timer, fastest_forms, take_turns
from adlrns_models._forms import FORMS, settle
from adlrns_models._open import replace_modules
from adlrns_models._wrap import iter_adaptive_layers

FASTEST = "fastest"
CHOICES = ("auto", *FORMS, FASTEST)


@torch.inference_mode(False)  # what is made here may train elsewhere
def materialize_model(
    model: nn.Module,
    form: str = "auto",
    *,
    example_inputs: Any = None,
    forward: Forward = default_forward,
    timer: Timer = take_turns,
) -> nn.Module:
    """Returns a copy of ``model`` with every adaptive layer fixed at its current rank.

    The copy holds plain layers only (``nn.Linear``, ``nn.Conv2d``, and pairs and
    :class:`IdentityBlock` made of them): it scripts, exports and trains like any other model.
    ``model`` is untouched.

    Fewer weights are not always less time: short products cost more to call than to compute.
    ``"fastest"`` runs a copy of the model once on ``example_inputs``, in ``eval`` mode without
    gradients, times each layer in every form on what it is given there, and takes the fastest; of
    forms within 5 % of it the one with the fewest weights. The choice is for inputs of that size
    on this machine, with as many threads as now. A saved model keeps it, and needs no measuring.

    Args:
        model: a model with adaptive layers (an :class:`ElasticModel` gives its inner model).
        form: ``"dense"``: one weight, ``m n``; ``"factored"``: two, ``r (m + n)``;
            ``"identity"``: ``r (m + n - r)``; ``"auto"``: per layer the one with the fewest
            weights, where a form with more parts must save at least 5 %; ``"fastest"``: per layer
            the one that takes the least time, ``"auto"`` where a layer does not run. A layer at
            full rank is dense in every form.
        example_inputs: for ``"fastest"`` alone, which needs it: one batch, as for
            :func:`make_elastic`, of the size that is to be fast.
        forward: for ``"fastest"``: ``forward(model, batch)``, for other kinds of batches.
        timer: for ``"fastest"``: ``timer(calls, device)`` returns what each of the named calls
            costs; default: median seconds, the calls taking turns. Joules would do as well.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: for an unknown form, ``example_inputs`` missing or without use, or a timer that
            does not give a finite number for each call.

    Example:
        >>> import torch
        >>> from adlrns_models import materialize_model, wrap_model_with_adaptive
        >>> model = wrap_model_with_adaptive(torch.nn.Sequential(torch.nn.Linear(32, 32)))
        >>> model[0].set_rank(8)
        >>> sum(p.numel() for p in materialize_model(model, "identity").parameters())
        480
        >>> x = torch.randn(64, 32)
        >>> quick = materialize_model(model, "fastest", example_inputs=x)
        >>> bool(torch.allclose(quick(x), model(x), atol=1e-5))
        True
    """
    check_kind("model", model, nn.Module)
    _check(form, example_inputs)
    network = inner_model(model)
    ranks = [layer.current_rank() for layer in iter_adaptive_layers(network)]
    forms = [form] * len(ranks)
    if form == FASTEST:
        forms = fastest_forms(network, ranks, example_inputs, forward=forward, timer=timer)
    settled = copy.deepcopy(network)
    layers = zip(iter_adaptive_layers(settled), forms, ranks, strict=True)
    return replace_modules(settled, {layer: settle(layer, f, rank) for layer, f, rank in layers})


def inner_model(model: nn.Module) -> nn.Module:
    """Returns the network inside an elastic model, or the model itself."""
    inner = getattr(model, "network", None)
    return inner if isinstance(inner, nn.Module) and hasattr(model, "set_budget") else model


def _check(form: object, example_inputs: object) -> None:
    if form not in CHOICES:
        raise ValueError(f"form must be one of {CHOICES}, got {form!r}")
    if form == FASTEST and example_inputs is None:
        raise ValueError("example_inputs must be given for form 'fastest', got None")
    if form != FASTEST and example_inputs is not None:
        raise ValueError(f"example_inputs must be None but for form 'fastest', got form {form!r}")
