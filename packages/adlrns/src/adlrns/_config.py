"""The whole of a configuration, and what it tells the trainer."""

from typing import Any

import yaml
from pydantic import BaseModel, Field

from adlrns._config_sections import Data, Hardware, Model, Run, Scheduler, Section, Train
from adlrns_models import TrainConfig

SECTIONS: dict[str, type[BaseModel]] = {
    "model": Model,
    "train": Train,
    "scheduler": Scheduler,
    "hardware": Hardware,
    "data": Data,
    "run": Run,
}
# keys of the trainer that stand in other sections
ELSEWHERE = {
    "alpha": "scheduler.alpha",
    "beta": "scheduler.beta",
    "energy_budget_mj_per_sample": "scheduler.energy_budget_mJ_per_sample",
    "budget_batch": "scheduler.budget_batch",
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
            size = int(values["batch_size"] or 64)  # as `train` makes its batches
            values["budget_batch"] = self.scheduler.budget_batch or size
        return TrainConfig(**(values | changes))

    def to_yaml(self) -> str:
        """Returns the file that says all of it."""
        values = self.model_dump(exclude_none=True)
        # there nothing is a value too: clip_norm
        values["train"] = {k: v for k, v in self.train if k not in ELSEWHERE}
        return yaml.safe_dump(values, sort_keys=False)
