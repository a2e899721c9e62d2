"""The face of dynamic neural morphogenesis: a loop that hands over what it sees, and grows."""

from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Any, SupportsFloat

from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._arguments import check_number
from neuro_morph._dnm_analyzer import LayerPerformanceAnalyzer
from neuro_morph._dnm_caches import Given, LayerCaches
from neuro_morph._dnm_config import DNMConfig
from neuro_morph._dnm_connections import ConnectionGrowthManager
from neuro_morph._dnm_division import AdaptiveNeuronDivision
from neuro_morph._dnm_growing import Grower
from neuro_morph._dnm_pace import Pace, kept
from neuro_morph._dnm_rollback import Rollback
from neuro_morph._dnm_run import Run
from neuro_morph._dnm_summary import count, summary_of
from neuro_morph._dnm_when import Monitor
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._morpher import Morpher
from neuro_morph._spec import ArchitectureSpec


class DNMFramework:
    """Grows a network while a loop of one's own trains it: four calls an epoch.

    ``update_caches`` takes what the layers did, ``record_performance`` the held-out result,
    ``should_trigger_morphogenesis`` says whether to grow, ``execute_morphogenesis`` grows: units
    divide where the network is too small (:class:`Divide`, so that it computes what it did, and
    new units come in over some epochs), every third change connects two layers; where no units
    can divide two layers are connected instead, and the other way round. Everything goes through a
    :class:`Morpher`: checked, logged, undone if the next performance is worse.

    The model's inputs and its optimizers are found while it trains, unless they are given. The
    model and its parameters stay the same objects. ``save_checkpoint(file, model, dnm.spec,
    optimizer)`` saves what has grown.

    Args:
        model: any module.
        config: the settings of :class:`DNMConfig`, by name; what is left out has its default.
        optimizer: what trains the model, or several; None to find it when it makes a step.
        example_inputs: what the model is called with (see :class:`Morpher`); None to take it from
            the model's latest call.
        others: anything else that belongs to the run (see :class:`Morpher`): schedulers, scalers.
        log: a file for the events; None for none.
        seed: of new numbers.
        spec: what ``load_checkpoint`` gave, for a model that has grown before (see
            :class:`Morpher`).

    Attributes:
        config: the settings.
        caches: what ``update_caches`` was given last.
        analyzer: finds the groups that are too small.
        connections: grows connections.

    Raises:
        TypeError: for a model, config or value of the wrong type.
        ValueError: for a key of ``config`` that is not known, a value out of range, or a ``spec``
            that does not end with the model's shapes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from neuro_morph import DNMFramework
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> dnm = DNMFramework(model, {"morphogenesis_interval": 1})
        >>> optimizer, x = torch.optim.Adam(model.parameters()), torch.randn(16, 4)
        >>> for epoch in range(1, 3):
        ...     optimizer.zero_grad()
        ...     hidden = model[0](x)
        ...     hidden.retain_grad()
        ...     model(x)  # shows what the model is called with
        ...     loss = model[2](hidden.relu()).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     dnm.update_caches({"0": hidden}, {"0": hidden.grad}, None)
        ...     dnm.record_performance(0.5)
        ...     grow, why = dnm.should_trigger_morphogenesis(epoch, {}, {"accuracy": 0.5})
        tensor(...
        >>> grow, dnm.execute_morphogenesis(2)["parameters_added"]
        (True, 14)
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | DNMConfig | None = None,
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        example_inputs: Any = None,
        others: Iterable[Any] = (),
        log: str | Path | None = None,
        seed: int = 0,
        spec: ArchitectureSpec | None = None,
    ) -> None:
        self.config = DNMConfig.of(config)
        self._run = Run(
            model, optimizer, example_inputs, others=others, log=log, seed=seed, spec=spec
        )
        self.caches = LayerCaches()
        self.analyzer = LayerPerformanceAnalyzer(self.config.bottleneck_detection_metrics)
        self.connections = ConnectionGrowthManager()
        self._monitor = Monitor(
            self.config.morphogenesis_interval, self.config.performance_improvement_threshold
        )
        self._rollback = Rollback(
            enabled=self.config.rollback_enabled,
            threshold=self.config.performance_drop_threshold,
            pause=self.config.morphogenesis_interval,
        )
        self._pace = Pace(self.config)
        self._reasons: list[str] = []
        self._last = 0

    @property
    def model(self) -> nn.Module:
        """The model to train on: what was given, in new wrappers where they have to be."""
        return self._run.model

    @property
    def events(self) -> list[MorphogenesisEvent]:
        """All that was done, refused or rolled back."""
        return self._run.events

    @property
    def morpher(self) -> Morpher | None:
        """The run that edits go through; None until inputs and optimizers are known."""
        return self._run.morpher

    @property
    def spec(self) -> ArchitectureSpec:
        """The edits that the model has grown by: saved beside its state, they build it again."""
        return self._run.spec

    @property
    def division(self) -> AdaptiveNeuronDivision:
        """Divides units: over as many optimizer steps as the epochs asked for have."""
        epochs = self.config.progressive_activation_epochs
        return AdaptiveNeuronDivision(
            self.config.neuron_division_strategy,
            noise=self.config.division_noise_scale,
            steps=epochs * self._run.epoch_steps() if epochs else 0,
        )

    def update_caches(
        self, activations: Given, gradients: Given, targets: Tensor | None = None
    ) -> None:
        """Takes a batch's activations, gradients and targets (see :meth:`LayerCaches.update`).

        Raises:
            TypeError: for what is no tensor of floating point numbers.
            ValueError: for the name of no layer, or sizes that do not fit together.
        """
        self.caches.update(self._run.inner, activations, gradients, targets)
        if self.caches.spoiled:
            self._monitor.traces.gradient_norm.append(float("nan"))

    def record_performance(self, performance: float) -> bool:
        """Takes the held-out result of an epoch, the larger the better.

        The first one after growth is compared with the last one before: if it is worse by more
        than the threshold the run is put back as it was then, bit for bit, training included. A
        result that is not a number is worse than any other.

        Returns:
            Whether the run was put back.

        Raises:
            TypeError: if it is no number.
            ValueError: if it is infinitely good: nothing could be better.
        """
        if isinstance(performance, bool) or not isinstance(performance, SupportsFloat):
            raise TypeError(f"performance must be a number, got {performance!r}")
        if float(performance) == inf:
            raise ValueError(f"performance must be below infinity, got {performance!r}")
        self._run.end_epoch()
        undone = self._rollback.judge(float(performance), self._run.morpher, self._last)
        if undone:
            self._since_growth()
        return bool(undone)

    def should_trigger_morphogenesis(
        self, epoch: int, train_metrics: Mapping[str, float], val_metrics: Mapping[str, float]
    ) -> tuple[bool, list[str]]:
        """Returns whether to grow now, and the triggers that ask for it, or what stands against it.

        Args:
            epoch: the epoch that has ended, from 1.
            train_metrics: its ``loss`` and ``accuracy`` on training data.
            val_metrics: the same on held-out data; one of them has to be there.

        Raises:
            ValueError: if ``val_metrics`` has neither.
            TypeError: if ``epoch`` is no integer.
        """
        check_number(whole=True, epoch=epoch)
        self._monitor.add_epoch(train_metrics, val_metrics)
        blocked = self._pace.why_not(epoch, self.events, resumes=self._rollback.resumes)
        if blocked is not None:
            return False, [blocked]
        if self.caches.activations and not self.caches.spoiled and self._run.ready():
            with self._run.at_rest() as morpher:
                held = self.analyzer.measure(
                    morpher.model, morpher.graph, morpher.inputs, self.caches
                )
            self._monitor.add_units(held)
        grow, self._reasons = self._monitor.decide()
        return grow, list(self._reasons)

    def execute_morphogenesis(self, epoch: int) -> dict[str, Any]:
        """Grows the network and returns what was done.

        Args:
            epoch: the epoch: each may bring so many changes.

        Returns:
            ``neuron_divisions``, ``connection_growths`` and ``optimizations`` (layers put in where
            neither could be done): how many; ``parameters_added``, counted; ``events``.

        Raises:
            GrowthRefusedError: if inputs, optimizers or caches are not known yet, or parameters
                have gradients; nothing has changed then.
        """
        if not self.caches.activations:
            raise GrowthRefusedError(
                "nothing is known of the layers: call update_caches(activations, gradients, "
                "targets) with a batch of the network as it is now"
            )
        done: list[MorphogenesisEvent] = []
        with self._run.at_rest() as morpher, self._run.without_used_gradients():
            grower = self._grower(morpher)
            self._rollback.hold(morpher)
            reason = "; ".join([f"epoch {epoch}", *self._reasons])
            try:
                while self._pace.room(epoch, self.events) > 0:
                    event = grower.grow(epoch, kept(self.events), reason)
                    if event is None:
                        break
                    done.append(event)
                    self._pace.made(epoch)
            finally:
                self._rollback.let_go()
        if done:
            self._last = epoch
            self._since_growth()
        return count(done)

    def get_morphogenesis_summary(self) -> dict[str, Any]:
        """Returns what has happened so far: counts, sizes measured, performance, events."""
        return summary_of(self._run, self._rollback.performance, self._reasons)

    def close(self) -> None:
        """Stops listening to the model and to optimizers; new units go on coming in."""
        self._run.close()

    def _grower(self, morpher: Morpher) -> Grower:
        division, back_off = self.division, self._rollback.back_off
        return Grower(morpher, self.analyzer, division, self.connections, self.caches, back_off)

    def _since_growth(self) -> None:
        self.caches.clear()
        self._monitor.since_growth()
        self._run.rewrap()
