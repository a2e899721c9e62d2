"""Sketches of many workers: two real processes, and chains and trees of more in one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from hypothesis import given, strategies as st

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch.distributed import all_reduce, merge_tree
from fd_sketch.testing import exact_moments

WORKER = Path(__file__).parent / "two_workers.py"
spec = importlib.util.spec_from_file_location("two_workers", WORKER)
two_workers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(two_workers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(WORKER), str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def words(folder, rank):
    lines = (folder / f"words.{rank}").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def gram(sketch):
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    return B.T @ B


def expect_theorem(sketch, C, eps):
    room, size = 100 * eps * np.trace(C), sketch.sketch_size
    missing = np.linalg.eigvalsh(C - gram(sketch))
    lam = np.maximum(np.linalg.eigvalsh(C)[::-1], 0.0)
    best = min(lam[k:].sum() / (size + 1 - k) for k in range(size + 1))
    assert missing[0] >= -room
    assert missing[-1] <= sketch.error_bound() + room
    assert sketch.error_bound() <= best + room


@pytest.mark.parametrize("scene", ["same", "sizes", "centred", "torch", "first empty"])
def test_both_workers_end_with_one_sketch_that_keeps_the_theorem_of_all_rows(folder, scene):
    one, two = ((folder / f"{scene}.{rank}").read_bytes() for rank in (0, 1))
    assert one == two
    merged = FrequentDirections.from_bytes(one)
    X = [two_workers.rows(rank) for rank in (0, 1)]
    X = X[1:] if scene == "first empty" else X
    C = exact_moments(X, center=scene == "centred")[0]
    expect_theorem(merged, C, np.finfo(np.float32).eps)
    assert merged.n_samples_seen == sum(map(len, X))
    assert merged.sketch_size == (4 if scene in ("sizes", "torch") else 5)
    assert np.isclose(merged.total_mass(), np.trace(C), rtol=1e-9)


def test_the_exact_moment_of_both_workers_is_their_sum(folder):
    merged = ExactGram.from_bytes((folder / "exact.1").read_bytes())
    C = exact_moments([two_workers.rows(rank) for rank in (0, 1)])[0]
    assert np.allclose(merged.gram(), C, atol=1e-4)
    assert (folder / "exact.0").read_bytes() == (folder / "exact.1").read_bytes()


def test_no_rows_anywhere_are_no_rows(folder):
    for rank in (0, 1):
        data = (folder / f"both empty.{rank}").read_bytes()
        assert data == FrequentDirections(two_workers.D, 5).to_bytes()


def test_the_result_lives_where_the_data_of_the_worker_do_and_its_sketch_is_left_alone(folder):
    for rank in (0, 1):
        said = words(folder, rank)
        assert said["same"] == "ndarray True"
        assert said["torch"] == "Tensor True"


@pytest.mark.parametrize(
    "scene, what",
    [
        ("other features", "n_features must be equal in both sketches, got 12 and 13"),
        ("other centring", "center must be equal in both sketches, got False and True"),
        ("other method", "the sketch of worker . does not fit: .*method must be"),
        ("no sketch", "worker 1 has brought no sketch: got NoneType"),
    ],
)
def test_what_does_not_fit_is_raised_on_every_worker(folder, scene, what):
    import re

    for rank in (0, 1):
        assert re.search(what, words(folder, rank)[scene])
        assert not (folder / f"{scene}.{rank}").exists()


def test_a_worker_alone_gets_its_own_sketch_back(tmp_path, kind):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        X = kind.array(two_workers.rows(0))
        sketch = FrequentDirections(two_workers.D, 5, decay=0.9).partial_fit(X)
        alone = all_reduce(sketch)
        assert alone.to_bytes() == sketch.to_bytes()
        assert type(alone.sketch()) is type(X)
        empty = FrequentDirections(two_workers.D, 5)
        assert type(all_reduce(empty, like=X).sketch()) is np.ndarray
    finally:
        dist.destroy_process_group()


@given(st.lists(st.integers(1, 9), min_size=8, max_size=8), st.integers(0, 99), st.booleans())
def test_a_chain_of_4_and_a_tree_of_8_keep_the_theorem_of_the_smallest(sizes, seed, center):
    X = np.random.default_rng(seed).standard_normal((8, 40, 10)) * np.logspace(0, -1, 10) + 0.5
    shards = [
        FrequentDirections(10, size, center=center).partial_fit(rows)
        for size, rows in zip(sizes, X, strict=True)
    ]
    chain = shards[0].copy()
    for other in shards[1:4]:
        chain.merge(other)
    lost = sum(shard.error_bound() for shard in shards)
    tree = merge_tree(shards)
    eps = np.finfo(np.float64).eps
    expect_theorem(chain, exact_moments(X[:4], center=center)[0], 10 * eps)
    expect_theorem(tree, exact_moments(X, center=center)[0], 10 * eps)
    assert chain.sketch_size == min(sizes[:4])
    assert tree.sketch_size == min(sizes)
    assert tree.error_bound() >= lost * (1.0 - 1e-9)


@pytest.mark.parametrize("make", [lambda: FrequentDirections(10, 4), lambda: ExactGram(10)])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_tree_leaves_its_sketches_as_they_were_and_shares_nothing_with_them(make, n):
    X = np.random.default_rng(0).standard_normal((n, 40, 10))
    shards = [make(), *(make().partial_fit(rows) for rows in X)]
    saved = [shard.to_bytes() for shard in shards]
    tree = merge_tree(iter(shards))
    assert tree.n_samples_seen == 40 * n
    tree.partial_fit(X[0])
    assert [shard.to_bytes() for shard in shards] == saved


SKETCH = FrequentDirections(10, 4)


@pytest.mark.parametrize(
    "sketches, error, what",
    [
        ([], ValueError, "sketches must be at least one, got none"),
        (SKETCH, TypeError, "sketches must be a list of sketches, got FrequentDirections"),
        (None, TypeError, "sketches must be a list of sketches, got NoneType"),
        ([SKETCH, None], TypeError, "sketches must hold nothing but sketches, got NoneType at 1"),
        ([SKETCH, ExactGram(10)], TypeError, "other must be a FrequentDirections, got ExactGram"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_list_of_sketches_is_named(sketches, error, what):
    with pytest.raises(error, match=what):
        merge_tree(sketches)
