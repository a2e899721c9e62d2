"""What an adapter is told: names of tasks and modalities, and how an analysis is to be run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from layer_importance._batch import size, take
from layer_importance._entry_points import ADAPTERS, TASKS, offered
from layer_importance._registry import registry


class TaskType(StrEnum):
    """What a model is for; each is the name of a task."""

    CLASSIFICATION = "classification"
    GENERATION = "generation"
    RETRIEVAL = "retrieval"
    RECOMMENDATION = "recommendation"
    DETECTION = "detection"
    SEGMENTATION = "segmentation"
    TRANSLATION = "translation"
    SUMMARIZATION = "summarization"
    QA = "qa"
    REINFORCEMENT_LEARNING = "reinforcement_learning"


class ModalityType(StrEnum):
    """What kind of data a model reads; each is the name of a modality."""

    TEXT = "text"
    VISION = "vision"
    AUDIO = "audio"
    MULTIMODAL = "multimodal"
    GRAPH = "graph"
    TABULAR = "tabular"


METHODS = ("fisher_information", "gradient_based", "layer_ablation")
TARGETS = (1.5, 2.0, 2.5, 3.0)


@dataclass(kw_only=True)
class AnalysisConfig:
    """How a :class:`~layer_importance.UniversalLayerwiseAdapter` works.

    Attributes:
        model_name: what the model is called in results; nothing is fetched by it.
        task_type: what the model is for.
        modality_type: what it reads.
        batch_size: samples of a data set that go through the model at once; larger batches of a
            loader are cut.
        max_samples: at most so many samples are used.
        compression_targets: ratios of layers that ``generate_compression_plans`` makes plans for;
            the first is what ``generate_compression_plan`` takes if it is told none.
        analysis_methods: names of methods, in the order of the results. One that nearly is a name
            is refused here; one that is none, and was not added to the adapter's registry, when
            the analysis begins.
        seed: of everything drawn at random.

    Raises:
        ValueError: if a name is unknown or a number out of its range.

    Example:
        >>> AnalysisConfig(model_name="mine", task_type="qa", modality_type="text").task_type
        <TaskType.QA: 'qa'>
    """

    model_name: str
    task_type: TaskType | str
    modality_type: ModalityType | str
    batch_size: int = 32
    max_samples: int = 1000
    compression_targets: Sequence[float] = TARGETS
    analysis_methods: Sequence[str] = METHODS
    seed: int = 0

    def __post_init__(self) -> None:
        self.task_type = _named(TaskType, self.task_type, "task_type", TASKS)
        self.modality_type = _named(ModalityType, self.modality_type, "modality_type", ADAPTERS)
        for name in ("batch_size", "max_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.analysis_methods, str) or not self.analysis_methods:
            raise ValueError(
                f"analysis_methods must be a list of names, got {self.analysis_methods!r}"
            )
        known = registry.names()
        for name in self.analysis_methods:
            # another name may be one of a method that is added later
            if name not in known and (near := registry.nearest(name, least=0.8)):
                raise ValueError(
                    f"analysis_methods must be of {', '.join(known)}, got {name!r}{near}"
                )
        if not self.compression_targets or not all(t >= 1 for t in self.compression_targets):
            raise ValueError(
                f"compression_targets must be ratios of at least 1, got {self.compression_targets}"
            )


def _named(kind: type[StrEnum], value: str, what: str, group: str) -> Any:
    if value in offered(group):
        return value
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{what} must be one of {', '.join(kind)}, got {value!r}") from None


@dataclass(slots=True)
class Limited:
    """The batches of a loader, cut to ``batch_size`` samples, ``max_samples`` in all.

    Attributes:
        source: a loader, a data set or any iterable of batches; one that can be read only once is
            kept, as far as it is used.
        batch_size: at most so many samples a batch, where a batch has parts.
        max_samples: at most so many samples in all; batches without parts are whole or left out.
        divisible: whether some samples of a batch are a batch.
    """

    source: Any
    batch_size: int
    max_samples: int
    divisible: Callable[[Any], bool] = field(default=lambda batch: True)

    def __post_init__(self) -> None:
        if isinstance(self.source, Dataset) and not isinstance(self.source, IterableDataset):
            self.source = DataLoader(self.source, batch_size=self.batch_size)
        if iter(self.source) is self.source:
            self.source = list(self._read())

    def __iter__(self) -> Iterator[Any]:
        return self._read()

    def _read(self) -> Iterator[Any]:
        left = self.max_samples
        for batch in self.source:
            count = size(batch)
            if not self.divisible(batch):
                if count > left < self.max_samples:
                    return
                yield batch
                left -= count
            elif count <= min(left, self.batch_size):
                yield batch
                left -= count
            else:
                rows = list(range(min(count, left)))
                for start in range(0, len(rows), self.batch_size):
                    yield take(batch, rows[start : start + self.batch_size])
                left -= len(rows)
            if left <= 0:
                return
