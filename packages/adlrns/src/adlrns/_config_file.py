"""A configuration file, checked: every mistake with file, line and key."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from adlrns._config_sections import Data, Hardware, Model, Run, Scheduler, Section, Train
from adlrns._config_yaml import Place, Source
from adlrns._errors import UseError
from adlrns_models import TrainConfig

_SECTIONS: dict[str, type[BaseModel]] = {
    "model": Model,
    "train": Train,
    "scheduler": Scheduler,
    "hardware": Hardware,
    "data": Data,
    "run": Run,
}
# keys of the trainer that stand in other sections
_ELSEWHERE = {
    "alpha": "scheduler.alpha",
    "beta": "scheduler.beta",
    "energy_budget_mj_per_sample": "scheduler.energy_budget_mJ_per_sample",
    "seed": "run.seeds",
}
_MICROJOULES = "hardware.energy_per_flop has no unit, {0:g} is read as microjoules: {1:g} J"


class Config(Section):
    """The whole of a configuration; what it does not say is filled in."""

    model: Model
    train: Train = Field(default_factory=Train)
    scheduler: Scheduler = Field(default_factory=Scheduler)
    hardware: Hardware = Field(default_factory=Hardware)
    data: Data = Field(default_factory=Data)
    run: Run = Field(default_factory=Run)

    def notes(self) -> list[str]:
        """Returns what a reader should know about how it was read."""
        bare = self.hardware.energy_per_flop
        return [] if bare is None else [_MICROJOULES.format(bare, 1e-6 * bare)]

    def training(self, seed: int, **changes: Any) -> TrainConfig:
        """Returns what the trainer is told, for a seed."""
        values = dict(self.train)
        values |= {"seed": seed, "alpha": self.scheduler.alpha, "beta": self.scheduler.beta}
        if self.scheduler.energy_budget_mJ_per_sample is not None:
            budget = self.scheduler.energy_budget_mJ_per_sample
            values["energy_budget_mj_per_sample"] = budget
        return TrainConfig(**(values | changes))

    def to_yaml(self) -> str:
        """Returns the file that says all of it."""
        values = self.model_dump(exclude_none=True)
        # there nothing is a value too: clip_norm
        values["train"] = {k: v for k, v in self.train if k not in _ELSEWHERE}
        return yaml.safe_dump(values, sort_keys=False)


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
        found = [_problem(source, dict(detail)) for detail in error.errors()]
        problems += [(line, text) for line, text in found if line not in told]
    else:
        problems += _across(source, config)
    if problems:
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
    section = _SECTIONS.get(place[0]) if len(place) > 1 else None
    known = list(section.model_fields if section else _SECTIONS)
    near = get_close_matches(place[-1], known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {'.'.join(place)}: {hint}"


def _across(source: Source, config: Config) -> list[tuple[int, str]]:
    """What no key says alone."""
    found: list[tuple[Place, str]] = []
    net, plan = config.model, config.scheduler
    found += [
        (("model", name), f"model.{name} is no option of {net.type}") for name in net.foreign()
    ]
    for section, part in (("model", net), ("scheduler", plan)):
        low, high = part.r_min or 1, part.r_max
        if high is not None and low > high:
            text = f"{section}.r_max must be at least {low}, got {high}"
            found.append(((section, "r_max"), text))
    if plan.type == "energy_aware" and plan.energy_budget_mJ_per_sample is None:
        text = "scheduler.energy_budget_mJ_per_sample must be given for energy_aware"
        found.append((("scheduler", "type"), text))
    for name, home in _ELSEWHERE.items():
        if ("train", name) in source.lines:
            found.append((("train", name), f"train.{name} must be said as {home}"))
    try:
        config.hardware.estimator()
    except (ValueError, TypeError) as error:
        key = next((k for k in Hardware.model_fields if str(error).startswith(k)), "")
        found.append((("hardware", key), f"hardware.{error}"))
    if len(set(config.run.seeds)) < len(config.run.seeds):
        found.append((("run", "seeds"), f"run.seeds must differ, got {config.run.seeds}"))
    return [(source.line(place), text) for place, text in found]
