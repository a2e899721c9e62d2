"""What layers are given now beside what they once gave out: moments of both, and the best map."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fd_sketch import ExactGram


class CrossMoments:
    """Moments of inputs ``z`` now and of old outputs ``y``, for layers that read the same input.

    Args:
        inputs: features ``n`` of the input.
        outputs: by layer name, features ``m`` of the output.
        device: where the sums are kept, in float64.

    Attributes:
        gram: of ``z``, exact, about its mean.
        left_out: rows that did not count because they are not finite.
    """

    def __init__(self, inputs: int, outputs: Mapping[str, int], device: torch.device):
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        self.gram = ExactGram(inputs, center=True)
        self.left_out = 0
        self._z = zeros(inputs)
        self._y = {name: zeros(m) for name, m in outputs.items()}
        self._products = {name: zeros(m, inputs) for name, m in outputs.items()}

    def add(self, z: Tensor, y: Mapping[str, Tensor]) -> None:
        """Takes in rows ``z [k, n]`` and ``y [k, m]``; none of those where one is not finite."""
        fine = torch.stack([t.isfinite().all(1) for t in (z, *y.values())]).all(0)
        self.left_out += int((~fine).sum())
        z = z[fine].double()
        self.gram.partial_fit(z)
        self._z += z.sum(0)
        for name, rows in y.items():
            rows = rows[fine].double()
            self._y[name] += rows.sum(0)
            self._products[name] += rows.T @ z

    def best_map(self, name: str, weight: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Returns ``A`` and ``b`` of least ``sum |y - A z - b|^2 + lam N |A - W|^2``.

        ``A = W + (sum (y - W z) z') (C + lam N I)^-1`` about the means, ``lam`` a share of the
        mean of ``C``'s diagonal: never singular, and ``W`` where no input went.

        Args:
            name: of the layer.
            weight: ``W [m, n]``.
            ridge: that share.
        """
        count = max(1, self.gram.n_samples_seen)
        C = torch.as_tensor(self.gram.gram()).to(weight.device)
        mean_z, mean_y, w = self._z / count, self._y[name] / count, weight.double()
        left = self._products[name] - count * torch.outer(mean_y, mean_z) - w @ C
        values, vectors = torch.linalg.eigh(C)
        damped = values.clamp(min=0.0) + ridge * values.mean().clamp(min=1e-300)
        best = w + (left @ vectors / damped) @ vectors.T
        return best, mean_y - best @ mean_z
