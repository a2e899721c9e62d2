"""Watching the neurons of a network while it runs."""

from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import counted
from spike_ops.monitor._activity import Activity, nothing_yet
from spike_ops.monitor._begun import LAYERS, beginning, is_again
from spike_ops.monitor._trace import Recorder, Trace
from spike_ops.neuron import Neuron

NOTHING = "the network must run between enable() and disable(), or inside `with`, first"


class Monitor:
    """Watch how the neurons of a network fire, and a few of their membranes.

    Between `enable` and `disable` (or inside `with`) every call of a neuron layer is counted:
    memory grows with the neurons, never with time or calls, and no graph is kept. What was seen
    can be read after `disable` until `reset`.

    Args:
        net: The network; its neurons (`spike_ops.neuron`, PSN too) are watched, by name.
        device: Where counts are kept; where the spikes are without one.
        traces: How many neurons of each layer are recorded over time. The sample they belong to
            is stepped once more for it (all of them where they share statistics, as in training);
            running statistics and random numbers stay as they would be. PSN have no membrane.
        points: The most steps of a record; longer runs are told in even distances.
        sample: Which of the batch is recorded.
        seed: Decides which neurons are drawn.

    Raises:
        ValueError: The network has no neurons, or a number is out of range.
        TypeError: `net` is no module.

    Example:
        >>> from spike_ops.neuron import IF
        >>> net = nn.Sequential(IF())
        >>> with Monitor(net) as monitor:
        ...     spikes = net(torch.tensor([1.0, 0.5, 0.0]).expand(4, 1, 3))
        >>> monitor.get_avg_firing_rate()
        0.5
        >>> monitor.activity("0").silent
        tensor([False, False,  True])
    """

    def __init__(
        self,
        net: nn.Module,
        device: torch.device | str | None = None,
        *,
        traces: int = 0,
        points: int = 1_000,
        sample: int = 0,
        seed: int = 0,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        self.neurons = {
            name: module for name, module in net.named_modules() if isinstance(module, LAYERS)
        }
        if not self.neurons:
            raise ValueError(f"net must have neurons to watch, got {type(net).__name__} with none")
        for name, value, least in (
            ("traces", traces, 0), ("points", points, 2), ("sample", sample, 0),
        ):  # fmt: skip
            counted(name, value, least)
        self.device, self.traces = device, int(traces)
        self._settings = (int(traces), int(points), int(sample), seed)
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.reset()

    def enable(self) -> None:
        """Begin to watch."""
        if self._hooks:
            return
        for name, neuron in self.neurons.items():
            self._hooks.append(neuron.register_forward_hook(partial(self._after, name)))
            if self.traces and isinstance(neuron, Neuron):
                before = partial(self._before, name)
                self._hooks.append(neuron.register_forward_pre_hook(before, with_kwargs=True))

    def disable(self) -> None:
        """Stop watching; what was seen stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def reset(self) -> None:
        """Forget what was seen."""
        self._seen: dict[str, Activity] = {}
        self._recorders = {name: Recorder(*self._settings) for name in self.neurons}

    def __enter__(self) -> "Monitor":
        self.enable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disable()

    def activity(self, module_name: str) -> Activity:
        """Return what a layer did, by its name in the network.

        Raises:
            ValueError: There is no such layer, or it has not run while it was watched.
        """
        if module_name not in self.neurons:
            known = ", ".join(self.neurons)
            raise ValueError(f"module_name must be one of {known}, got {module_name!r}")
        if module_name not in self._seen:
            raise ValueError(f"layer {module_name!r} must run between enable() and disable() first")
        return self._seen[module_name]

    def activities(self) -> dict[str, Activity]:
        """Return what each layer that ran did, by its name in the network.

        Raises:
            ValueError: Nothing was watched: the monitor is not enabled, and has seen nothing.
        """
        if not self._seen and not self._hooks:
            raise ValueError(NOTHING)
        return {name: self._seen[name] for name in self.neurons if name in self._seen}

    def trace(self, module_name: str) -> Trace:
        """Return the recorded membranes of a layer.

        Raises:
            ValueError: There is no such layer, it did not run, has no membrane, or `traces` is 0.
        """
        self.activity(module_name)
        if not isinstance(neuron := self.neurons[module_name], Neuron):
            kind = type(neuron).__name__
            raise ValueError(f"layer {module_name!r} must have a membrane, {kind} has none")
        trace = self._recorders[module_name].trace()
        if trace is None and self.traces:
            sample = self._settings[2]
            raise ValueError(f"sample must be in the batch: no call had one numbered {sample}")
        if trace is None:
            raise ValueError("traces must be at least 1 to record membranes, got 0")
        return trace

    def get_avg_firing_rate(self, all: bool = True, module_name: str | None = None) -> float:
        """Return the share of steps with a spike, over all neurons or those of one layer.

        Args:
            all: Over all layers, each neuron alike.
            module_name: The layer, if not all.

        Raises:
            ValueError: There is no such layer, or nothing ran while it was watched.
        """
        chosen = self._chosen(all, module_name)
        fired = sum(int(each.counts.sum()) for each in chosen)
        return fired / max(sum(each.observed * each.counts.numel() for each in chosen), 1)

    def get_nonfire_ratio(self, all: bool = True, module_name: str | None = None) -> float:
        """Return the share of neurons that never fired, of all or of one layer.

        Args:
            all: Of all layers.
            module_name: The layer, if not all.

        Raises:
            ValueError: There is no such layer, or nothing ran while it was watched.
        """
        chosen = self._chosen(all, module_name)
        silent = sum(int(each.silent.sum()) for each in chosen)
        return silent / max(sum(each.counts.numel() for each in chosen), 1)

    def _chosen(self, all: bool, module_name: str | None) -> list[Activity]:
        if not all:
            return [self.activity(module_name or "")]
        if not self._seen:
            raise ValueError(NOTHING)
        return list(self._seen.values())

    @torch.compiler.disable
    def _before(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        assert isinstance(module, Neuron)
        if is_again():
            return
        currents, state = beginning(module, args, kwargs)
        self._recorders[name].record(module, currents, state)

    @torch.compiler.disable
    def _after(self, name: str, module: nn.Module, args: Any, spikes: Tensor) -> None:
        del module, args
        if is_again() or not spikes.shape[:2].numel():  # a batch of none tells of nobody
            return
        seen = self._seen.get(name) or nothing_yet(spikes, self.device)
        self._seen[name] = seen.plus(spikes)
