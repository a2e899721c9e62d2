"""The growth graph of a model: which of its parts can grow, with which others, and why not."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any, Self

import torch
from torch import nn

from neuro_morph._attributes import couplings_of, fix_literals, tie_numbers
from neuro_morph._axes import Axis, resolve
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._finer import FINER
from neuro_morph._groups import GrowthGroup, groups_of, unknown_group
from neuro_morph._idle import idle_in, reason_of
from neuro_morph._inputs import ExampleInputs, FailsOnInputsError
from neuro_morph._masked_norm import maskable
from neuro_morph._placing import Number, Placing
from neuro_morph._plan_widen import check_fills
from neuro_morph._probing import OTHER, SCORES, TRAINING
from neuro_morph._program import Program, Ref
from neuro_morph._record_dispatch import record_by_dispatch
from neuro_morph._record_export import record_by_export
from neuro_morph._report import table_of
from neuro_morph._rules import RULES
from neuro_morph._run_arguments import check_arguments
from neuro_morph._untouched import in_modes, untouched, without_autocast
from neuro_morph._valuing import AsksError, CannotGrowError, Needs, Valuing
from neuro_morph._wrappers import unwrap

WAYS = ("free", "copy", "equal", "masked")
_ROUNDS = 64  # each asks for the rows of at least one more parameter


class GrowthGraph:
    """What can grow in a model.

    Attributes:
        program: the operations it was found from.
    """

    def __init__(self, program: Program, model: nn.Module, *, unused: Sequence[str] = ()) -> None:
        self.program = program
        self._placing = Placing(program).run(RULES)
        fix_literals(model, self._placing.numbers)
        tie_numbers(model, self._placing.numbers)
        self._maskable = maskable(model)
        self._groups = groups_of(self._placing)
        self._ways: dict[tuple[str, str], Needs | str] = {}
        idle = idle_in(program, model, unused)
        for group in self._groups:
            group.reason = group.reason or reason_of(group, idle)
            if group.growable and not any(self.ways(group)):
                group.reason = self.refusal(group, "free")

    @classmethod
    def capture(
        cls,
        model: nn.Module,
        example_inputs: Any,
        *,
        capture: str = "auto",
        outputs: Sequence[str] | None = None,
        unused: Sequence[str] = (),
    ) -> Self:
        """Returns the growth graph of a model as it is.

        The model is run once in evaluation mode, operation by operation (``"dispatch"``) or on
        fake tensors (``"export"``); it is left as it was. Only a real run shows where the model
        reads a size off one tensor to view another with it.

        Args:
            model: any module; of a compiled or parallel one what is inside is looked at.
            example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
            capture: ``"dispatch"``, ``"export"`` or ``"auto"``: dispatch, and export where that
                fails.
            outputs: the entries of what the model returns that have to keep their shape and
                values, as ``("logits",)``; None for all of them.
            unused: parameters, buffers, or modules with all of theirs, that the model never uses.
                Others that are not used on the example inputs (experts, heads that only train)
                keep what has an axis of their size from growing.

        Raises:
            TypeError: if ``model`` is no module or ``example_inputs`` are no arguments.
            ValueError: for an unknown ``capture``, or names that are not there.
            RuntimeError: if the model cannot be recorded on ``example_inputs``.
            GrowthRefusedError: if it gives no floating point numbers, or its parameters are
                sharded.

        Example:
            >>> import torch
            >>> from neuro_morph import GrowthGraph
            >>> model = torch.nn.Sequential(
            ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
            ... )
            >>> [(g.id, g.size, g.reason) for g in GrowthGraph.capture(model, torch.ones(1, 4))]
            [('0', 8, None), ('0[1]', 4, "it meets ...
        """
        check_arguments(model, capture=capture)
        model = unwrap(model)
        program = record(model, ExampleInputs.of(example_inputs), capture)
        program.outputs = chosen_outputs(dict(program.outputs), outputs)
        return cls(program, model, unused=unused)

    def groups(self) -> list[GrowthGroup]:
        """Returns all groups, also those that cannot grow."""
        return list(self._groups)

    def __iter__(self) -> Iterator[GrowthGroup]:
        return iter(self._groups)

    def __getitem__(self, group_id: str) -> GrowthGroup:
        for group in self._groups:
            if group.id == group_id:
                return group
        raise KeyError(unknown_group(self._groups, group_id))

    def coverage(self) -> float:
        """Returns the part of the model's parameters that have an axis in a group that can grow."""
        names = set().union(*(g.parameters() for g in self._groups if g.growable), set())
        sizes = {n: prod(self.program.shapes[i]) for i, n in self.program.parameters.items()}
        return sum(sizes[n] for n in names & set(sizes)) / max(sum(sizes.values()), 1)

    def __repr__(self) -> str:
        growable = sum(group.growable for group in self._groups)
        return (
            f"<GrowthGraph: {growable} of {len(self._groups)} groups can grow, "
            f"{self.coverage():.1%} of the parameters; see report()>"
        )

    def report(self) -> str:
        """Returns the groups as a table: what makes and reads them, how they grow or why not.

        Example:
            >>> import torch
            >>> from neuro_morph import GrowthGraph
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> print(GrowthGraph.capture(model, torch.ones(1, 4)).report().splitlines()[2])
            0     |     8 |    7 | 0.weight | 1.weight | free, copy, equal
        """
        return table_of([(g, self.ways(g)) for g in self._groups], self.coverage())

    def fits(self, model: nn.Module) -> bool:
        """Returns whether a model's tensors have the names and shapes that were found."""
        known = {**self.program.parameters, **self.program.buffers}
        held = dict(model.named_parameters(remove_duplicate=False))
        held |= model.named_buffers(remove_duplicate=False)  # type: ignore[arg-type]
        shapes = self.program.shapes
        return all(n in held and tuple(held[n].shape) == shapes[i] for i, n in known.items())

    def ways(self, group: GrowthGroup) -> list[str]:
        """Returns how new units of a group can be made.

        ``"free"``: anything that nothing reads yet; ``"copy"``: of some units; ``"equal"``: of all
        units, as often of each; ``"masked"``: as free, with each LayerNorm over the units replaced
        by a :class:`MaskedLayerNorm` (only where free is not possible).
        """
        return [way for way in WAYS if isinstance(self._needs(group, way), Needs)]

    def needs(self, group: GrowthGroup, way: str) -> Needs:
        """Returns what growing a group in a way asks of the parameters.

        Raises:
            CannotGrowError: if it cannot grow in that way.
        """
        found = self._needs(group, way)
        if isinstance(found, Needs):
            return found
        raise CannotGrowError(found)

    def refusal(self, group: GrowthGroup, way: str) -> str | None:
        """Returns why a group cannot grow in a way, None if it can."""
        found = group.atom.fixed or self._needs(group, way)
        return found if isinstance(found, str) else None

    def numbers(self) -> list[Number]:
        """Returns the sizes of axes that modules hold as numbers."""
        return self._placing.numbers

    def axes(self, ref: Ref) -> tuple[Axis, ...]:
        """Returns what the axes of a tensor of the program are made of."""
        return tuple(resolve(axis) for axis in self._placing.value(ref).axes)

    def _needs(self, group: GrowthGroup, way: str) -> Needs | str:
        key = (group.id, way)
        if key not in self._ways:
            self._ways[key] = group.reason or self._find(group, way)
        return self._ways[key]

    def _find(self, group: GrowthGroup, way: str) -> Needs | str:
        if way == "masked" and isinstance(self._needs(group, "free"), Needs):
            return "nothing has to be masked: it can grow freely"
        chosen: dict[str, str] = {}
        for _ in range(_ROUNDS):
            valuing = Valuing(self._placing, group.atom, way=way, maskable=self._maskable)
            try:
                needs = valuing.run(RULES, self.program.calls, chosen)
                check_fills(group, needs)
                return needs
            except CannotGrowError as refusal:
                return str(refusal)
            except AsksError as asks:
                if way in ("copy", "equal") or asks.modes.items() <= chosen.items():
                    return str(asks)
                if any(chosen.get(s, mode) != mode for s, mode in asks.modes.items()):
                    return f"{asks}, and elsewhere they must be made otherwise"
                chosen.update(asks.modes)
        return "it is asked too much of the parameters that make its units"


def chosen_outputs(found: dict[str, Any], wanted: Sequence[str] | None) -> list[tuple[str, Any]]:
    """Returns the outputs that count, by where they stand in what a model returns.

    Raises:
        ValueError: if one of the ``wanted`` is not there.
    """
    if wanted is None:
        return list(found.items())
    chosen = {key: value for key, value in found.items() if key.startswith(SCORES)}
    for name in wanted:
        starts = (f"['{name}']", f".{name}", f"[{name}]")
        mine = {key: value for key, value in found.items() if key.startswith(starts)}
        if not mine:
            known = [
                k
                for k in found
                if k and not k.endswith((OTHER, TRAINING, FINER)) and k not in chosen
            ]
            named = f"among {', '.join(known)}" if known else "None for what has no names"
            raise ValueError(f"outputs must be {named}, got {name!r}")
        chosen.update(mine)
    return list(chosen.items())


def record(model: nn.Module, inputs: ExampleInputs, capture: str = "auto") -> Program:
    """Returns what a model does with its inputs in evaluation mode; it is left as it was."""
    program = _record(model, inputs, capture)
    first = {id(p): name for name, p in model.named_parameters()}
    every = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    program.parameters = {index: every[name] for index, name in program.parameters.items()}
    program.couplings = couplings_of(model)
    return program


def _record(model: nn.Module, inputs: ExampleInputs, capture: str) -> Program:
    with untouched(model), evaluating(model), torch.no_grad(), without_autocast():
        if capture != "export":
            try:
                return record_by_dispatch(model, inputs)
            except GrowthRefusedError:
                raise
            except Exception as error:
                if capture == "dispatch":
                    raise FailsOnInputsError("recorded", error) from error
                return _exported(model, inputs, error)
        return _exported(model, inputs)


def _exported(model: nn.Module, inputs: ExampleInputs, first: Exception | None = None) -> Program:
    """Returns the program of a model by export; ``first`` is why it was not recorded otherwise."""
    try:
        return record_by_export(model, inputs)
    except GrowthRefusedError:
        raise
    except Exception as error:
        raise FailsOnInputsError("recorded", first or error) from error


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Puts every module in evaluation mode, and each back into its own."""
    return in_modes(model, lambda _: False)
