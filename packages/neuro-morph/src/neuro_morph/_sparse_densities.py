"""How many weights each layer of a sparse network has."""

from collections.abc import Mapping
from math import prod

from neuro_morph._arguments import check_kind, check_number

DISTRIBUTIONS = ("erk", "uniform")


def erk_densities(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Returns densities of layers by the Erdos-Renyi-kernel rule.

    A weight of shape ``(n_out, n_in, k_w, k_h)`` has the density ``eps * (n_out + n_in + k_w + k_h)
    / (n_out * n_in * k_w * k_h)``, at most 1, with ``eps`` such that all together have ``density``:
    the larger a layer, the sparser it is.

    Args:
        shapes: shapes of weights, by name.
        density: the share of all weights that are there, above 0 and at most 1.

    Raises:
        ValueError: if ``density`` is not in that range or there are no shapes.

    Example:
        >>> from neuro_morph import erk_densities
        >>> erk_densities({"a": (20, 10), "b": (100, 100)}, 0.1)
        {'a': 0.665..., 'b': 0.0886...}

    Source: Evci et al., RigL (arXiv:1911.11134), section 3.
    """
    check_density(shapes, density)
    dense: set[str] = set()
    while True:
        sparse = {n: s for n, s in shapes.items() if n not in dense}
        wanted = density * sum(map(prod, shapes.values())) - sum(prod(shapes[n]) for n in dense)
        eps = wanted / sum(map(sum, sparse.values())) if sparse else 0.0
        found = {n: eps * sum(s) / prod(s) for n, s in sparse.items()}
        full = {n for n, d in found.items() if d > 1}
        if not full:
            return {n: found.get(n, 1.0) for n in shapes}
        dense |= full


def uniform_densities(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Returns one density for all layers."""
    check_density(shapes, density)
    return dict.fromkeys(shapes, float(density))


def weight_counts(
    shapes: Mapping[str, tuple[int, ...]], density: float, distribution: str
) -> dict[str, int]:
    """Returns the number of weights of each layer; their sum is that of the density, rounded.

    Raises:
        ValueError: for an unknown distribution or a density out of range.
    """
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(repr(each) for each in DISTRIBUTIONS)
        raise ValueError(f"distribution must be one of {known}, got {distribution!r}")
    rule = erk_densities if distribution == "erk" else uniform_densities
    exact = {n: d * prod(shapes[n]) for n, d in rule(shapes, density).items()}
    counts = {n: int(value) for n, value in exact.items()}
    missing = round(density * sum(map(prod, shapes.values()))) - sum(counts.values())
    room = (n for n in exact if counts[n] < prod(shapes[n]))
    for name in sorted(room, key=lambda n: counts[n] - exact[n])[:missing]:
        counts[name] += 1
    return counts


def check_density(shapes: Mapping[str, tuple[int, ...]], density: float) -> None:
    """Raises ValueError if there is nothing to thin out or the density is out of range."""
    check_kind(Mapping, shapes=shapes)
    check_number(density=density)
    if not shapes:
        raise ValueError("shapes must not be empty: there is no layer to make sparse")
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density must be above 0 and at most 1, got {density!r}")
