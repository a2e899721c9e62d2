"""Bringing an elastic model within a budget in the form it will be stored in."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

from adlrns._errors import UseError
from adlrns._inputs import call
from adlrns_models import ElasticModel, IdentityBlock, materialize_model
from rank_sched import OperatingPoint

# halvings of the share that is asked for
_TRIES = 12
# forms that keep the ranks of a budget, whatever they cost
_RANKS_ALONE = ("dense", "fastest")


def settle(
    elastic: ElasticModel, *, cost: str, share: float, form: str, batch: Any = None
) -> tuple[nn.Module, OperatingPoint]:
    """Returns the materialised model and the operating point it stands for.

    The dial counts a layer at full rank as dense and every other one in one form; what a form
    makes of each layer may cost a little more. The ranks are therefore lowered until the model as
    it is stored keeps the budget. The dense form keeps the ranks of the budget, not its cost, and
    so do layers of the fastest form that are dense.

    Args:
        elastic: the model; it is left at the ranks of the point.
        cost: what the budget counts.
        share: of the dense cost.
        form: how layers are stored.
        batch: what the fastest form is fastest on.

    Raises:
        UseError: if no ranks keep the budget.
    """
    counted = counted_form(form)
    limit = share * elastic.full_cost(cost)
    kept, fits, over = None, 0.0, share
    asked = share
    for _ in range(_TRIES):
        try:
            point = elastic.set_budget(**{cost: asked}, form=counted)
        except ValueError as error:
            if asked == share:
                raise UseError(f"--budget: {error}") from None
            fits, asked = asked, (asked + over) / 2
            continue
        network = settled_as(elastic, form, batch)
        if form in _RANKS_ALONE or settled_cost(elastic, network, cost) <= limit:
            kept, fits = (network, point), asked
            if asked == share:
                break
        else:
            over = asked
        asked = (fits + over) / 2
    if kept is None:
        raise UseError(f"--budget {share} cannot be kept in the form {form!r}; try --form auto")
    elastic.set_ranks(kept[1].ranks)
    return kept


def counted_form(form: str) -> str:
    """Returns the form that a budget is counted in when a model is to be stored in `form`."""
    return "identity" if form in ("identity", "auto") else "factored"


def settled_as(model: nn.Module, form: str, batch: Any = None) -> nn.Module:
    """Returns the model settled in a form; `batch` is what the fastest is timed on."""
    if form == "fastest":
        return materialize_model(model, form, example_inputs=batch, forward=call)
    return materialize_model(model, form)


def forms_of(network: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Returns how many of the settled layers are stored in each form, the most frequent first."""
    return dict(Counter(_form(network.get_submodule(name)) for name in names).most_common())


def told_forms(forms: dict[str, int]) -> str:
    """Returns the same in words."""
    return ", ".join(f"{count} {form}" for form, count in forms.items())


def _form(layer: nn.Module) -> str:
    if isinstance(layer, IdentityBlock):
        return "identity"
    return "factored" if isinstance(layer, nn.Sequential) else "dense"


def settled_cost(elastic: ElasticModel, network: nn.Module, cost: str) -> float:
    """Returns the FLOPs per sample or the weights of the elastic layers as they are stored."""
    total = 0.0
    for name, profile in elastic.profiles.items():
        weights = sum(p.numel() for p in network.get_submodule(name).parameters() if p.ndim > 1)
        total += 2.0 * weights * profile.size.rows if cost == "flops" else float(weights)
    return total
