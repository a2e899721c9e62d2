"""How noisy the gradient of the rows that make the units is."""

from torch import Tensor

from neuro_morph._group_statistics import GRADIENTS, GroupStatistics
from neuro_morph._metrics._metric import add_metric


def gradient_variance(statistics: GroupStatistics) -> float:
    """Returns the mean variance of a parameter's gradient over examples, without bias."""
    spread = _spread(statistics)
    return float("nan") if spread is None else float(spread.mean())


def gradient_noise_scale(statistics: GroupStatistics) -> float:
    """Returns ``tr(Sigma) / |g|^2``: the batch size at which noise and gradient are equal.

    ``Sigma`` is the covariance of an example's gradient, ``|g|^2`` the squared gradient less what
    noise adds to its estimate; infinite where that is not above zero.

    Source: McCandlish, Kaplan, Amodei, an empirical model of large-batch training
    (arXiv:1812.06162), B_simple.
    """
    spread = _spread(statistics)
    if spread is None or statistics.gradient_mean is None:
        return float("nan")
    trace = float(spread.sum())
    signal = float(statistics.gradient_mean.square().sum()) - trace / statistics.examples
    return trace / signal if signal > 0 else float("inf")


def _spread(statistics: GroupStatistics) -> Tensor | None:
    mean, second, n = statistics.gradient_mean, statistics.gradient_second, statistics.examples
    if mean is None or second is None or n < 2:
        return None
    return (second - mean.square()).clamp(min=0) * (n / (n - 1))


add_metric(
    "gradient_variance",
    gradient_noise_scale,
    "noise of the rows' gradient over its square",
    GRADIENTS,
)
add_metric(
    "parameter_gradient_variance", gradient_variance, "variance of the rows' gradient", GRADIENTS
)
