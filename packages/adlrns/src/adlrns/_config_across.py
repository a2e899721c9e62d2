"""What no key of a configuration says alone."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from adlrns._config import ELSEWHERE, Config
from adlrns._config_sections import BUDGET, Hardware
from adlrns._config_yaml import Place

Found = tuple[Place, str]
# stands for a type that is wrong or missing, so that the other keys can be looked at
_ANY_TYPE = "adlrns_mlp"


def sound(values: Mapping[str, Any], details: Iterable[dict[str, Any]]) -> Config | None:
    """Returns the configuration without the keys that pydantic found wrong.

    None where nothing can be made of the rest.
    """
    kept, typed = deepcopy(dict(values)), True
    for detail in details:
        section, *inner = detail["loc"]
        if inner and isinstance(kept.get(section), dict):
            kept[section].pop(inner[0], None)
        else:
            kept.pop(section, None)
        typed &= section != "model" or bool(inner and inner[0] != "type")
    if not typed:  # which keys are its own cannot be said
        kept["model"] = {"type": _ANY_TYPE} | _ranks(kept.get("model"))
    try:
        return Config.model_validate(kept, strict=True)
    except ValidationError:
        return None


def _ranks(model: Any) -> dict[str, Any]:
    return {k: v for k, v in (model or {}).items() if k in ("r_min", "r_max")}


def across(lines: Mapping[Place, int], config: Config | None) -> Iterator[Found]:
    """Yields what is wrong between keys: the place of one, and a text.

    Args:
        lines: of the keys that the file has.
        config: what its sound keys say.
    """
    for name, home in ELSEWHERE.items():
        if ("train", name) in lines:
            yield ("train", name), f"train.{name} must be said as {home}"
    if config is None:
        return
    for name in config.model.foreign():
        yield ("model", name), f"model.{name} is no option of {config.model.type}"
    yield from _bounds(config)
    yield from _budget(lines, config)
    yield from _hardware(config.hardware)
    if len(set(config.run.seeds)) < len(config.run.seeds):
        yield ("run", "seeds"), f"run.seeds must differ, got {config.run.seeds}"


def _bounds(config: Config) -> Iterator[Found]:
    net, plan = config.model, config.scheduler
    for section, part in (("model", net), ("scheduler", plan)):
        low, high = part.r_min or 1, part.r_max
        if high is not None and low > high:
            yield (section, "r_max"), f"{section}.r_max must be at least {low}, got {high}"


def _budget(lines: Mapping[Place, int], config: Config) -> Iterator[Found]:
    said = any(("scheduler", name) in lines for name in BUDGET)
    if config.scheduler.type == "energy_aware" and not said:
        yield ("scheduler", "type"), f"scheduler.{BUDGET[0]} must be given for energy_aware"


def _hardware(section: Hardware) -> Iterator[Found]:
    """All that an estimator refuses: it tells one at a time, so what it told is left out."""
    given = section.model_dump(exclude_none=True)
    while True:
        try:
            Hardware(**given).estimator()
        except (ValueError, TypeError) as error:
            key = max((k for k in given if str(error).startswith(k)), key=len, default="")
            yield ("hardware", key), f"hardware.{error}"
            given.pop(key, None)
            if key == "gpu_cores":  # without them it has no meaning
                given.pop("clock_hz", None)
            if key:
                continue
        return
