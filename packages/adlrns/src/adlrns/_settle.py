"""Bringing an elastic model within a budget in the form it will be stored in."""

from torch import nn

from adlrns._errors import UseError
from adlrns_models import ElasticModel, materialize_model
from rank_sched import OperatingPoint

# halvings of the share that is asked for
_TRIES = 12


def settle(
    elastic: ElasticModel, *, cost: str, share: float, form: str
) -> tuple[nn.Module, OperatingPoint]:
    """Returns the materialised model and the operating point it stands for.

    The dial counts a layer at full rank as dense and every other one in one form; what a form
    makes of each layer may cost a little more. The ranks are therefore lowered until the model as
    it is stored keeps the budget. The dense form keeps the ranks of the budget, not its cost.

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
        network = materialize_model(elastic, form)
        if form == "dense" or settled_cost(elastic, network, cost) <= limit:
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
    return "factored" if form in ("dense", "factored") else "identity"


def settled_cost(elastic: ElasticModel, network: nn.Module, cost: str) -> float:
    """Returns the FLOPs per sample or the weights of the elastic layers as they are stored."""
    total = 0.0
    for name, profile in elastic.profiles.items():
        weights = sum(p.numel() for p in network.get_submodule(name).parameters() if p.ndim > 1)
        total += 2.0 * weights * profile.size.rows if cost == "flops" else float(weights)
    return total
