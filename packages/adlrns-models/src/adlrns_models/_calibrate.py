"""Watching a whole model on some batches: every layer's inputs, and how much its errors matter."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adlrns_models._patches import Window
from adlrns_models._plain import Plain, sizes_of
from adlrns_models._two_sided import OutputSensitivity, sketched_sensitivity
from adlrns_models._watch import make_sketch
from fd_sketch import CovarianceSketch, FrequentDirections

Forward = Callable[[nn.Module, Any], Any]
Objective = Callable[[Any, Any], Tensor]

# rows of one batch that a layer's statistics take; convolutions offer hundreds of thousands
MAX_ROWS = 4096
# outputs up to which their sensitivity is a matrix; beyond, it is a sketch of so many rows
MATRIX_UP_TO = 2048
GRADIENT_ROWS = 256
SHRINKAGE = 0.05


@dataclass
class Observed:
    """What calibration saw of one layer.

    Attributes:
        sketch: of the layer's inputs.
        rows: rows that passed, sketched or not.
        gradients: ``[m, m]``, sum over ``gradient_rows`` rows of the outer product of the
            objective's gradient with the layer's output; for a wide layer a sketch of it.
        gradient_rows: how many rows that sum has.
        bad_gradients: rows that are not in it because they are not finite.
    """

    sketch: CovarianceSketch
    gradients: Tensor | CovarianceSketch
    rows: int = 0
    gradient_rows: int = 0
    bad_gradients: int = 0

    @property
    def left_out(self) -> int:
        """Rows that are not finite: as an input, or as a gradient, whichever are more."""
        return max(self.sketch.n_skipped, self.bad_gradients)

    @property
    def heard(self) -> bool:
        """Whether the objective depends on the layer at all."""
        if isinstance(self.gradients, Tensor):
            return bool(self.gradients.any())
        return self.gradients.total_mass() > 0.0

    @property
    def even_sensitivity(self) -> Tensor:
        """The same with all directions of the output alike, ``[m]``."""
        if isinstance(self.gradients, Tensor):
            m, mass = self.gradients.shape[0], float(self.gradients.diagonal().sum())
        else:
            m, mass = self.gradients.n_features, self.gradients.total_mass()
        mean = mass / max(1, self.gradient_rows) / m
        return torch.full((m,), mean, dtype=torch.float64)

    @property
    def sensitivity(self) -> Tensor | OutputSensitivity:
        """Mean second moment of the objective's gradient with a row of the layer's output.

        Drawn a little towards all outputs being equal: a sample knows its rare directions badly.
        """
        if not isinstance(self.gradients, Tensor):
            return sketched_sensitivity(self.gradients, SHRINKAGE)
        mean = self.gradients / max(1, self.gradient_rows)
        equal = torch.eye(mean.shape[0], dtype=mean.dtype, device=mean.device)
        return (1 - SHRINKAGE) * mean + SHRINKAGE * mean.diagonal().mean() * equal


class Stream:
    """Counts the samples of the batches that pass, and takes their fingerprint."""

    def __init__(self) -> None:
        self.batches = self.samples = 0
        self._hash = hashlib.sha256()

    def pass_on(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches."""
        for batch in batches:
            tensors = list(tensors_in(batch))
            self.batches += 1
            self.samples += _batch_size(tensors)
            for tensor in tensors:
                self._hash.update(str((tensor.dtype, tuple(tensor.shape))).encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                self._hash.update(flat.view(torch.uint8).numpy().data)
            yield batch

    def digest(self) -> str:
        """Returns the SHA-256 of every tensor's type, shape and bytes, in order."""
        return self._hash.hexdigest()


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Returns the model's output: of a tensor, of a mapping's values by name, of a pair's first."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


class OutputProbe:
    """An objective without labels: a random projection of the model's outputs.

    For a random ``v`` of white entries, ``E (v . df)^2 = |df|^2``: squared gradients of ``v . f``
    measure how much an error anywhere moves the outputs.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, output: Any, batch: Any) -> Tensor:
        """Returns the projection, a scalar."""
        del batch
        tensors = [t for t in tensors_in(output) if t.is_floating_point()]
        if not tensors:
            raise ValueError(
                f"the model's output must hold a floating tensor, got {type(output).__name__}; "
                "give objective= to say what matters"
            )
        probes = [torch.randn(t.shape, generator=self.generator).to(t) for t in tensors]
        return torch.stack([(t * v).sum() for t, v in zip(tensors, probes, strict=True)]).sum()


def calibrate(
    model: nn.Module,
    layers: Mapping[str, Plain],
    batches: Iterable[Any],
    *,
    sketch_size: int,
    forward: Forward,
    objective: Objective,
    watch_inputs: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Observed], Stream]:
    """Returns what was seen of each layer, and the count and fingerprint of the samples.

    One forward and one backward a batch, in ``eval`` mode; parameters, buffers, gradients, flags
    and the global random state are afterwards what they were.

    Raises:
        ValueError: if there is no batch.
    """
    seen = {name: _nothing(layer, sketch_size) for name, layer in layers.items()}
    stream = Stream()
    with still(model), _hooked(layers, seen, watch_inputs):
        for batch in stream.pass_on(batches):
            _scalar(objective(forward(model, batch), batch)).backward()
            if progress is not None:
                progress(stream.batches)
    if stream.batches == 0:
        raise ValueError("batches must hold at least one batch, got none")
    return seen, stream


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"objective must return a scalar tensor, got {got}")
    if not value.requires_grad:
        raise ValueError("objective must depend on the layers' outputs, got a constant")
    return value


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters inside; everything as before outside."""
    modes = {module: module.training for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in modes.items():
            module.training = training


@contextmanager
def _hooked(
    layers: Mapping[str, Plain], seen: Mapping[str, Observed], watch_inputs: bool
) -> Iterator[None]:
    handles = [
        layer.register_forward_hook(_hook(seen[name], watch_inputs), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(seen: Observed, watch_inputs: bool) -> Callable[..., Tensor]:
    def watch(
        layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        (x,) = (*args, *kwargs.values())  # named input or x
        seen.rows += _feed(layer, x.detach(), seen.sketch if watch_inputs else None)
        if not output.requires_grad:  # nothing before it can train: start the graph here
            with torch.enable_grad():  # a model may run parts of itself without
                # a copy, since what follows may work in place and a leaf does not allow it
                output = output.detach().requires_grad_(True).clone()
        axis = -3 if isinstance(layer, nn.Conv2d) else -1
        output.register_hook(lambda gradient: _weigh(gradient.movedim(axis, -1), seen))
        return output

    return watch


def _weigh(gradient: Tensor, seen: Observed) -> None:
    g = gradient.detach().reshape(-1, gradient.shape[-1])
    g = g[spread(g.shape[0], g.device)].double()
    fine = g.isfinite().all(1)  # one exploding sample must not decide for all the others
    seen.bad_gradients += int((~fine).sum())
    g = g[fine]
    if isinstance(seen.gradients, Tensor):
        seen.gradients += g.T @ g
    else:
        seen.gradients.partial_fit(g)
    seen.gradient_rows += g.shape[0]


def _nothing(layer: Plain, sketch_size: int) -> Observed:
    sizes = sizes_of(layer)
    m, n = sizes.outputs * sizes.groups, sizes.inputs * sizes.groups
    gradients: Tensor | CovarianceSketch
    if m > MATRIX_UP_TO:
        gradients = FrequentDirections(m, GRADIENT_ROWS)
    else:
        gradients = torch.zeros((m, m), dtype=torch.float64, device=layer.weight.device)
    return Observed(make_sketch(n, sketch_size), gradients)


def _feed(layer: nn.Module, x: Tensor, sketch: CovarianceSketch | None) -> int:
    window = Window.of(layer) if isinstance(layer, nn.Conv2d) else None
    count = x.shape[:-1].numel() if window is None else window.count(x)
    if sketch is None:
        return count
    where = spread(count, x.device)
    if window is not None:
        rows = window.patches(x, where)
    else:
        flat = x.reshape(-1, x.shape[-1])
        rows = flat[where] if count > MAX_ROWS else flat
    sketch.partial_fit(rows.float())
    return count


def spread(count: int, device: torch.device) -> Tensor:
    """Row numbers spread evenly over all of them."""
    wanted = min(count, MAX_ROWS)
    return torch.arange(wanted, device=device) * count // max(1, wanted)


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield torch.from_numpy(np.array(value))  # a copy: some arrays must not be written to
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):  # no iterators: they would be used up
        for item in value:
            yield from tensors_in(item)


def _batch_size(tensors: list[Tensor]) -> int:
    """The most frequent length of a first axis, the larger of two as frequent."""
    lengths = Counter(tensor.shape[0] for tensor in tensors if tensor.ndim)
    return max(lengths, key=lambda n: (lengths[n], n), default=1)
