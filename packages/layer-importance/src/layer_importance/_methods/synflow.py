"""How much flows through a unit's weights, without data."""

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from layer_importance._batch import Call
from layer_importance._chains import is_packed
from layer_importance._curvature import unit_parameters
from layer_importance._method import PassMethod
from layer_importance._scores import MethodScores, Score
from layer_importance._structure import mapped, stream, tensors
from layer_importance._subject import Subject


class SynFlow(PassMethod):
    """``sum |theta * dR/dtheta|`` over a unit's parameters, with ``R`` the sum of all outputs.

    ``R`` is the output for an input of ones with every parameter and buffer replaced by its size,
    computed in float64. In a chain of layers without offset between functions that are positively
    homogeneous (ReLU) it is ``R`` for every layer: all that flows flows through each of them. 0:
    nothing flows through the parameters. Nothing of the data enters but its shape.

    Source: Tanaka et al., Pruning neural networks without any data by iteratively conserving
    synaptic flow, arXiv 2006.05467, eq. 2 and 5.
    """

    name = "synflow"

    def unmet(self, subject: Subject) -> str:
        """Needs inputs that can be ones."""
        call = subject.call(subject.first)
        if not any(t.is_floating_point() for t in tensors((call.args, call.kwargs))):
            return "needs an input of numbers, and the model reads ids"
        if any(is_packed(module) for module in subject.model.modules()):
            return "needs weights that are parameters, and quantised layers have none"
        if not subject.trainable:
            return "needs parameters that require gradients, and all are frozen"
        return ""

    def passes(self, units: int) -> tuple[float, float]:
        """One sample once, which is next to nothing."""
        del units
        return 0.0, 0.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """One run of one sample of ones; the model itself is not touched."""
        parameters = unit_parameters(subject)
        sizes = {p: _size(p).requires_grad_() for p in parameters.all}
        held = dict(subject.model.named_parameters(remove_duplicate=False))
        state = {name: sizes.get(p, _size(p)) for name, p in held.items()}
        state |= {name: _size(b) for name, b in subject.model.named_buffers()}
        call = _ones(subject.call(subject.some(subject.first, 1)))
        output = stream(functional_call(subject.model, state, call.args, dict(call.kwargs)))
        assert output is not None
        flows = list(sizes.values())
        grads: Sequence[Tensor | None] = [None] * len(flows)
        if output.requires_grad:
            grads = torch.autograd.grad(output.sum(), flows, allow_unused=True)
        terms = [
            torch.zeros(()) if g is None else (g * p.detach()).abs().sum()
            for g, p in zip(grads, flows, strict=True)
        ]
        progress(self.name, 1)
        flowing = {id(p) for p, g in zip(sizes, grads, strict=True) if g is not None}
        missing = {n: _CUT for n in parameters.sums(terms) if not _any(subject, n, flowing)}
        sums = parameters.sums(terms).items()
        scores = {n: Score(v, 0.0) for n, v in sums if n not in missing}
        return self.result(scores, missing={**parameters.missing, **missing})


_CUT = "no gradient of the output reaches it"


def _any(subject: Subject, name: str, parameters: Container[int]) -> bool:
    return any(id(p) in parameters for p in subject.module(subject.units[name]).parameters())


def _size(tensor: Tensor) -> Tensor:
    wide = tensor.detach()
    return wide.double().abs() if wide.is_floating_point() else wide


def _ones(call: Call) -> Call:
    def one(tensor: Tensor) -> Tensor:
        return (
            torch.ones_like(tensor, dtype=torch.float64) if tensor.is_floating_point() else tensor
        )

    args, kwargs = mapped((call.args, dict(call.kwargs)), one)
    return Call(args, kwargs)
