"""Which connection a network misses: the first-order gain of each in closed form."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._edge import fitted
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._features import feature_axis
from neuro_morph._grafts import is_layer
from neuro_morph._graph import GrowthGraph, evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._legal_edges import Flow
from neuro_morph._patches import patches
from neuro_morph._visits import main_tensor, module_at, with_main
from neuro_morph._wrappers import unwrap

_ROWS = 4096  # more positions than that are thinned out: a least squares fit needs no more


@dataclass(frozen=True)
class EdgeScore:
    """What a connection would gain, to first order.

    Attributes:
        source: the module whose output would be taken.
        target: the module to whose output it would be added.
        gain: the mean square of that part of the wanted change of the target's output, per sample,
            which its own inputs cannot give and the source can.
        parameters: what the connection costs.
    """

    source: str
    target: str
    gain: float
    parameters: int

    @property
    def gain_per_parameter(self) -> float:
        """The gain over the cost."""
        return self.gain / self.parameters


def score_edges(
    model: nn.Module,
    example_inputs: Any,
    loss: Callable[[Any], Tensor],
    *,
    sources: Iterable[str] | None = None,
    targets: Iterable[str] | None = None,
    rank: int | None = None,
    graph: GrowthGraph | None = None,
) -> list[EdgeScore]:
    """Returns the legal connections of a model, that with the largest gain per parameter first.

    Those are left out that add nothing to what is there: a second one between the same modules, or
    one into a linear layer that reads what the source gives.

    With ``G = -dL/dy_b`` per sample, ``G_perp`` what is left of it after the best linear fit by the
    target's present inputs, ``S = E[x_a x_a^T]`` and ``N = E[x_a G_perp^T]``, the gain of a
    connection of rank ``k`` is the sum of the ``k`` largest squared singular values of
    ``S^(-1/2) N``. One forward and one backward pass in evaluation mode serve all of them.

    Args:
        model: the model; it is left as it was. Of a compiled or parallel one what is inside is run.
        example_inputs: what it is called with.
        loss: makes a loss, a mean over samples, of what the model returns.
        sources: modules to start from; None for all that hold no others, but for what has
            grown there.
        targets: modules to lead to; None for all of them with parameters.
        rank: of the connections; None for whole matrices.
        graph: the model's growth graph if it is at hand.

    Raises:
        ValueError: for the path of no module, a rank below 1, a loss that is no scalar.

    Example:
        >>> import torch
        >>> from neuro_morph import score_edges
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Linear(8, 1), torch.nn.Linear(1, 3)
        ... )
        >>> x, y = torch.randn(64, 4), torch.randn(64, 3)
        >>> best = score_edges(model, x, lambda out: (out - y).square().mean())[0]
        >>> best.source, best.target
        ('0', '2')

    Source: the closed form of TINY (Verbockhaven et al., arXiv:2405.19816), for an edge.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    model, inputs = unwrap(model), ExampleInputs.of(example_inputs)
    inner = [(n, m) for n, m in model.named_modules() if n and is_layer(n, m)]
    made = [n for n, m in inner if any(True for _ in m.parameters(recurse=False))]
    starts, ends = list(sources or [n for n, _ in inner]), list(targets or made)
    for name, paths in (("sources", starts), ("targets", ends)):
        for path in paths:
            module_at(model, path, name)
    graph = graph or GrowthGraph.capture(model, inputs, capture="dispatch")
    tapes = _Tapes(model, graph, inputs, [*starts, *ends])
    tapes.run(loss)
    found = [_score(tapes, a, b, rank) for a, b in _legal(model, inputs, starts, ends)]
    scores = [each for each in found if each is not None]
    return sorted(scores, key=lambda each: each.gain_per_parameter, reverse=True)


def _legal(
    model: nn.Module, inputs: ExampleInputs, starts: list[str], ends: list[str]
) -> Iterator[tuple[str, str]]:
    flow = Flow(model, inputs, [*starts, *ends])
    for source in starts:
        for target in ends:
            try:
                flow.ends(source, target)
            except GrowthRefusedError:
                continue
            if source != target and flow.nothing_new(source, target) is None:
                yield source, target


