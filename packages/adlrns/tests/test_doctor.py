import sys

import pytest
import torch

from adlrns import _doctor
from adlrns._doctor import ENABLES, check
from adlrns._errors import EXTRAS, RunError


def test_reports_parts_and_passes(adlrns) -> None:
    out = adlrns("doctor").stdout
    assert all(name in out for name in ENABLES)
    assert set(EXTRAS) <= set(ENABLES)
    assert "check passed" in out


def test_tells_what_is_absent_and_what_is_broken(adlrns, tmp_path, monkeypatch) -> None:
    (tmp_path / "sklearn.py").write_text("raise OSError('made to fail')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    monkeypatch.setitem(_doctor.ENABLES, "no_such_module", "nothing")
    out = adlrns("doctor").stdout
    assert "broken: OSError" in out
    assert "absent" in out


def test_a_wrong_result_is_a_failure(adlrns, monkeypatch) -> None:
    import adlrns_models

    true = adlrns_models.make_elastic

    def wrong(model, batches):
        made = true(model, batches)
        with torch.no_grad():
            next(iter(made.layers().values())).outer_bias.add_(1)
        return made

    monkeypatch.setattr(adlrns_models, "make_elastic", wrong)
    with pytest.raises(RunError, match="at full rank is off by"):
        check()
    assert "check failed" in adlrns.error("doctor", code=1)
