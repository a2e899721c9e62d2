"""A configuration file, read: every mistake with file, line and key."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adlrns._config import SECTIONS, Config
from adlrns._config_across import across, sound
from adlrns._config_yaml import Place, Source
from adlrns._errors import UseError

__all__ = ["Config", "read_config"]


def read_config(path: Path) -> Config:
    """Returns the configuration in a file.

    Raises:
        UseError: naming every line and key that is wrong, in the order of the file.
    """
    source = Source(path)
    problems = list(source.problems)
    try:
        config = Config.model_validate(source.values, strict=True)
    except ValidationError as error:
        told = {line for line, _ in problems}
        details = [dict(detail) for detail in error.errors()]
        found = [_problem(source, detail) for detail in details]
        problems += [(line, text) for line, text in found if line not in told]
        config = None
        rest = sound(source.values, details)
    else:
        rest = config
    problems += [(source.line(place), text) for place, text in across(source.lines, rest)]
    if problems or config is None:
        lines = dict.fromkeys(f"{source.where(line)}: {text}" for line, text in sorted(problems))
        raise UseError("; ".join(lines))
    return config


def _problem(source: Source, detail: dict[str, Any]) -> tuple[int, str]:
    # unions and lists add parts of their own to the path
    place = tuple(str(part) for part in detail["loc"])
    while place and place not in source.lines and detail["type"] != "missing":
        place = place[:-1]
    name = ".".join(place) or "the file"
    line = source.line(place)
    if detail["type"] == "extra_forbidden":
        return line, _unknown(place)
    if detail["type"] == "missing":
        return line, f"{name} must be given"
    return line, _ruled(name, detail)


def _ruled(name: str, detail: dict[str, Any]) -> str:
    got = detail["input"]
    if detail["type"] == "value_error":  # it begins with the key
        return f"{name.rpartition('.')[0]}.{detail['ctx']['error']}"
    if isinstance(got, dict) or detail["type"] == "model_type":
        return f"{name} must be keys with values, got {got!r}"
    rule = detail["msg"].replace("Input should", "must").replace("Value should", "must")
    return f"{name} {rule}, got {got!r}"


def _unknown(place: Place) -> str:
    section = SECTIONS.get(place[0]) if len(place) > 1 else None
    known = list(section.model_fields if section else SECTIONS)
    near = get_close_matches(place[-1], known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {'.'.join(place)}: {hint}"
