"""Models whose own way of saving would leave out what was changed."""

from typing import Any, NoReturn

from torch import nn


class _Refusal:
    """In the place of ``save_pretrained``; a class, so that copies of the model keep it."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            "save_pretrained must not be used for a model of kind 'recipe': its bridges, bypasses "
            "and masks would not be saved; use Compressed.save and layer_importance.load"
        )


def refuse_save_pretrained(model: nn.Module) -> None:
    """Makes ``save_pretrained`` of a model and of its parts raise a ``ValueError``."""
    for module in model.modules():
        if hasattr(type(module), "save_pretrained"):
            module.__dict__["save_pretrained"] = _Refusal()
