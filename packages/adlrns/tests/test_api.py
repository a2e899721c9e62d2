from importlib.metadata import version

import pytest

import adlrns
import adlrns_models
import rank_sched
from adlrns import trainers


def test_hands_on_what_the_packages_below_have() -> None:
    own = {"load", "Compressed"}
    for name in set(adlrns.__all__) - own:
        home = rank_sched if name in ("RankScheduler", "BudgetManager", "PerfEstimator") else None
        assert getattr(adlrns, name) is getattr(home or adlrns_models, name)
    assert own <= set(adlrns.__all__) <= set(dir(adlrns))


def test_knows_its_version() -> None:
    assert adlrns.__version__ == version("adlrns")


def test_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'invented'"):
        _ = adlrns.invented


def test_the_trainer_is_the_models_packages() -> None:
    assert trainers.ADLRNSTrainer is adlrns_models.ADLRNSTrainer
