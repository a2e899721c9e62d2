"""Laws that every method keeps, as one check for the tests of third parties.

A method that passes has been read, not believed: it tells a unit from the same unit with zeros as
weights, finds the block that does nothing wherever it stands, says the same however the data is cut
and whatever random numbers were drawn before, scales as its unit of measure says, leaves the model
bit for bit as it was, and runs the model no more often than it declares.

Example:
    >>> from layer_importance import registry
    >>> from layer_importance.testing import check_method
    >>> check_method(registry.get("block_influence"))["zero_branch"]
    'holds'
"""

from collections.abc import Callable, Mapping

from layer_importance._examined import Examined
from layer_importance._laws_of_batches import (
    batch_order,
    batch_split,
    duplicates,
    loss_scale,
    merge,
    sample_order,
    sample_size,
)
from layer_importance._laws_of_runs import completeness, declaration, passes, untouched
from layer_importance._laws_of_units import (
    dead_unit,
    determinism,
    reads_the_unit,
    renaming,
    zero_branch,
)
from layer_importance._method import Method

__all__ = ["LAWS", "check_method"]

LAWS: Mapping[str, Callable[[Examined], str | None]] = {
    law.__name__: law
    for law in (
        declaration,
        completeness,
        determinism,
        reads_the_unit,
        zero_branch,
        dead_unit,
        renaming,
        batch_split,
        batch_order,
        sample_order,
        duplicates,
        merge,
        loss_scale,
        sample_size,
        passes,
        untouched,
    )
}
"""The laws, by name, in the order in which they are checked."""


def check_method(
    make: Callable[[], Method],
    *,
    exact: bool | None = None,
    skip: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Returns, for every law, that it holds or why it does not apply.

    Args:
        make: the method's class, or anything that makes a new one.
        exact: whether its score is a fixed function of the data. Where it is not, since labels or
            donors are drawn, runs on data cut in another way must agree within five standard
            errors. Without it: unless the method needs ``sampled`` labels.
        skip: laws that are not checked, with the reason; it comes back in the answer.

    Raises:
        AssertionError: naming the method, the law and by how much it is broken.
        ValueError: if ``skip`` names no law, or gives no reason.
    """
    for name, reason in (skip := skip or {}).items():
        if name not in LAWS or not reason:
            raise ValueError(
                f"skip must give a reason for each of {', '.join(LAWS)}, got {name!r}: {reason!r}"
            )
    one = make()
    it = Examined(make, exact="sampled" not in one.needs if exact is None else exact)
    found = {}
    for name, law in LAWS.items():
        if name in skip:
            found[name] = skip[name]
            continue
        try:
            found[name] = law(it) or "holds"
        except AssertionError as broken:
            raise AssertionError(f"method {one.name} breaks {name}: {broken}") from broken
    return found
