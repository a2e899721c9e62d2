"""A product at a rank that stays, run in the form that suits each batch."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling, is_dynamo_compiling

from lowrank_kernels import _optimizer_steps
from lowrank_kernels._checks import check_factors, check_linear, rank_value, whole
from lowrank_kernels._dispatcher import Dispatcher
from lowrank_kernels._execute import Factors, Product, Rows, any_axes, keeps_none, product_of
from lowrank_kernels._explanation import Explanation
from lowrank_kernels._linear import lowrank_linear
from lowrank_kernels._types import Rank

_SHAPES = 1024  # of inputs, remembered at a time
_DISPATCHER = Dispatcher()


class Dispatched:
    """A product at a fixed rank that runs each batch in the form that is fastest for it.

    Made by `dispatch`. A form is prepared when a batch first asks for it, and kept from then on.
    """

    __slots__ = ("_calls", "_copies", "_dispatcher", "_factors", "_frozen", "_products")

    def __init__(
        self, factors: Factors, dispatcher: Dispatcher, *, frozen: bool, copies: bool
    ) -> None:
        self._factors, self._dispatcher = factors, dispatcher
        self._frozen, self._copies = frozen, copies
        self._products: dict[str, Product] = {}
        self._calls: dict[torch.Size, Rows] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return `(x @ down[:r].T + inner_bias[:r]) @ up[:, :r].T + bias`, `[..., m]`."""
        if is_dynamo_compiling():  # before the shape is looked at, or it becomes a constant
            return self._by_factors(x)
        try:
            call = self._calls.get(x.shape)
            if call is None or is_grad_enabled():
                return self._first_or_differentiable(x)
            return call(x)
        except (RuntimeError, TypeError, AttributeError):
            if is_compiling():  # symbolic shapes have no hash
                return self._by_factors(x)
            self._check(x)
            raise

    def form(self, batch: int) -> str:
        """Return the form in which `batch` rows are run where no gradient is needed."""
        f = self._factors
        forms = self._dispatcher.order(f.down, f.up, f.rank, batch=batch)
        return next(form for form in forms if self._copies or keeps_none(form, f))

    def explain(self, batch: int) -> Explanation:
        """Return why; see `Dispatcher.explain`."""
        f = self._factors
        why = self._dispatcher.explain(f.down, f.up, f.rank, batch=batch)
        return why._replace(chosen=self.form(batch))

    @property
    def copied_bytes(self) -> int:
        """The memory held beside the factors: `m·n` numbers dense, `m·r` packed, once each."""
        return sum(product.copied for product in self._products.values())

    def _first_or_differentiable(self, x: Tensor) -> Tensor:
        if is_compiling() or (is_grad_enabled() and not self._frozen and self._factors.trained):
            return self._by_factors(x)
        call = self._calls.get(x.shape)
        if call is None:
            self._check(x)
            if len(self._calls) >= _SHAPES:
                self._calls.clear()
            call = self._calls[x.shape] = self._call_for(x.shape)
        return call(x)

    def _by_factors(self, x: Tensor) -> Tensor:
        f = self._factors
        return lowrank_linear(x, f.down, f.up, f.bias, f.rank, inner_bias=f.inner)

    def _check(self, x: object) -> None:
        f = self._factors
        check_linear(x, f.down, f.up, f.bias, f.inner)

    def _call_for(self, shape: torch.Size) -> Rows:
        call = self._prepared(self.form(shape[:-1].numel()))
        return call if len(shape) == 2 else any_axes(call, self._factors)

    def _prepared(self, form: str) -> Rows:
        product = self._products.get(form)
        if product is None or (product.stale and not self._frozen):
            product = self._products[form] = product_of(form, self._factors)
        if self._frozen or not product.watched:
            return product.call
        return self._renewing(product)

    def _renewing(self, product: Product) -> Rows:
        """Return its call, made anew when what it was copied from has changed in place."""
        call, (up, *_), (version, *_, steps) = product.call, product.watched, product.versions

        def packed(x: Tensor) -> Tensor:
            fresh = up._version == version and _optimizer_steps.taken == steps
            return call(x) if fresh else self._renewed(x)

        def dense(x: Tensor) -> Tensor:
            return self._renewed(x) if product.stale else call(x)

        return packed if len(product.watched) == 1 else dense

    def _renewed(self, x: Tensor) -> Tensor:
        self._products.clear()
        self._calls.clear()
        return self(x)

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy prepares its own forms from its own factors
        return _restored, (self._factors, self._dispatcher, self._frozen, self._copies)

    def __repr__(self) -> str:
        (R, n), m = self._factors.down.shape, self._factors.up.shape[0]
        return f"Dispatched(rank={self._factors.rank} of {R}, in_features={n}, out_features={m})"


