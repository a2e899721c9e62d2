"""What adaptive layers have in common: nested factors, a rank, a watch on the inputs."""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models import _layer_state, _observe
from adlrns_models._adapt import adapt_now, observe
from adlrns_models._checks import check_bool, check_int
from adlrns_models._config import AdaptConfig
from adlrns_models._factorize import Factorization
from adlrns_models._kept import Kept, kept_product
from adlrns_models._layer_kind import LayerKind
from adlrns_models._prefix_loss import prefix_loss
from adlrns_models._serving import decided, rank_here, rank_in_graph
from adlrns_models._watch import InputWatch
from fd_sketch import CovarianceSketch

RankChange = Callable[[int, int], None]


class AdaptiveLayer(LayerKind):
    """A layer of nested factors whose rank r can move.

    ``y = up[:, :r] @ (down[:r] @ x + inner_bias[:r]) + outer_bias``: every prefix of the factors
    is a valid layer, so changing the rank touches no parameter: it writes one number. While
    adaptation is on, the layer keeps a sketch of its inputs and, every ``config.adapt_every``
    forward passes, moves to a rank at which truncation loses at most ``config.eps`` of its
    output's energy.

    Subclasses say how rows are drawn from an input and how the product is run.
    """

    down: nn.Parameter
    up: nn.Parameter
    inner_bias: nn.Parameter
    outer_bias: nn.Parameter
    rank: Tensor

    def __init__(self, factors: Factorization, weight_shape: tuple[int, ...], config: AdaptConfig):
        super().__init__()
        self.config = config
        self.weight_shape = weight_shape
        self.groups = factors.down.shape[0] if factors.down.ndim == 3 else 1
        self.max_rank = factors.max_rank
        tail = weight_shape[1:]  # [in] or [in, kh, kw]
        with torch.inference_mode(False):  # parameters outlive the mode they are made in
            lead = factors.down.shape[:-1]  # [R], or [groups, R]
            self.down = nn.Parameter(factors.down.reshape(*lead, *tail).clone())
            self.up = nn.Parameter(factors.up.clone(memory_format=torch.contiguous_format))
            self.inner_bias = nn.Parameter(factors.inner_bias.clone())
            self.outer_bias = nn.Parameter(factors.bias.clone())
            # compiled graphs read the buffer, eager code its mirror: no .item() on a hot path
            self.register_buffer("rank", torch.tensor(self.max_rank))
        self._rank, self._steps = self.max_rank, 0
        self._changed_at: int | None = None
        self._look_due = False
        self._adapting = True
        self._serving = False
        self._on_rank_change: RankChange | None = None
        self._kept: dict[int, Kept] = {}
        self._watch = self._make_watch(config)
        self._graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()
        self._key = _observe.register(self)

    def _take_flags(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Trains what ``layer`` trained."""
        self.train(layer.training).requires_grad_(layer.weight.requires_grad)
        if layer.bias is not None:
            self.outer_bias.requires_grad_(layer.bias.requires_grad)

    def _make_watch(self, config: AdaptConfig) -> InputWatch:
        m, n = self.sizes
        return InputWatch(
            n * self.groups,
            m * self.groups,
            self.max_rank,
            sketch_size=config.sketch_size,
            stride=config.sample_stride,
            max_rows=config.max_rows_fd,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Returns the layer's output at the rank in force."""
        if torch.compiler.is_compiling():
            if self._is_watching():
                _observe.observe(input.detach(), self.rank, self._key)
            return self._product(input, rank_in_graph(self))
        if _observe.transformed() or torch._C._get_tracing_state():
            return self._product(input, rank_here(self))
        if self._is_watching() and not _observe.recomputing():
            self._observe(input)
            return self._tracked(self._product(input, rank_here(self)))
        if torch.is_grad_enabled():
            return self._tracked(self._product(input, rank_here(self)))
        return kept_product(self, rank_here(self))(input)

    def _tracked(self, y: Tensor) -> Tensor:
        """Remembers that a graph with the current factors is waiting for its backward pass."""
        if y.requires_grad:
            graph = _Graph()
            self._graphs.add(graph)
            # the hook alone keeps the mark alive: a graph thrown away takes it along
            y.register_hook(lambda gradient: self._graphs.discard(graph))
        return y

    # rank

    def current_rank(self) -> int:
        """Returns the rank in force, or inside :meth:`ElasticModel.at` the rank there."""
        return rank_here(self)

    def set_rank(self, rank: int) -> None:
        """Runs the layer at ``rank`` from now on; no parameter is touched.

        Raises:
            ValueError, TypeError: if ``rank`` is not an integer in ``0..max_rank``.
        """
        self._announce(self._assign(self._check_rank(rank)))

    def _check_rank(self, rank: int) -> int:
        return check_int("rank", rank, 0, self.max_rank)

    def _assign(self, rank: int) -> int:
        own, old = self.__dict__, self._rank  # a module's own assignment takes five times as long
        own["_rank"], own["_kept"] = rank, {}
        if old != rank:
            self.rank.fill_(rank)
        return old

    def _announce(self, old: int) -> None:
        if old != self._rank and self._on_rank_change is not None:
            self._on_rank_change(old, self._rank)

    @property
    def break_even(self) -> float:
        """The rank ``mn / (m + n)`` above which two factors cost more than the dense weight."""
        m, n = self.sizes
        return m * n / (m + n)

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and columns ``(m, n)`` of the weight as a matrix, or of that of one group."""
        return self.weight_shape[0] // self.groups, math.prod(self.weight_shape[1:])

    def effective_weight(self, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the dense weight, in the layer's own shape, and bias that ``rank`` stands for."""
        r = rank_here(self) if rank is None else self._check_rank(rank)
        weight = (self.up[:, :r] @ self.down[:r].flatten(1)).reshape(self.weight_shape)
        return weight, self.outer_bias + self.up[:, :r] @ self.inner_bias[:r]

    @property
    def weight(self) -> Tensor:
        """The dense weight at the rank in force, for code that reads instead of calling."""
        return self.effective_weight()[0]

    @property
    def bias(self) -> Tensor:
        """The bias that belongs to :attr:`weight`."""
        return self.effective_weight()[1]

    def _serve(self) -> None:
        """Runs from copies of the factors where that is faster, from now on."""
        self._serving = True

    # adaptation

    def enable_adaptation(self, enabled: bool = True) -> None:
        """Turns watching and adapting on or off."""
        self._adapting = check_bool("enabled", enabled)

    @contextmanager
    def adapt_disabled(self) -> Iterator[None]:
        """Freezes the rank and the sketch inside a ``with`` block."""
        before, self._adapting = self._adapting, False
        try:
            yield
        finally:
            self._adapting = before

    @property
    def sketch(self) -> CovarianceSketch:
        """The sketch of the inputs seen so far (a sample of them)."""
        return self._watch.sketch

    def clear_sketch(self) -> None:
        """Forgets the inputs seen and the count of steps; the rank stays."""
        self._watch.clear()
        self._steps, self._changed_at, self._look_due = 0, None, False

    def adapt_now(self) -> int:
        """Re-fits the factors to the inputs seen, moves the rank one step and returns it.

        The re-fit keeps the function at full rank and makes every prefix optimal for the sketched
        inputs. It rewrites the factors in place, so call it between optimizer steps. The cadence
        and the cool-down do not apply; the largest step and the bounds do. Without any input seen
        nothing changes.

        Raises:
            RuntimeError: while several workers train (``torch.distributed``): each would re-fit
                to its own inputs.
        """
        adapt_now(self)
        return self._rank

    def prefix_loss(self) -> Tensor:
        """Returns the estimated loss ``[R + 1]`` of running the factors, as they are, at each rank.

        Summed over the latest rows seen; entry 0 is the energy of the output around its bias.
        """
        with torch.no_grad(), torch.autocast(self.down.device.type, enabled=False):
            rows = self._watch.recent.to(self.down.device)
            return prefix_loss(self.down.flatten(1), self.up, self.inner_bias, rows)

    def _is_watching(self) -> bool:
        return self._adapting and (self.training or not self.config.freeze_during_eval)

    def _observe(self, x: Tensor, *, compiled: bool = False) -> None:
        if not (x.is_floating_point() and self._takes(x)):
            return  # the product is about to refuse it
        observe(self, x, compiled=compiled)

    @property
    def steps(self) -> int:
        """Forward passes watched so far."""
        return self._steps

    def _count_step(self) -> None:
        self.__dict__["_steps"] += 1  # at each call, as in _assign

    # state

    def get_extra_state(self) -> Tensor:
        """Returns configuration, cadence and sketch as one tensor of bytes."""
        return _layer_state.pack(self)

    def set_extra_state(self, state: Any) -> None:
        """Restores what :meth:`get_extra_state` returned."""
        _layer_state.unpack(self, state)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self.rank.fill_(self._rank)  # whatever others have written to it
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if decided(self):  # a number of this call; the buffer may move on
            destination[prefix + "rank"] = torch.tensor(rank_here(self))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        rank = state_dict.get(prefix + "rank")
        if rank is not None:
            check_int(f"{prefix}rank", int(rank), 0, self.max_rank)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.rank = self.rank.clone()  # with assign=True it is the other model's
        self._rank = int(self.rank)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptiveLayer":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self.rank.is_meta:  # read by the host at every call: it stays there
            self.rank = self.rank.cpu()
            self._watch.sketch.to(self.down.device)
            self._watch.recent = self._watch.recent.to(self.down.device)
        self._kept = {}
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_graphs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._graphs = weakref.WeakSet()
        self._key = _observe.register(self)  # a copy is a layer of its own

    def extra_repr(self) -> str:
        """Returns sizes and rank for ``print(layer)``."""
        rank = rank_here(self)
        m, n = (size * self.groups for size in self.sizes)
        text = f"{n} -> {m}, rank={rank}, max_rank={self.max_rank}, eps={self.config.eps}"
        return text if self.groups == 1 else f"{text}, groups={self.groups}"


class _Graph:
    """Stands for one forward pass whose backward pass is still to come."""
