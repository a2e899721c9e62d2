"""The whole way in one object: a configuration, a model, scores, plans, the smaller model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from layer_importance._adapter_config import AnalysisConfig, Limited, ModalityType, TaskType
from layer_importance._analyze import analyze
from layer_importance._analyzers import AnalyzerRegistry, UniversalModel
from layer_importance._execute.carry_out import carry_out
from layer_importance._execute.compressed import Compressed
from layer_importance._modalities import find_modality
from layer_importance._plan import CompressionPlan
from layer_importance._planning import plan as make_plan
from layer_importance._report import Report


class UniversalLayerwiseAdapter:
    """Analyses one model and makes it smaller, as its configuration says.

    A face over :func:`~layer_importance.analyze`, ``plan`` and ``carry_out``, which can do more.

    Args:
        config: how.

    Attributes:
        config: how.
        registry: methods by name; what is added to it runs too.
        model: the model, once loaded.
        report: all that the last analysis found.
        plan: the last plan.
    """

    def __init__(self, config: AnalysisConfig) -> None:
        self.config = config
        self.registry = AnalyzerRegistry()
        self.model: nn.Module | None = None
        self.report: Report | None = None
        self.plan: CompressionPlan | None = None
        self._layers: list[str] | None = None
        self._batches: Limited | None = None

    def load_model(self, model: nn.Module | UniversalModel) -> None:
        """Takes the model that is analysed; what was found of another is forgotten.

        Raises:
            TypeError: if it is no model.
        """
        layers = (model.layers or None) if isinstance(model, UniversalModel) else None
        module = model.model if isinstance(model, UniversalModel) else model
        if not isinstance(module, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(module).__name__}")
        self.model, self._layers = module, layers
        self.report = self.plan = self._batches = None

    def analyze_importance(self, data_loader: Any) -> dict[str, dict[str, float]]:
        """Returns a score for each layer by each method: ``results[method][layer]``.

        Errors, units of measure and what else was found are in :attr:`report`. A method that
        cannot run has no entry, and ``report.reasons`` says why.

        Args:
            data_loader: batches in the form the task reads, or a data set of samples.

        Raises:
            ValueError: if no model is loaded, or as :func:`~layer_importance.analyze` does.
        """
        config, model = self.config, self._loaded("analyze_importance")
        known = self.registry.names()
        if strange := [name for name in config.analysis_methods if name not in known]:
            raise ValueError(
                f"analysis_methods must be of {', '.join(known)}, got {strange[0]!r}"
                f"{self.registry.nearest(strange[0])}; a method of your own is added first"
            )
        modality = find_modality(str(config.modality_type), None)
        batches = Limited(data_loader, config.batch_size, config.max_samples, modality.divisible)
        added = [name for name in self.registry.added if name not in config.analysis_methods]
        report = analyze(
            model,
            batches,
            task=str(config.task_type),
            methods=[*config.analysis_methods, *added],
            units=self._layers,
            modality=modality,
            seed=config.seed,
            registry=self.registry,
        )
        facts = {**report.facts, "model_name": config.model_name}
        self.report, self._batches = replace(report, facts=facts), batches
        return {
            name: {unit: score.value for unit, score in scores.items()}
            for name, scores in report.methods.items()
        }

    def generate_compression_plan(
        self, target_ratio: float | None = None, *, ratio_of: str = "layers", **targets: Any
    ) -> dict[str, Any]:
        """Returns which layers to keep, and what that does, measured on data held back.

        Args:
            target_ratio: of the model before over the model afterwards, at least; the first of
                ``compression_targets`` if no target is given.
            ratio_of: what it is a ratio of: ``layers``, their number, here and in
                ``compression_targets``; or ``parameters`` of the whole model, which is what
                :func:`~layer_importance.plan` takes if it is told nothing.
            targets: another target in its place: ``params``, ``flops``, ``latency_s`` or ``units``
                that may remain; and whatever else ``plan`` takes, such as ``keep``.

        Returns:
            A dictionary of ``original_layers`` and ``compressed_layers``, their numbers;
            ``target_ratio``, with what it is of, ``ratio_of``; what came of it, ``achieved_ratio``
            of layers and ``parameter_ratio`` of the whole model; ``kept_layers`` and
            ``removed_layers`` by name, ``bridged_layers`` among the latter;
            ``layer_importance``, what each layer's score was taken to be; ``damage``, the change of
            the mean loss, and ``damage_interval``; ``quality`` and ``quality_change`` where the
            task has one; ``model_name``, ``asked``, ``notes``; and ``plan``, all of it.

        Raises:
            ValueError: if nothing was analysed yet, or the target cannot be met.
        """
        model = self._loaded("generate_compression_plan")
        if self.report is None or self._batches is None:
            raise ValueError("analyze_importance must come before generate_compression_plan")
        named = {"params", "flops", "latency_s", "units"} & targets.keys()
        if target_ratio is None and not named:
            target_ratio = self.config.compression_targets[0]
        self.plan = make_plan(
            model,
            self._batches,
            report=self.report,
            task=str(self.config.task_type),
            modality=str(self.config.modality_type),
            seed=self.config.seed,
            target_ratio=target_ratio,
            ratio_of=ratio_of,
            **targets,
        )
        return self._described(self.plan, target_ratio, ratio_of)

    def generate_compression_plans(self, **options: Any) -> dict[float, dict[str, Any]]:
        """Returns a plan for each of the configuration's ``compression_targets``."""
        return {
            ratio: self.generate_compression_plan(ratio, **options)
            for ratio in self.config.compression_targets
        }

    def apply_compression_plan(self, plan: Mapping[str, Any] | None = None) -> Compressed:
        """Returns the smaller model, proven to be what was planned; the loaded one stays.

        Args:
            plan: what :meth:`generate_compression_plan` returned; the last one if not given.

        Raises:
            ValueError: if there is no plan, or it removes nothing or cannot be carried out.
        """
        model = self._loaded("apply_compression_plan")
        chosen = self.plan if plan is None else plan["plan"]
        if chosen is None or self.report is None or self._batches is None:
            raise ValueError("generate_compression_plan must come before apply_compression_plan")
        return carry_out(
            model,
            chosen,
            example=next(iter(self._batches)),
            units=self.report.units,
        )

    def _loaded(self, what: str) -> nn.Module:
        if self.model is None:
            raise ValueError(f"load_model must come before {what}")
        return self.model

    def _described(
        self, plan: CompressionPlan, target_ratio: float | None, ratio_of: str
    ) -> dict[str, Any]:
        before, after = plan.before, plan.achieved
        removed, kept = plan.removals, plan.kept
        return {
            "model_name": self.config.model_name,
            "original_layers": len(plan.actions),
            "compressed_layers": len(kept),
            "target_ratio": target_ratio,
            "ratio_of": None if target_ratio is None else ratio_of,
            "achieved_ratio": len(plan.actions) / max(len(kept), 1),
            "parameter_ratio": before["parameters"] / max(after["parameters"], 1),
            "original_parameters": int(before["parameters"]),
            "compressed_parameters": int(after["parameters"]),
            "kept_layers": kept,
            "removed_layers": removed,
            "bridged_layers": [a.unit for a in plan.actions if a.do == "bridge"],
            "layer_importance": {a.unit: a.score for a in plan.actions},
            "damage": plan.damage.mean,
            "damage_interval": (plan.damage.low, plan.damage.high),
            "quality": plan.quality,
            "quality_change": None if plan.quality_change is None else plan.quality_change.mean,
            "asked": dict(plan.asked),
            "notes": list(plan.notes),
            "plan": plan,
        }


