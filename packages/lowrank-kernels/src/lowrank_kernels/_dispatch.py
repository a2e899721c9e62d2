"""A product at a rank that stays, run in the form that suits each batch."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lowrank_kernels._checks import check_factors, check_linear, flag, rank_value, whole
from lowrank_kernels._dispatcher import Dispatcher
from lowrank_kernels._execute import Factors, Product, Rows, any_axes, keeps_none, product_of
from lowrank_kernels._explanation import Explanation
from lowrank_kernels._kept import Kept
from lowrank_kernels._linear import lowrank_linear
from lowrank_kernels._types import Rank

DISPATCHER = Dispatcher()


class Dispatched(Kept):
    """A product at a fixed rank that runs each batch in the form that is fastest for it.

    Made by `dispatch`; called with `x`, it returns
    `(x @ down[:r].T + inner_bias[:r]) @ up[:, :r].T + bias`, `[..., m]`. A form is prepared when a
    batch first asks for it, and kept from then on: `m·n` numbers dense, `m·r` packed.
    """

    __slots__ = ()
    _factors: Factors

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

    def _by_factors(self, x: Tensor) -> Tensor:
        f = self._factors
        return lowrank_linear(x, f.down, f.up, f.bias, f.rank, inner_bias=f.inner)

    def _check(self, x: object) -> None:
        f = self._factors
        check_linear(x, f.down, f.up, f.bias, f.inner)

    def _made(self, form: str) -> Product:
        return product_of(form, self._factors)

    def _call_for(self, shape: torch.Size) -> Rows:
        call = self._prepared(self.form(shape[:-1].numel()))
        return call if len(shape) == 2 else any_axes(call, self._factors)

    def __repr__(self) -> str:
        (R, n), m = self._factors.down.shape, self._factors.up.shape[0]
        return f"Dispatched(rank={self._factors.rank} of {R}, in_features={n}, out_features={m})"


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
            where gradients are enabled too, and never looked after. Gradients reach `x` alone,
            in every form and in graphs, whatever collects them.
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
        check_weight(weight, (up.shape[0], down.shape[1]), down)
    factors = Factors(down, up, bias, inner_bias, r, weight)
    kept = {"frozen": flag("frozen", frozen), "copies": flag("copies", copies)}
    product = Dispatched(factors, chooser(dispatcher), **kept)
    for rows in several(batch):
        product._prepared(product.form(rows))
    return product


def chooser(dispatcher: object) -> Dispatcher:
    """Return the dispatcher, the common one for None."""
    if dispatcher is None:
        return DISPATCHER
    if not isinstance(dispatcher, Dispatcher):
        raise TypeError(f"dispatcher must be a Dispatcher or None, got {type(dispatcher).__name__}")
    return dispatcher


def several(batch: object) -> list[int]:
    """Return the batches that were asked for, one or several."""
    if not isinstance(batch, (Iterable, int)) or isinstance(batch, str):
        kind = type(batch).__name__
        raise TypeError(f"batch must be an int or several, got {kind} {batch!r}")
    given = batch.tolist() if isinstance(batch, Tensor) else batch
    rows = list(given) if isinstance(given, Iterable) else [given]
    return [whole("batch", number, 0) for number in rows]


def check_weight(weight: object, shape: tuple[int, ...], down: Tensor) -> None:
    """Raise unless the weight is one of this shape, of the dtype and device of `down`."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor, got {type(weight).__name__}")
    if tuple(weight.shape) != shape:
        raise ValueError(f"weight must be {list(shape)}, got {list(weight.shape)}")
    if weight.dtype != down.dtype or weight.device != down.device:
        raise TypeError(
            f"weight must have the dtype and device of down, {down.dtype} on {down.device}, "
            f"got {weight.dtype} on {weight.device}"
        )
