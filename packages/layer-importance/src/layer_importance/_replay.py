"""A batch run again with some units changed; what comes before the first of them is not run."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from layer_importance._edits import Edit
from layer_importance._recording import Recorded, Recording
from layer_importance._structure import stream, with_stream


class Replay(Recording):
    """The unchanged run of one batch, and runs of the same batch with units edited.

    A run with edits answers from the record for every unit that ended before the first edited one
    began: for leave-one-out over ``L`` units, half of the work. The model must be inside
    :func:`preserved`; use it as a context, which holds the record and lets go of it. Arguments and
    attributes are those of :class:`Recording`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from layer_importance import Classification, Subject, discover
        >>> from layer_importance._edits import removal
        >>> from layer_importance._preserve import preserved
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in "abc"])
        >>> batch = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        >>> subject = Subject(net, discover(net, batch), Classification(), [batch])
        >>> with preserved(net, gradients=False), Replay(subject, batch) as replay:
        ...     last = subject.units[-1]
        ...     without = replay.run({last.name: removal(last)})
        >>> torch.equal(without, net[:2](batch[0])), replay.executed, replay.length
        (True, 3, 3)
    """

    def run(self, edits: Mapping[str, Edit], *, gradients: bool = False) -> Any:
        """Returns the model's answer with the named units edited, with its graph if asked."""
        begins = [self._record[name].began for name in edits if name in self._record]
        first = min(begins, default=self._clock + 1)

        def changed(path: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                unit = self._count(path)
                recorded = None if unit is None else self._record.get(unit.name)
                if unit is None or recorded is None:
                    return self._execute(original, args, kwargs)
                if 0 <= recorded.ended < first:
                    return self._again(path, recorded)
                if unit.name not in edits:
                    return self._execute(original, args, kwargs)
                return self._edited(path, edits[unit.name], recorded, original, args, kwargs)

            return forward

        return self._forward(changed, gradients=gradients)

    def losses_with(self, edits: Mapping[str, Edit], *, gradients: bool = False) -> Tensor:
        """Returns the losses with the named units edited, ``[N]``; they may be infinite or NaN."""
        output = self.run(edits, gradients=gradients)
        with torch.set_grad_enabled(gradients):
            return self.subject.losses(output, self.answers, finite=False)

    def _edited(
        self,
        path: str,
        edit: Edit,
        recorded: Recorded,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        x = stream((args, kwargs))
        # the unchanged run's output is the template: whatever else a unit returns stays there
        template = recorded.output
        if not edit.runs:
            self._pass_over(recorded)
        else:
            if edit.enter is not None and x is not None:
                entering = edit.enter(x)
                args, kwargs = with_stream((args, kwargs), x, entering)
                x = entering
            x = x.clone() if self._writes(path) and x is not None else x
            with edit.around():
                template = self._execute(original, args, kwargs)
        y = stream(template, like=x)
        if x is None or y is None:
            return template
        new = edit.change(x, y)
        # somebody writes into it later: what it was made of must stay what it was
        return with_stream(template, y, new.clone() if self._writes(path) else new)

    def _again(self, path: str, recorded: Recorded) -> Any:
        self._pass_over(recorded)
        y = stream(recorded.output, like=recorded.x)
        if y is None or not self._writes(path):
            return recorded.output
        return with_stream(recorded.output, y, y.clone())

    def _pass_over(self, recorded: Recorded) -> None:
        """Counts the calls inside a unit that does not run, so that the next is still the next."""
        for path, calls in recorded.inside.items():
            self._calls[path] = self._calls.get(path, 0) + calls
