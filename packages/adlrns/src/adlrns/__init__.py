"""One command over the packages of the rank dial, and their most used names."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adlrns._saved import Compressed, load
    from adlrns_models import (
        AdaptConfig,
        AdaptiveConv2d,
        AdaptiveLinear,
        DynamicLowRankLayer,
        ElasticModel,
        clear_fd_sketch,
        factorize,
        iter_adaptive_layers,
        load_materialized,
        make_elastic,
        materialize_model,
        save_materialized,
        set_rank_change_callback,
        wrap_model_with_adaptive,
    )
    from rank_sched import BudgetManager, PerfEstimator, RankScheduler

__version__ = version("adlrns")

__all__ = [
    # one network for every budget
    "make_elastic",
    "ElasticModel",
    # a rank for every call, within a budget
    "DynamicLowRankLayer",
    "RankScheduler",
    "BudgetManager",
    "PerfEstimator",
    # layers that adapt while they run
    "wrap_model_with_adaptive",
    "AdaptConfig",
    "AdaptiveLinear",
    "AdaptiveConv2d",
    "iter_adaptive_layers",
    "set_rank_change_callback",
    "clear_fd_sketch",
    # settling, files
    "factorize",
    "materialize_model",
    "save_materialized",
    "load_materialized",
    # what the command wrote
    "load",
    "Compressed",
]

_HOME = (
    dict.fromkeys(__all__, "adlrns_models")
    | dict.fromkeys(("RankScheduler", "BudgetManager", "PerfEstimator"), "rank_sched")
    | dict.fromkeys(("load", "Compressed"), "adlrns._saved")
)


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: the command's help must not wait for it
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
