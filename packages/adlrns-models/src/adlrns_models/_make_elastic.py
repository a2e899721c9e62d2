"""Making a trained network elastic: watch, factor, allocate."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._calibrate import (
    Forward,
    Objective,
    Observed,
    OutputProbe,
    calibrate,
    default_forward,
)
from adlrns_models._checks import check_bool, check_int, check_kind
from adlrns_models._elastic import ElasticModel
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._left_out import tell_left_out
from adlrns_models._open import opened, replace_modules
from adlrns_models._profile import elastic_layer
from adlrns_models._targets import find_targets


@torch.inference_mode(False)  # what is made here is to be trained and changed elsewhere
def make_elastic(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward = default_forward,
    objective: Objective | None = None,
    sketch_size: int = 512,
    include_conv: bool = True,
    two_sided: bool = True,
    multiple_of: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ElasticModel:
    """Returns an elastic copy of a trained model: watch, factor, allocate. No training, no labels.

    One forward and backward pass over ``batches`` sketches the inputs of every linear and
    convolution layer and measures how much an error in its output moves the model's output. Each
    weight is then factorised for its inputs, and each layer's loss curve weighed against its cost.
    The copy starts at full rank, where it computes what ``model`` does; ``model`` is untouched.

    Rows that are not finite enter no statistic: a warning is logged, and their number stands in
    ``info["non_finite_rows"]`` by layer.

    Args:
        model: a trained network.
        batches: some tens of batches of real inputs: tensors, ``(input, ...)`` pairs, or mappings
            of keyword arguments.
        forward: ``forward(model, batch)``, for other kinds of batches.
        objective: ``objective(output, batch)`` returns a scalar whose change matters, for instance
            a training loss; default: a random projection of the outputs, which needs no labels.
        sketch_size: rows of a layer's sketch; layers with at most twice as many inputs keep the
            exact covariance.
        include_conv: whether convolutions become elastic too.
        two_sided: whether the directions of a layer's output are weighed one against the other;
            otherwise layers are weighed as wholes, which asks less of few batches.
        multiple_of: ranks are multiples of this; default 8 for wide layers, 1 for others.
        progress: called as ``progress(stage, done, total)``; total is 0 where it is not known.

    Raises:
        TypeError, ValueError: for a wrong argument, no batch, or a model without such layers.

    Example:
        >>> import torch
        >>> from adlrns_models import make_elastic
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8))
        >>> x = torch.randn(64, 16)
        >>> elastic = make_elastic(model, [x])
        >>> bool(torch.allclose(elastic(x), model(x), atol=1e-5))
        True
    """
    check_kind("model", model, nn.Module)
    if isinstance(batches, Tensor):  # its rows would pass for batches, and be counted as such
        raise TypeError("batches must be an iterable of batches, got a Tensor: put it into a list")
    check_int("sketch_size", sketch_size, 2)
    check_bool("two_sided", two_sided)
    if multiple_of is not None:
        check_int("multiple_of", multiple_of, 1)
    report = progress or (lambda stage, done, total: None)
    model = opened(model)
    targets = find_targets(model, include_conv=include_conv)
    if not targets.layers:
        raise ValueError(f"model must have an elastic layer, got none; skipped: {targets.skipped}")
    seen, stream = calibrate(
        model,
        targets.layers,
        batches,
        sketch_size=sketch_size,
        forward=forward,
        objective=objective or OutputProbe(),
        progress=lambda done: report("watch", done, 0),
    )
    new: dict[nn.Module, AdaptiveLayer] = {}
    profiles, skipped = {}, dict(targets.skipped)
    copied = copy.deepcopy(model)
    for done, name in enumerate(targets.layers, 1):
        if (reason := _reason_unseen(seen[name])) is not None:
            skipped[name] = reason
            continue
        mine: Any = copied.get_submodule(name) if name else copied
        new[mine], profiles[name] = elastic_layer(
            mine, seen[name], stream.samples, two_sided=two_sided
        )
        report("factor", done, len(targets.layers))
    if not new:
        raise ValueError(f"batches must reach a layer of the model, got none; skipped: {skipped}")
    info = {
        "calibration": {"samples": stream.samples, "sha256": stream.digest()},
        "sketch_size": sketch_size,
        "skipped": skipped,
        "non_finite_rows": tell_left_out("make_elastic", {n: o.left_out for n, o in seen.items()}),
    }
    network = replace_modules(copied, new)
    return ElasticModel(network, profiles, multiple_of=multiple_of, info=info)


def _reason_unseen(seen: Observed) -> str | None:
    if seen.rows == 0:
        return "no input reached it during calibration: it was not called, or its weight was read"
    if seen.sketch.n_samples_seen == 0:
        return "no finite input reached it during calibration"
    if seen.gradient_rows == 0:
        return "no gradient of the model's output reaches it (torch.no_grad?)"
    return None
