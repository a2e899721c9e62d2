from importlib.metadata import version

import rank_sched


def test_everything_public_exists_and_is_documented():
    assert len(set(rank_sched.__all__)) == len(rank_sched.__all__)
    for name in set(rank_sched.__all__) - {"PROFILES"}:
        assert getattr(rank_sched, name).__doc__


def test_the_version_is_that_of_the_distribution():
    assert rank_sched.__version__ == version("rank-sched")
