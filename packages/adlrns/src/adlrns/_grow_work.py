"""A run with growth: what it trains, what it keeps, and what stays when it is cut short."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from adlrns._beside import naming
from adlrns._console import remark, stage
from adlrns._errors import CutShortError, from_user
from adlrns._grow_checkpoint import random_state, set_random_state, write
from adlrns._grow_lines import Lines
from adlrns._grow_policy import Material, note_refused, policy_of
from adlrns._grow_report import Grown
from adlrns._grow_settings import EVENTS, HISTORY, SPEC, WEIGHTS
from adlrns._grow_train import Course, Row, Training
from adlrns._run_folder import write_text
from adlrns._score import batches
from neuro_morph import (
    GrowthPolicy,
    Morpher,
    MorphogenesisEvent,
    Vote,
    save_checkpoint,
)

# samples that edits are checked on; batches that scores and trials are made with
EXAMPLES, _BATCHES = 8, 16


class Work:
    """A run with growth, in a folder that is there.

    Attributes:
        training: the network and what trains it.
    """

    def __init__(self, course: Course, training: Training, lines: Lines):
        self.course, self.training, self._lines = course, training, lines
        self._out = course.settings.out
        task, device = course.parts.task, course.device
        self._examples, _ = next(batches(task.train, size=EXAMPLES, device=device))
        self.morpher = Morpher(
            training.net,
            training.optimizer,
            example_inputs=self._examples,
            others=[training.schedule],
            log=self._out / EVENTS,
            seed=course.settings.seed,
        )
        self._policy = policy_of(
            course.settings, self.morpher, self._material(), training.trial_step
        )
        self._gains: dict[int, float] = {}
        self._widths: list[tuple[int, dict[str, int]]] = []
        self._told = self._judged = 0
        # the loss of a step after which growth was cut short: it is asked for again
        self._asked: float | None = None
        self._random: dict[str, Any] | None = None
        self._saved = 0

    def run(self) -> None:
        """Trains and grows; whatever cuts it short, a checkpoint stays."""
        model = self.course.settings.model
        with naming(self._out):
            (self._out / EVENTS).touch()
        if not self._widths:  # it begins
            self._note_widths()
            self.save()
        try:
            with (
                stage(f"train and grow {model}") as advance,
                self._saved_when_interrupted(),
                from_user(f"MODEL {model} in training"),
            ):
                self.training.run(
                    grow=self._grow,
                    advance=advance,
                    after_epoch=self._after_epoch,
                    begin=self._begin,
                )
        finally:
            self._policy.close()
        if not self.morpher.events:
            remark(f"nothing was tried: {self._last_word()}")

    def _last_word(self) -> str:
        decisions = [decision for _, decision in self._policy.decisions]
        if any(decision.grow for decision in decisions):
            return "what would grow is over --max-parameters or --max-flops, by one unit too"
        said = [decision.votes for decision in decisions if decision.votes]
        if not said:
            return "the run is too short"
        words = [f"{vote.name} {_verdict(vote)} ({vote.reason})" for vote in said[-1]]
        return f"when last asked whether to grow, {', '.join(words)}"

    def grown(self) -> Grown:
        """Returns what the report tells."""
        events, history = list(self.morpher.events), self.training.history
        return Grown(events, self._gains, self._widths, history, len(self._examples))

    def _begin(self) -> None:
        if self._random is not None:
            set_random_state(self._random)
        if self._asked is not None:
            self._grow(self._asked)

    def _grow(self, loss: float) -> None:
        grown = self._step(loss)
        if isinstance(self._policy, GrowthPolicy):
            self._judge(self._policy, grown)
        for event in self.morpher.events[self._told :]:
            self._lines.event(event, self._gains.get(event.id, event.gain))
        self._told = len(self.morpher.events)
        if grown is not None:
            self._note_widths()
            self.save()

    def _step(self, loss: float) -> MorphogenesisEvent | None:
        """Lets the policy take a step; of one that is cut short nothing stays."""
        morpher, spent, self._asked = self.morpher, self.training.spent.trials, loss
        edits, events = len(morpher.spec.steps), len(morpher.events)
        try:
            grown = self._policy.step(loss)
        except BaseException:
            if len(morpher.spec.steps) == edits:
                self.training.spent.trials = spent
                del morpher.events[events:]
            else:
                self._asked = None
            raise
        self._asked = None
        return grown

    def _judge(self, policy: GrowthPolicy, grown: MorphogenesisEvent | None) -> None:
        for result in policy.results[self._judged :]:
            if grown is not None and result.winner is not None and result.winner.gain is not None:
                self._gains[grown.id] = result.winner.gain.mean
            note_refused(self.morpher, result)
        self._judged = len(policy.results)

    def _after_epoch(self) -> None:
        course = self.course
        self._lines.epoch(
            self.training.history[-1],
            epochs=course.settings.epochs,
            metric=course.parts.task.metric,
        )
        self.save()

    def save(self) -> None:
        """Writes the network, what it takes to build it again, and the history so far."""
        with naming(self._out):
            spec = self.morpher.spec
            save_checkpoint(self._out / WEIGHTS, self.training.net, spec, self.training.optimizer)
            spec.save(self._out / SPEC)
            write_text(self._out / HISTORY, to_csv(self.training.history))
            state = {**self._state(), "random": random_state()}
            write(self.morpher, state, self.course.settings)
        self._saved = self.morpher.steps

    def go_on(self, path: Path, state: dict[str, Any]) -> None:
        """Goes on from the run in a file, and from its state."""
        morpher, told = self.morpher, state["run"]
        morpher.load(path)
        self.training.load_state_dict(state["training"])
        self._policy.load_state_dict(state["policy"])
        morpher.events[:] = [_event(each) for each in told["events"]]
        self._gains = dict(told["gains"])
        self._widths = [(step, sizes) for step, sizes in told["widths"]]
        self._asked, self._random, self._told = told["asked"], state["random"], len(morpher.events)
        with naming(self._out):
            text = "".join(f"{event.to_json()}\n" for event in morpher.events)
            write_text(self._out / EVENTS, text)

    def _state(self) -> dict[str, Any]:
        morpher = self.morpher
        run = {
            "events": [asdict(event) for event in morpher.events],
            "gains": list(self._gains.items()),
            "widths": self._widths,
            "asked": self._asked,
        }
        policy = self._policy.state_dict()
        return {"training": self.training.state_dict(), "policy": policy, "run": run}

    @contextmanager
    def _saved_when_interrupted(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            if self.training.whole:
                self.save()
            raise CutShortError(
                f"interrupted: {self._out} holds the run as it was after step {self._saved}; "
                "--resume goes on from there"
            ) from None

    def _note_widths(self) -> None:
        sizes = {group.id: group.size for group in self.morpher.graph if group.growable}
        self._widths.append((self.morpher.steps, sizes))

    def _material(self) -> Material:
        course, size = self.course, self.course.settings.batch_size
        items: Any = course.parts.task.train
        some = Subset(items, range(min(_BATCHES * size, len(items))))
        return Material(
            course.losses,
            list(batches(some, size=size, device=course.device)),
            list(batches(course.parts.held, device=course.device)),
            len(self._examples),
            course.total,
        )


def _verdict(vote: Vote) -> str:
    if vote.veto:
        return "stood against it"
    return "asked for it" if vote.grow else "did not ask for it"


def _event(held: dict[str, Any]) -> MorphogenesisEvent:
    return MorphogenesisEvent(**{**held, "attributes": tuple(map(tuple, held["attributes"]))})


def to_csv(rows: list[Row]) -> str:
    """Returns rows with their names as the first line; nothing of none."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