def _restored(factors: Factors, dispatcher: Dispatcher, frozen: bool, copies: bool) -> Dispatched:
    return Dispatched(factors, dispatcher, frozen=frozen, copies=copies)


def dispatch(
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: Rank = None,
    *,
    inner_bias: Tensor | None = None,
    weight: Tensor | None = None,
    batch: int | Iterable[int] = (),
    frozen: bool = False,
    copies: bool = True,
    dispatcher: Dispatcher | None = None,
) -> Dispatched:
    """Return the product at `rank` as a callable that runs each batch in its fastest form.

    `dispatch(down, up, bias, rank)(x)` equals `lowrank_linear(x, down, up, bias, rank)`. At the
    first batch of a shape a form is chosen (see `Dispatcher`) and prepared: dense, two products
    with views, or two with a packed `up`. Later batches find it by their shape.

    Where gradients are enabled and a factor collects them, and inside `torch.compile`, the factors
    themselves are used. Copies are made anew when a factor has changed in place or an optimizer has
    stepped; what goes around autograd is not noticed, such as writing to `.data` or to tensors made
    in inference mode, or `module.to(...)`, which replaces it.

    Args:
        down: first factor `[R, n]`.
        up: second factor `[m, R]`.
        bias: `[m]` or None.
        rank: r in 0..R as an int or a 0-dim integer tensor; None is R.
        inner_bias: `[R]` or None, added between the factors.
        weight: the dense weight `W_r [m, n]` if there is one already, yours to keep true; else it
            is formed the first time that a batch wants it.
        batch: rows to prepare for at once, an int or several.
        frozen: promise that factors and biases neither change nor need gradients: copies are used
            where gradients are enabled too (those of `x` are right), and never looked after.
        copies: False forms no weight and packs nothing: only views and `weight` are used.
        dispatcher: chooses; None is one that reads the calibrations kept on disk.

    Raises:
        ValueError: a shape, device or rank breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> down, up = torch.ones(8, 12), torch.ones(24, 8)
        >>> product = dispatch(down, up, rank=2)
        >>> product(torch.ones(32, 12)).shape
        torch.Size([32, 24])
        >>> product.form(32), product.copied_bytes
        ('factored', 0)
    """
    check_factors(down, up, bias, inner_bias)
    r = rank_value(rank, down.shape[0])
    if weight is not None:
        _check_weight(weight, down, up)
    factors = Factors(down, up, bias, inner_bias, r, weight)
    product = Dispatched(factors, dispatcher or _DISPATCHER, frozen=frozen, copies=copies)
    for rows in (batch,) if isinstance(batch, int) else batch:
        product._prepared(product.form(whole("batch", rows, 0)))
    return product


def _check_weight(weight: object, down: Tensor, up: Tensor) -> None:
    shape = (up.shape[0], down.shape[1])
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor, got {type(weight).__name__}")
    if tuple(weight.shape) != shape:
        raise ValueError(f"weight must be {list(shape)}, got {list(weight.shape)}")
    if weight.dtype != down.dtype or weight.device != down.device:
        raise TypeError(
            f"weight must have the dtype and device of down, {down.dtype} on {down.device}, "
            f"got {weight.dtype} on {weight.device}"
        )
