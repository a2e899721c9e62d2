"""Telling of rows that entered no statistic because they are not finite."""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def tell_left_out(work: str, rows: Mapping[str, int]) -> dict[str, int]:
    """Returns the layers with rows left out, with their number, and warns once if there are any.

    Args:
        work: what was done without them.
        rows: by layer name.
    """
    found = {name: count for name, count in rows.items() if count}
    if found:
        first, count = next(iter(found.items()))
        logger.warning(
            "%s left out rows that are not finite, at %d layer(s): %d rows at %r first; "
            "look for nan and inf in the batches",
            work,
            len(found),
            count,
            first,
        )
    return found
