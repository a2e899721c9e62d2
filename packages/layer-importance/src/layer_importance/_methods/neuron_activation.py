"""How much a unit adds to its stream, and what the neurons in it do."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from layer_importance._activity import Activity, Site, sites
from layer_importance._branch import branch, dots, real_places, spread_places, squares
from layer_importance._comoments import wide
from layer_importance._events import UnitEvent
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._moments import Moments
from layer_importance._scores import MethodScores, Score
from layer_importance._structure import stream
from layer_importance._subject import Subject

_WIDEST = 512  # a sample's matrix of tokens by features is judged up to this smaller side


class NeuronActivation(KeyedMethod):
    """Size of what a unit adds, relative to what goes in: ``E |f| / |x|`` with ``f = y - x``.

    The mean is over real tokens or places of a sample, then over samples; 0 means that the unit
    adds nothing. Activations themselves say little: in a residual stream they grow with depth.

    Columns beside it:

    * ``branch_rank``: ``(sum s_i^2)^2 / sum s_i^4`` of the singular values of a sample's ``f``,
      tokens by features, on average: along how many directions a unit changes one sample.
    * ``apoz``: share of zeros among hidden activations (not positive ones, for functions that are
      never exactly zero), mean over neurons.
    * ``dormant``: share of neurons with ``E |h_i| <= tau mean_k E |h_k|`` in their layer.
    * ``hidden_mean``, ``hidden_square``: ``E h`` and ``E h^2``, mean over neurons.

    Hidden activations are the answers of the nonlinear elementwise modules in a unit (behind it, if
    it is a single layer), or what a linear or convolution layer in it is called with right after a
    nonlinear function; of a map, 64 places stand for all. Units without such a place have no such
    columns.

    Source: APoZ: Hu et al., arXiv 1607.03250, eq. 1; dormant neurons: Sokar et al., arXiv
    2302.12902, def. 3.1; the rank of feature maps as importance: Lin et al., HRank, arXiv
    2002.10179, here with a rank that moves smoothly.

    Args:
        tau: below which share of the mean size a neuron is dormant.
    """

    name = "neuron_activation"
    kinds: ClassVar[Kinds] = {"value": Moments, "branch_rank": Moments, "activity": Activity}

    def __init__(self, *, tau: float = 0.025) -> None:
        super().__init__()
        if not 0 <= tau < 1:
            raise ValueError(f"tau must be in 0..1, got {tau}")
        self.tau = tau
        self._reasons: dict[str, str] = {}
        self._calls: dict[str, int] = {}
        self._site_calls: dict[tuple[str, Site], int] = {}
        self._sites: dict[str, list[Site]] = {}

    def begin(self, subject: Subject) -> None:
        """Looks where neurons fire, before anybody listens to the model."""
        super().begin(subject)
        self._sites = sites(subject)

    # what units add

    def unit(self, event: UnitEvent) -> None:
        """Adds the sizes of a batch."""
        name, change = event.unit.name, branch(event)
        if change is None:
            self._reasons[name] = f"its stream has another shape behind it: {event.unit.reason}"
            return
        added, whole = dots(event, change, change), squares(event, "x")
        sizes = added.sqrt()
        # nothing added to nothing is nothing added
        relative = torch.where(sizes > 0, sizes / whole.sqrt(), 0.0)
        self.kept(name, "value", Moments).add(event.over_tokens(relative))
        added = event.tokens(change)
        if 1 < min(added.shape[1:]) <= _WIDEST:
            self.kept(name, "branch_rank", Moments).add(_ranks(event, added))

    # what neurons do

    def before(self, batch: Any) -> None:
        """Learns the mask, and that no unit has run yet."""
        super().before(batch)
        self._calls.clear()

    def hooks(self, subject: Subject) -> list[RemovableHandle]:
        """Hooks where neurons fire."""
        handles = [self.until_the_end(subject)]
        for path, places in self._sites.items():
            module = subject.model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(self._enters(path)))
            for site in places:
                where = subject.model.get_submodule(site.path)
                tell = self._fires(subject, path, site)
                handles.append(
                    where.register_forward_hook(lambda m, a, y, tell=tell: tell(y))
                    if site.side == "output"
                    else where.register_forward_pre_hook(
                        lambda m, a, k, tell=tell: tell(stream((a, k))), with_kwargs=True
                    )
                )
        return handles

    def _enters(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            del module, args
            if self.forward:
                self._calls[path] = self._calls.get(path, -1) + 1
                self._site_calls = {k: n for k, n in self._site_calls.items() if k[0] != path}

        return hook

    def _fires(self, subject: Subject, path: str, site: Site) -> Callable[[Any], None]:
        names = {unit.call or 0: unit.name for unit in subject.units if unit.path == path}
        tower = next(unit.tower for unit in subject.units if unit.path == path)
        layout = subject.layouts.get(site.path)
        axis = 0 if layout is None else layout.y_axis if site.side == "output" else layout.x_axis

        def tell(h: Any) -> None:
            name = names.get(self._calls.get(path, 0) if len(names) > 1 else 0)
            if name is None and len(names) == 1:
                (name,) = names.values()
            if name is None or not isinstance(h, Tensor) or h.ndim < 2 or not self.forward:
                return
            number = self._site_calls.get((path, site), 0)
            self._site_calls[path, site] = number + 1
            h = h.detach().movedim(max(axis, 0), 0)
            places = h.shape[-1] if site.channels > 0 else h.shape[1]
            rows = _neurons(h, site.channels, self.mask(places, tower) if h.ndim == 3 else None)
            key = f"{name}@{site.path}:{number}"
            self.kept(key, "activity", partial(Activity, rows.shape[1])).add(rows)

        return tell

    # what comes of it

    def scores(self) -> MethodScores:
        """Mean relative sizes, and the columns of the neurons."""
        found = {n: m for n, m in self.found("value").items() if m.count}
        scores = {name: Score.of(moments) for name, moments in found.items()}
        ranks = {name: float(m.mean) for name, m in self.found("branch_rank").items() if m.count}
        extras = {"branch_rank": ranks, **self._neurons()}
        return self.result(scores, {c: v for c, v in extras.items() if v}, self._reasons)

    def _neurons(self) -> dict[str, dict[str, float]]:
        columns: dict[str, dict[str, list[Tensor]]] = {}
        for key, activity in self.found("activity").items():
            for column, values in activity.summary(self.tau).items():
                name = key.partition("@")[0]
                columns.setdefault(column, {}).setdefault(name, []).append(values)
        return {
            column: {name: float(torch.cat(values).mean()) for name, values in units.items()}
            for column, units in columns.items()
        }


def _ranks(event: UnitEvent, added: Tensor) -> Tensor:
    if event.mask is not None and event.mask.shape == added.shape[:2]:
        added = torch.where(event.mask.bool()[..., None], added, 0.0)
    high = added.shape[1] > added.shape[2]
    gram = wide(added.mT @ added if high else added @ added.mT)
    trace, squares = gram.diagonal(dim1=1, dim2=2).sum(1), gram.square().sum((1, 2))
    return torch.where(squares > 0, trace.square() / squares, 0.0)


def _neurons(h: Tensor, channels: int, mask: Tensor | None) -> Tensor:
    """Real tokens by neurons, ``[M, K]``."""
    if mask is not None and len(mask) != len(h):
        mask = None
    if channels > 0 and h.ndim == 3 and mask is not None:
        return real_places(h, mask)
    if channels > 0 and h.ndim > 2:
        return spread_places(h.flatten(2)).movedim(1, -1).reshape(-1, h.shape[1])
    if mask is not None and h.ndim == 3:
        return h[mask.bool()]
    return h.reshape(-1, h.shape[-1])
