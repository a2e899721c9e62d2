"""Which sketch to take where nothing speaks for one of them."""

from fd_sketch._checks import check_method
from fd_sketch._exact_gram import ExactGram
from fd_sketch._frequent_directions import FrequentDirections


def covariance_sketch(
    n_features: int,
    sketch_size: int,
    *,
    method: str = "auto",
    buffer_size: int | None = None,
    alpha: float = 1.0,
    center: bool = False,
    decay: float = 1.0,
    nonfinite: str = "skip",
) -> ExactGram | FrequentDirections:
    """Return the exact second moment where it holds no more numbers than the sketch, else a sketch.

    `ExactGram` holds `d^2` numbers and `FrequentDirections` `(sketch_size + buffer_size) d`, so
    "auto" takes the first where `n_features <= sketch_size + buffer_size`. It is then exact, and
    faster too. Where memory does not matter, say `method="exact"`: up to a thousand features it is
    hardly ever the slower one.

    Args:
        n_features: Number of columns d.
        sketch_size: Number of rows of the sketch.
        method: "exact" for `ExactGram`, "fd" for `FrequentDirections`, "auto" for the rule.
        buffer_size: Number of rows gathered beside the sketch, `2 sketch_size` if not given.
        alpha: Share of the singular values that are lowered by shrinking; with 0 "fd" is the
            truncated singular value decomposition.
        center: Take the scatter about the running mean.
        decay: Factor in (0, 1] on all earlier weights at every call of `partial_fit`.
        nonfinite: What to do with rows that are not finite: `skip` and count them, or `raise`.

    Raises:
        TypeError: an argument is of another type than it says here.
        ValueError: an argument is out of range, whichever method is taken.

    Example:
        >>> covariance_sketch(784, 64)
        <FrequentDirections(n_features=784, sketch_size=64, buffer_size=128, alpha=1.0, ...
        >>> covariance_sketch(150, 64)
        <ExactGram(n_features=150, center=False, decay=1.0, nonfinite='skip') of 0 rows>
    """
    check_method(method)
    sketch = FrequentDirections(
        n_features,
        sketch_size,
        buffer_size=buffer_size,
        alpha=alpha,
        center=center,
        decay=decay,
        nonfinite=nonfinite,
    )
    fits = sketch.n_features <= sketch.sketch_size + sketch.buffer_size
    if method == "fd" or (method == "auto" and not fits):
        return sketch
    return ExactGram(n_features, center=center, decay=decay, nonfinite=nonfinite)
