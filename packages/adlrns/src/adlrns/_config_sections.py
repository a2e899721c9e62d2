"""The sections of a configuration: their keys, and what may stand there."""

import inspect
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, create_model

import adlrns_models
from adlrns._datasets import names
from adlrns_models import TrainConfig
from rank_sched import PerfEstimator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]

NETS = {
    name: getattr(adlrns_models, name)
    for name in ("adlrns_mlp", "adlrns_resnet", "adlrns_transformer", "adlrns_vit")
}
# what the data say
_IMPLIED = ("in_features", "channels", "classes", "image_size", "vocabulary", "length", "kind")


class Section(BaseModel):
    """A section: no other keys, no values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Section):
    """The network; sizes that the data decide are no part of it."""

    type: Literal["adlrns_mlp", "adlrns_resnet", "adlrns_transformer", "adlrns_vit"]
    r_min: Count | None = None
    r_max: Count | None = None
    scorer_hidden: Count | None = None
    num_gate_blocks: Count | None = None
    gate: Literal["spectral", "learned", "block"] | None = None
    granularity: Literal["call", "sample"] | None = None
    hidden: list[Count] | None = None
    width: Count | None = None
    blocks: list[Count] | None = None
    depth: Count | None = None
    heads: Count | None = None
    patch: Count | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    def options(self) -> dict[str, Any]:
        """Returns what was given, but for the type."""
        return {k: v for k, v in self.model_dump().items() if v is not None and k != "type"}

    def foreign(self) -> list[str]:
        """Returns the keys that a network of this type does not take."""
        own = inspect.signature(NETS[self.type]).parameters
        shared = {"r_min", "r_max", "scorer_hidden", "num_gate_blocks", "gate", "granularity"}
        return [name for name in self.options() if name not in shared and name not in own]


def _rule(name: str, value: Any) -> Any:
    try:
        TrainConfig(**{name: value})
    except TypeError as error:
        raise ValueError(error) from None
    return value


# the trainer's own rules, one key at a time, so that all mistakes can be told
Train = create_model(
    "Train",
    __base__=Section,
    __doc__="How the network is trained; see `adlrns_models.TrainConfig`.",
    **{  # type: ignore[call-overload]
        field.name: (Annotated[Any, AfterValidator(partial(_rule, field.name))], field.default)
        for field in fields(TrainConfig)
    },
)


# the published spelling, and that of `TrainConfig`
BUDGET = ("energy_budget_mJ_per_sample", "energy_budget_mj_per_sample")


class Scheduler(Section):
    """What a layer may spend, and who has the last word on its rank."""

    type: Literal["energy_aware", "complexity"] | None = None
    energy_budget_mJ_per_sample: Annotated[float, Field(gt=0)] | None = Field(  # noqa: N815
        default=None, validation_alias=AliasChoices(*BUDGET)
    )
    budget_batch: Count | None = None
    alpha: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.1
    r_min: Count | None = None
    r_max: Count | None = None


class Hardware(Section):
    """The device that costs are predicted for."""

    gpu_type: str | None = None
    flops_per_mac: float | None = None
    gpu_cores: Count | None = None
    clock_hz: float | None = None
    memory_bandwidth: float | None = None
    energy_per_flop: float | None = None
    energy_per_flop_j: float | None = None
    energy_per_byte_j: float | None = None
    idle_power_w: float | None = None
    launch_overhead_s: float | None = None
    memory_bytes: float | None = None

    def estimator(self) -> PerfEstimator:
        """Returns what predicts costs.

        Raises:
            ValueError: for a device that is none.
        """
        table = {k: v for k, v in self.model_dump().items() if v is not None}
        bare = table.pop("energy_per_flop", None)
        if bare is not None:
            if "energy_per_flop_j" in table:
                raise ValueError("energy_per_flop must not stand beside energy_per_flop_j")
            table["energy_per_flop_j"] = 1e-6 * bare
        return PerfEstimator(table) if table else PerfEstimator("desktop-cpu")


def _known(name: str) -> str:
    if name not in names():
        raise ValueError(f"name must be one of {', '.join(names())}, got {name!r}")
    return name


class Data(Section):
    """What to train with; a path is relative to the configuration's folder."""

    name: Annotated[str, AfterValidator(_known)] | None = None
    path: str | None = None
    task: str | None = None
    limit: Count | None = None
    size: Count | None = None
    length: Count | None = None
    vocabulary: Count | None = None

    def options(self) -> dict[str, Any]:
        """Returns the options that were given."""
        given = self.model_dump(exclude={"name", "path"})
        return {name: value for name, value in given.items() if value is not None}


def _device(name: str) -> str:
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        known = "auto, or a name that torch knows, such as cpu or cuda:0"
        raise ValueError(f"device must be {known}, got {name!r}") from None
    return name


class Run(Section):
    """How often, and what `adlrns experiment` compares.

    Attributes:
        seeds: one run each.
        device: `auto`, or torch's name of one.
        budgets: shares of the dense FLOPs, mean over inputs.
        weights: share of the dense weights that a network of many ranks may hold.
        ablation_budget: share of the dense FLOPs at which parts are switched off.
        sketch_size: rows of a layer's sketch.
        form: of settled layers: `auto` for the fewest weights, `fastest` for the least time in
            batches of `batch`.
        tune_epochs: epochs in which networks of low rank recover; 0 leaves them as they are.
        held_out: share of the training part on which thresholds are set.
        batch: images or sentences of the larger of the two batches that are timed.
        rounds: of timing.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    device: Annotated[str, AfterValidator(_device)] = "auto"
    budgets: Annotated[list[Share], Field(min_length=1)] = [0.4]
    weights: Share = 1.0
    ablation_budget: Share = 0.2
    sketch_size: Annotated[int, Field(ge=2)] = 128
    form: Literal["auto", "fastest"] = "auto"
    tune_epochs: Annotated[int, Field(ge=0)] = 2
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    batch: Count = 64
    rounds: Count = 40