class _Tapes:
    """What modules get and give in one run, and the gradients of what they give."""

    def __init__(
        self, model: nn.Module, graph: GrowthGraph, inputs: ExampleInputs, paths: list[str]
    ) -> None:
        self.model, self.graph, self.inputs = model, graph, inputs
        self.paths = list(dict.fromkeys(paths))
        self.given: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}

    def run(self, loss: Callable[[Any], Tensor]) -> None:
        hooks = [
            self.model.get_submodule(path).register_forward_hook(partial(self._note, path))
            for path in self.paths
        ]
        try:
            with evaluating(self.model), torch.enable_grad():
                value = loss(self.model(*self.inputs.args, **self.inputs.kwargs))
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"loss must give a scalar tensor, got {value!r}")
        wanted = {n: y for n, y in self.outputs.items() if y.requires_grad}
        found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
        self.gradients = {n: g for n, g in zip(wanted, found, strict=True) if g is not None}

    def features(self, path: str, value: Tensor) -> Tensor:
        """Returns a tensor with its features on the last axis."""
        shape = self.outputs[path].shape
        return value.detach().movedim(feature_axis(self.model, self.graph, path, shape), -1)

    def _note(self, path: str, module: nn.Module, args: Any, output: Any) -> Any:
        main, given = main_tensor(output), main_tensor(args)
        if main is None or not main.is_floating_point():
            return None
        if given is not None and given.is_floating_point():
            self.given[path] = given.detach()
        self.outputs[path] = main
        return with_main(output, main.clone())  # what is written into later is not this one


def _score(tapes: _Tapes, source: str, target: str, rank: int | None) -> EdgeScore | None:
    gradient = tapes.gradients.get(target)
    if gradient is None or source not in tapes.outputs:
        return None
    samples = len(gradient)
    wanted = tapes.features(target, gradient) * -samples
    x = fitted(tapes.features(source, tapes.outputs[source]), wanted)
    present = _present(tapes, target, wanted)
    rows = _thinned(x.expand(*wanted.shape[:-1], -1), wanted, present)
    x, wanted = rows[0], rows[1]
    left = wanted - _projected(rows[2], wanted)
    reach = torch.linalg.svdvals(_projected(x, left))
    per_sample = tapes.gradients[target].numel() / wanted.shape[1] / len(wanted) / samples
    features = x.shape[1], wanted.shape[1]
    cost = features[0] * features[1] if rank is None else min(rank, *features) * sum(features)
    return EdgeScore(source, target, float(reach[:rank].square().sum() * per_sample), cost)


def _present(tapes: _Tapes, target: str, wanted: Tensor) -> Tensor:
    """Returns what the target reads at each position of its output, with a constant."""
    ones = wanted.new_ones(*wanted.shape[:-1], 1)
    given, module = tapes.given.get(target), tapes.model.get_submodule(target)
    if given is None or len(given) != len(wanted):
        return ones
    if _has_windows(module):
        read = patches(module, given).reshape(*wanted.shape[:-1], -1)
    else:
        axis = -1 if given.dim() != 4 or isinstance(module, nn.LayerNorm) else 1
        read = fitted(given.movedim(axis, -1), wanted)
    return torch.cat([read.expand(*wanted.shape[:-1], -1), ones], -1)


def _has_windows(module: nn.Module) -> bool:
    plain = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return plain and bool(module.groups == 1)


def _thinned(*tensors: Tensor) -> list[Tensor]:
    """Returns rows of all tensors at the same positions, in float64."""
    flat = [each.reshape(-1, each.shape[-1]) for each in tensors]
    step = -(-len(flat[0]) // _ROWS)
    return [each[::step].double() for each in flat]


def _projected(x: Tensor, y: Tensor) -> Tensor:
    """Returns the best linear fit of ``y`` by ``x``."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    u = u[:, s > s.max() * 1e-9 * max(x.shape)] if s.numel() else u
    return u @ (u.T @ y)
