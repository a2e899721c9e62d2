"""Arrays of one sketch live in one place."""

from fd_sketch._arrays import Home


def check_place(mine: Home | None, home: Home, name: str) -> None:
    """Refuse arrays from another place than the first ones, if there were any.

    Raises:
        TypeError: the library is another.
        ValueError: the device is another.
    """
    if mine is None or home == mine:
        return
    kind = TypeError if home.library != mine.library else ValueError
    raise kind(f"{name} must be of {mine} like the data before, got {home}")
