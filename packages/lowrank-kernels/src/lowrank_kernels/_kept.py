"""A product whose forms are prepared when asked for, kept, and made anew after a change."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling, is_dynamo_compiling

from lowrank_kernels import _optimizer_steps
from lowrank_kernels._dispatcher import Dispatcher
from lowrank_kernels._execute import Product, Rows

_SHAPES = 1024  # of inputs, remembered at a time


class Kept(ABC):
    """What products at a fixed rank have in common, whatever they are products of.

    A form is prepared when an input of a shape first asks for it, and kept from then on.
    """

    __slots__ = ("_calls", "_copies", "_dispatcher", "_factors", "_frozen", "_given", "_products")

    def __init__(self, factors: Any, dispatcher: Dispatcher, *, frozen: bool, copies: bool) -> None:
        self._given, self._dispatcher = factors, dispatcher
        self._factors = _detached(factors) if frozen else factors
        self._frozen, self._copies = frozen, copies
        self._products: dict[str, Product] = {}
        self._calls: dict[torch.Size, Rows] = {}

    @abstractmethod
    def _by_factors(self, x: Tensor) -> Tensor:
        """Return the product by the factors themselves."""

    @abstractmethod
    def _check(self, x: object) -> None:
        """Raise for an input that the product cannot take."""

    @abstractmethod
    def _made(self, form: str) -> Product:
        """Return the product in a form, made now."""

    @abstractmethod
    def _call_for(self, shape: torch.Size) -> Rows:
        """Return what runs inputs of this shape."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product at the rank, in the form that suits the shape of `x`."""
        if is_dynamo_compiling():  # before the shape is looked at, or it becomes a constant
            return self._by_factors(x)
        try:
            call = self._calls.get(x.shape)
            if call is None or is_grad_enabled():
                return self._first_or_differentiable(x)
            return call(x)
        except (RuntimeError, TypeError, AttributeError):
            if is_compiling() or _is_symbolic(x):  # symbolic shapes have no hash
                return self._by_factors(x)
            self._check(x)
            raise

    @property
    def copied_bytes(self) -> int:
        """The memory held beside the factors: each form's own copies, once each."""
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

    def _prepared(self, form: str) -> Rows:
        product = self._products.get(form)
        if product is None or (product.stale and not self._frozen):
            product = self._products[form] = self._made(form)
        if self._frozen or not product.watched:
            return product.call
        return self._renewing(product)

    def _renewing(self, product: Product) -> Rows:
        """Return its call, made anew when what it was copied from has changed in place."""
        call, (*_, steps) = product.call, product.versions
        # one is compared twice rather than none: each comparison is seen in a small product
        (a, *_, b), (at_a, *_, at_b) = product.watched * 2, product.versions[:-1] * 2

        def two(x: Tensor) -> Tensor:
            fresh = a._version == at_a and b._version == at_b and _optimizer_steps.taken == steps
            return call(x) if fresh else self._renewed(x)

        def many(x: Tensor) -> Tensor:
            return self._renewed(x) if product.stale else call(x)

        return two if len(product.watched) <= 2 else many

    def _renewed(self, x: Tensor) -> Tensor:
        self._products.clear()
        self._calls.clear()
        return self(x)

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy prepares its own forms from its own factors
        return _restored, (type(self), self._given, self._dispatcher, self._frozen, self._copies)


def _restored(kind: type[Kept], factors: Any, of: Dispatcher, frozen: bool, copies: bool) -> Kept:
    return kind(factors, of, frozen=frozen, copies=copies)


def _detached(factors: Any) -> Any:
    """Return the factors in the same memory, none of which collects gradients."""
    given = factors._asdict()
    trained = {k: t for k, t in given.items() if isinstance(t, Tensor) and t.requires_grad}
    return factors._replace(**{name: t.detach() for name, t in trained.items()})


def _is_symbolic(x: object) -> bool:
    return isinstance(x, Tensor) and any(isinstance(n, torch.SymInt) for n in x.shape)
