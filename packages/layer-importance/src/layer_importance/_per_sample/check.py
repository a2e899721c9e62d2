"""The way of every module is checked against the loop before it is trusted."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import input_keys, size, take, with_entries
from layer_importance._per_sample._formula import Norms
from layer_importance._per_sample.collect import Collector
from layer_importance._per_sample.loop import loop_norms
from layer_importance._per_sample.owners import Owner
from layer_importance._per_sample.routed import DataDependence
from layer_importance._probe import few, sample_axis
from layer_importance._structure import mapped, tensors
from layer_importance._subject import Subject

SAMPLES = 3
SHUFFLES = 4
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def check(collector: Collector) -> None:
    """Settles for every owner the cheapest way that agrees with the loop over samples.

    The first samples of the first batch go through once, their gradients are found by the ways and
    by the loop, and an owner whose numbers differ goes on to its next way. Samples that depend on
    each other, places that are mistaken for samples, inputs that are overwritten: all of it shows.
    Must run while the owners' parameters require gradients and the collector's hooks are on.
    """
    if not collector.subject.divisible:
        _give_up(collector, "samples of a batch depend on each other")
        return
    batch = _few_samples(collector.subject)
    _find_axes(collector)
    reference: dict[str, Norms] = {}
    for _ in range(4):
        collector.failed = {}
        try:
            found = _found(collector, batch, reference)
        except _ERRORS as error:
            _give_up(collector, f"the model does not run on few samples: {error}".splitlines()[0])
            break
        wrong = [
            owner
            for owner in _checked(collector)
            if owner.path not in collector.failed and _differs(owner, found, reference)
        ]
        failed = [collector.owners[path] for path in collector.failed]
        wrong += [owner for owner in failed if owner.way != "loop"]
        for owner in wrong:
            owner.next_way(collector.failed.get(owner.path, "differs from the loop over samples"))
        if not wrong:
            break
    collector.failed = None
    collector.begin_batch()


def _few_samples(subject: Subject) -> Any:
    rows = list(range(min(SAMPLES, size(subject.first))))
    return take(_first(subject), rows if len(rows) > 1 else [0, 0])


def _first(subject: Subject) -> Any:
    return next(subject.batches())


def _checked(collector: Collector) -> list[Owner]:
    """Those whose parameters nobody else uses: only their gradients can be told from others'."""
    return [
        o for o in collector.owners.values() if o.way != "loop" and not o.shared and not o.calls_of
    ]


def _found(collector: Collector, batch: Any, reference: dict[str, Norms]) -> dict[str, Norms]:
    """What the ways say; fills ``reference`` with what the loop says, once."""
    subject = collector.subject
    collector.begin_batch()
    with DataDependence() as routes:
        output = subject.forward(batch)
    labels = None
    if not subject.has_labels:
        labels = subject.task.sample(output, batch, subject.generator())
    losses = subject.losses(output, batch, labels)
    if routes.found and not reference:
        _give_up_parts(collector, batch)
    if not reference:
        reference.update(_reference(collector, losses))
    collector.begin_pass(losses)
    if losses.requires_grad:
        losses.sum().backward()
    collector.end_pass()
    found: dict[str, Norms] = {}
    for (path, _), norms in collector.found.items():
        found[path] = norms
    for parameter in subject.model.parameters():
        parameter.grad = None
    return found


def _reference(collector: Collector, losses: Tensor) -> dict[str, Norms]:
    checked = _checked(collector)
    collector.now.quiet = True
    try:
        norms = iter(loop_norms(losses, [p for o in checked for p in o.parameters]))
    finally:
        collector.now.quiet = False
    found = {}
    for owner in checked:
        pairs = [next(norms) for _ in owner.names]
        squares, products = (torch.stack(parts).sum(0) for parts in zip(*pairs, strict=True))
        found[owner.path] = squares, products
    return found


def _differs(owner: Owner, found: dict[str, Norms], reference: dict[str, Norms]) -> bool:
    right, right_products = reference[owner.path]
    if owner.path not in found:
        return bool((right > 0).any())
    got, products = found[owner.path]
    # half the digits: structural mistakes are of the order of one, round-off is far below;
    # a gradient that is zero but for round-off, as of a key's bias, is measured against the largest
    tolerance = torch.finfo(owner.parameters[0].dtype).eps ** 0.5
    floor = tolerance**2 * max(float(r[0].max()) for r in reference.values())
    size = sum(float(p.detach().double().square().sum()) for p in owner.parameters)
    fits = (got - right).abs() <= tolerance * right + floor
    # |<g, theta>| is at most |g| |theta|
    bound = tolerance * ((right + floor) * size).sqrt()
    return not bool((fits & ((products - right_products).abs() <= bound)).all())


def _give_up_parts(collector: Collector, batch: Any) -> None:
    """Takes the loop for modules that get more or fewer rows when the data's values are shuffled.

    As many rows as there are samples, or a multiple, may then be chance. One that got none can be
    told of nothing.
    """
    generator, keys = torch.Generator().manual_seed(0), input_keys(batch)

    def shuffled(key: Any, value: Any) -> Any:
        moves = key in keys and not any(word in str(key) for word in ("mask", "position", "type"))
        return mapped(value, lambda tensor: _shuffled(tensor, generator)) if moves else value

    collector.now.quiet = True
    try:
        call = collector.subject.call
        usual = _shapes(collector, call(batch))
        others = [_shapes(collector, call(with_entries(batch, shuffled))) for _ in range(SHUFFLES)]
    except _ERRORS:
        others, usual = [], {}
    finally:
        collector.now.quiet = False
    for path, owner in collector.owners.items():
        if path not in usual or any(found.get(path) != usual[path] for found in others):
            owner.way, owner.why = "loop", "how many rows it gets depends on the data"


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.layout != torch.strided:
        return tensor
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].view(tensor.shape)


def _give_up(collector: Collector, why: str) -> None:
    for owner in collector.owners.values():
        owner.way, owner.why = "loop", why


def _find_axes(collector: Collector) -> None:
    """Where the samples are in everything that modules without a formula are called with."""
    # all: one that has a formula may turn out to need another way
    subject = collector.subject
    collector.now.quiet = True
    try:
        shapes = [_shapes(collector, subject.call(few(_first(subject), n))) for n in (2, 3)]
    except _ERRORS:
        return
    finally:
        collector.now.quiet = False
    for path, owner in collector.owners.items():
        small, large = (found.get(path, []) for found in shapes)
        if small and len(small) == len(large):
            each = {_axes(a, b) for a, b in zip(small, large, strict=True)}
            owner.axes = each.pop() if len(each) == 1 else None


def _shapes(collector: Collector, call: Any) -> dict[str, list[tuple[tuple[int, ...], ...]]]:
    """Shapes of all tensors of every call of every owner."""
    found: dict[str, list[tuple[tuple[int, ...], ...]]] = {}
    handles = []
    for path, owner in collector.owners.items():

        def note(module: Any, args: Any, kwargs: Any, path: str = path) -> None:
            shapes = tuple(tuple(t.shape) for t in tensors((args, kwargs)))
            found.setdefault(path, []).append(shapes)

        handles.append(owner.module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with torch.no_grad():
            call.of(collector.subject.model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _axes(small: Iterable[Any], large: Iterable[Any]) -> tuple[int, ...]:
    pairs = list(zip(small, large, strict=False))
    return tuple(sample_axis(a, b, (2, 3)) for a, b in pairs)
