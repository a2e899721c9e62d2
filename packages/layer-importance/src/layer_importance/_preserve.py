"""A model that is looked at and left exactly as it was."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def preserved(model: nn.Module, *, gradients: bool) -> Iterator[None]:
    """Evaluation mode inside; afterwards, and after an error, everything is as it was.

    Kept: training flags, buffers (those made inside are taken off), rows of embeddings with
    ``max_norm``, which a look at them scales down, ``.grad``, ``requires_grad``, instance
    ``forward``s, hooks that were there (those added inside are taken off), and the random state of
    Python and torch.
    ``gradients`` switches them on inside whatever the caller's mode was.
    """
    with contextlib.ExitStack() as stack:  # one that fails does not keep the others from it
        for kept in (_buffers, _flags, _renormalised, _gradients, _hooks):
            stack.callback(kept(model))
        stack.callback(_random_state())
        stack.callback(_fused_attention())
        model.eval()
        # inference mode would make tensors that no gradient can go through
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield


def _flags(model: nn.Module) -> Any:
    training = [(module, module.training) for module in model.modules()]

    def give_back() -> None:
        for module, flag in training:
            module.training = flag

    return give_back


def _buffers(model: nn.Module) -> Any:
    kept = [
        (module, dict(module._buffers), set(module._non_persistent_buffers_set))
        for module in model.modules()
    ]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]

    def give_back() -> None:
        for module, buffers, unsaved in kept:
            module._buffers.clear()
            module._buffers.update(buffers)
            module._non_persistent_buffers_set = unsaved
        for buffer, before in values:
            _write_back(buffer, before)

    return give_back


def _renormalised(model: nn.Module) -> Any:
    """Embeddings with ``max_norm`` scale rows of their weight down when they read them."""
    kept = [
        (module.weight, module.weight.detach().clone())
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None
    ]

    def give_back() -> None:
        for weight, before in kept:
            _write_back(weight, before)

    return give_back


def _write_back(tensor: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        if tensor.shape != values.shape:  # it was given other memory
            tensor.data = values
        elif not _same(tensor, values):
            tensor.copy_(values)


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself and -0 is not 0."""
    if a.shape != b.shape:
        return False
    as_bytes = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*as_bytes)


def _gradients(model: nn.Module) -> Any:
    kept = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    for parameter, _, _ in kept:
        parameter.grad = None

    def give_back() -> None:
        for parameter, grad, requires in kept:
            parameter.requires_grad_(requires)
            parameter.grad = grad

    return give_back


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _hooks(model: nn.Module) -> Any:
    kept = [
        (getattr(module, name), dict(getattr(module, name)))
        for module in model.modules()
        for name in _HOOKS
        if hasattr(module, name)
    ]
    forwards = [(module, module.__dict__.get("forward")) for module in model.modules()]

    def give_back() -> None:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)
        for module, forward in forwards:
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward

    return give_back


def _random_state() -> Any:
    python, cpu = random.getstate(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def give_back() -> None:
        random.setstate(python)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return give_back


def _fused_attention() -> Any:
    """Switches torch's fused transformer layers off: they run past the hooks of what is inside."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return lambda: torch.backends.mha.set_fastpath_enabled(enabled)
