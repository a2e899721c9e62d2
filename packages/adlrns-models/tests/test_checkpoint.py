"""Nested states in files without pickles."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from adlrns_models._checkpoint import load, save
from adlrns_models._checkpoint_tree import pack, unpack

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.integers() | st.text()
states = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner),
    max_leaves=12,
)


@given(states)
def test_plain_states_come_back_as_they_were(state):
    packed, tensors = pack(state)
    assert not tensors
    back = unpack(packed, {})
    assert back == state
    assert repr(back) == repr(state)  # True is not 1, a tuple is no list


def test_files_hold_numbers_tensors_and_what_joins_them(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "optimizer": {0: {"step": torch.tensor(3.0), "half": shared.bfloat16()}, 1: {}},
        "tied": [shared, shared, shared.T],
        "odd": (math.inf, None, "a/b", True, 1e-300, 2**70),
        "empty": torch.zeros(0, 3),
        "bytes": torch.tensor([1, 2], dtype=torch.uint8),
    }
    save(tmp_path / "file", state)
    back = load(tmp_path / "file")
    assert back["odd"] == state["odd"]
    assert back["optimizer"].keys() == {0, 1}
    for one, two in [
        (back["optimizer"][0]["half"], shared.bfloat16()),
        (back["optimizer"][0]["step"], torch.tensor(3.0)),
        *zip(back["tied"], state["tied"], strict=True),
        (back["empty"], state["empty"]),
        (back["bytes"], state["bytes"]),
    ]:
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    "value", [object(), np.float64(1.0), {1, 2}, b"bytes", print], ids=lambda v: type(v).__name__
)
def test_what_a_file_cannot_hold_is_named_by_its_place(value):
    with pytest.raises(TypeError, match=r"state/a/1: a checkpoint holds no"):
        pack({"a": [0, value]}, "state")
    with pytest.raises(TypeError, match="state/a: a key must be a string or an integer"):
        pack({"a": {(1, 2): 3}}, "state")


@pytest.mark.parametrize(
    "packed",
    [{"tensor": "gone"}, {"what": []}, {"dict": [[1]]}, {"list": 3}, {}, {"dict": [[[], 1]]}],
)
def test_what_was_never_packed_is_refused(packed):
    with pytest.raises(ValueError, match="not a"):
        unpack(packed, {})


def test_named_tuples_become_plain_ones():
    Point = namedtuple("Point", "x y")
    assert unpack(pack({"p": Point(1, 2)})[0], {}) == {"p": (1, 2)}


def test_files_of_another_kind_are_refused(tmp_path):
    from adlrns_models import materialize_model, save_materialized

    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    save_materialized(materialize_model(model), tmp_path, like=model)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="field kind must be 'training'"):
        load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none")
