from importlib.metadata import version

import pytest

import adlrns
import adlrns_models


def test_hands_on_what_the_models_package_has() -> None:
    own = {"load", "Compressed"}
    for name in set(adlrns.__all__) - own:
        assert getattr(adlrns, name) is getattr(adlrns_models, name)
    assert own <= set(adlrns.__all__) <= set(dir(adlrns))


def test_knows_its_version() -> None:
    assert adlrns.__version__ == version("adlrns")


def test_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'invented'"):
        _ = adlrns.invented
