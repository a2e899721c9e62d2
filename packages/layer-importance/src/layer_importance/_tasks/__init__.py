"""The tasks that come with the package: one file each, one row here."""

from layer_importance._task import Task
from layer_importance._tasks.classification import Classification

BUILT_IN: tuple[type[Task], ...] = (Classification,)


def task(which: str | Task) -> Task:
    """Returns the task called so, or the one given.

    Raises:
        ValueError: if there is none of that name.
    """
    if isinstance(which, Task):
        return which
    named = {kind.name: kind for kind in BUILT_IN}
    if which not in named:
        raise ValueError(f"task must be a Task or one of {', '.join(named)}, got {which!r}")
    return named[which]()