def create_analyzer(
    model_name: str,
    task_type: TaskType | str = TaskType.CLASSIFICATION,
    modality_type: ModalityType | str = ModalityType.TEXT,
    **options: Any,
) -> UniversalLayerwiseAdapter:
    """Returns an adapter for a task and a modality.

    Args:
        model_name: what the model is called in results; nothing is fetched by it.
        task_type: what the model is for.
        modality_type: what it reads.
        options: the other fields of :class:`AnalysisConfig`, such as ``analysis_methods``.

    Raises:
        ValueError: if a name is unknown or a number out of its range.
        TypeError: if there is no such option.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        ...     def forward(self, x):
        ...         return x + self.down(torch.relu(self.up(x)))
        >>> net = nn.Sequential(*[Block() for _ in range(4)], nn.Linear(8, 3))
        >>> adapter = create_analyzer("mine", "classification", "tabular")
        >>> adapter.load_model(net)
        >>> data = [(torch.randn(16, 8), torch.randint(3, (16,))) for _ in range(4)]
        >>> list(adapter.analyze_importance(data))
        ['fisher_information', 'gradient_based', 'layer_ablation']
        >>> found = adapter.generate_compression_plan(target_ratio=2)
        >>> found["original_layers"], found["compressed_layers"]
        (4, 2)
    """
    config = AnalysisConfig(
        model_name=model_name, task_type=task_type, modality_type=modality_type, **options
    )
    return UniversalLayerwiseAdapter(config)
