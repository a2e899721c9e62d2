"""Images and videos."""

from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import input_keys, with_entries
from layer_importance._corruptions import gaussian_noise
from layer_importance._modality import Modality, first_input, shape_words
from layer_importance._streams import derangement
from layer_importance._structure import mapped


class Vision(Modality):
    """Images ``[N, C, H, W]`` or videos ``[N, C, T, H, W]``; no place of them is padding.

    Spoiled: Gaussian noise of ``strength`` times the images' standard deviation, or, with a
    ``patch``, squares of so many pixels from another image of the batch in place of some.

    Args:
        strength: of the noise, in standard deviations.
        patch: side of the squares.
        rate: share of squares that are replaced.
    """

    name = "vision"

    def __init__(
        self, *, strength: float = 3.0, patch: int | None = None, rate: float = 0.5
    ) -> None:
        super().__init__()
        if patch is not None and patch < 1:
            raise ValueError(f"patch must be at least 1, got {patch}")
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be in 0..1, got {rate}")
        self.patch, self.rate, self._noise = patch, rate, gaussian_noise(strength)

    def recognises(self, batch: Any) -> str:
        """Floats of four dimensions or five."""
        images = first_input(batch, "pixel_values", "images", "image", "x")
        fits = images is not None and images.is_floating_point() and images.ndim in (4, 5)
        return f"images {shape_words(images)}" if fits and images is not None else ""

    def mask(self, batch: Any, tokens: int, tower: str = "") -> None:
        """None: every place is real."""
        del batch, tokens, tower

    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """Noise, or squares of other images."""
        if self.patch is None:
            return self._noise(batch, generator)
        keys = input_keys(batch)

        def pasted(tensor: Tensor) -> Tensor:
            fits = tensor.is_floating_point() and tensor.ndim >= 4
            return self._pasted(tensor, generator) if fits else tensor

        return with_entries(batch, lambda key, v: mapped(v, pasted) if key in keys else v)

    def _pasted(self, images: Tensor, generator: torch.Generator) -> Tensor:
        assert self.patch is not None
        height, width = (-(-side // self.patch) for side in images.shape[-2:])
        size, device = (len(images), height, width), generator.device
        squares = torch.rand(size, generator=generator, device=device) < self.rate
        pixels = squares.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        pixels = pixels[:, : images.shape[-2], : images.shape[-1]].to(images.device)
        where = pixels.reshape(len(images), *[1] * (images.ndim - 3), *pixels.shape[1:])
        donors = derangement(len(images), generator).to(images.device)
        return torch.where(where, images[donors], images)
