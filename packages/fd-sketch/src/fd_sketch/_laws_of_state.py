"""Laws about how a sketch behaves: what leaves a trace in it and what does not."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._expect import (
    MakeSketch,
    expect,
    expect_close,
    expect_same,
    fed,
    gram,
    like,
    rounding,
    split,
)


def check_queries_change_nothing(make_sketch: MakeSketch, X: Array) -> None:
    """Check that questions asked between batches leave no trace in what comes after."""
    quiet, asked = make_sketch(), make_sketch()
    for batch in split(X):
        quiet.partial_fit(batch)
        asked.partial_fit(batch)
        first, second = asked.sketch(), asked.sketch()
        expect_same("sketch asked twice", to_numpy(first), to_numpy(second))
        first[...] = 7.0
        expect_same("sketch written to", to_numpy(asked.sketch()), to_numpy(second))
        asked.error_bound(), asked.residual_diagonal(), asked.to_bytes()
    expect(quiet.to_bytes() == asked.to_bytes(), "state", "changed by questions", "unchanged")
    expect_same("sketch after questions", to_numpy(asked.sketch()), to_numpy(quiet.sketch()))


def check_determinism(make_sketch: MakeSketch, X: Array) -> None:
    """Check that the same batches give the same bits."""
    one, two = (fed(make_sketch, split(X)) for _ in range(2))
    expect(one.to_bytes() == two.to_bytes(), "state", "another", "the same")
    expect_same("sketch", to_numpy(one.sketch()), to_numpy(two.sketch()))


def check_copy_and_reset(make_sketch: MakeSketch, X: Array) -> None:
    """Check that a copy is independent, and that a reset sketch is like a new one."""
    sketch = make_sketch().partial_fit(X)
    saved, twin = sketch.to_bytes(), sketch.copy()
    expect(twin.to_bytes() == saved, "copy", "another state", "the same")
    twin.partial_fit(X)
    expect(sketch.to_bytes() == saved, "state", "changed by its copy", "unchanged")
    ahead = twin.to_bytes()
    sketch.partial_fit(X * 0.0)
    expect(twin.to_bytes() == ahead, "copy", "changed by its original", "unchanged")
    twin.reset()
    expect(twin.to_bytes() == make_sketch().to_bytes(), "reset", "a trace", "none")
    expect(twin.partial_fit(X).to_bytes() == saved, "reset sketch", "another state", "the same")


def check_merge_with_empty(make_sketch: MakeSketch, X: Array) -> None:
    """Check that an empty sketch is neutral, on both sides."""
    sketch = make_sketch().partial_fit(X)
    saved = sketch.to_bytes()
    expect(sketch.merge(make_sketch()).to_bytes() == saved, "merge with empty", "new", "same")
    into = make_sketch().merge(sketch)
    expect_close("total_mass", into.total_mass(), sketch.total_mass(), 0.0)
    slack = rounding(X, sketch.total_mass())
    expect_close("error_bound", into.error_bound(), sketch.error_bound(), slack)
    expect_close("B'B", gram(into), gram(sketch), slack)


def check_bad_rows_are_skipped(make_sketch: MakeSketch, X: Array) -> None:
    """Check that non-finite rows leave nothing behind but their count."""
    d = X.shape[1]
    values = to_numpy(X).astype(np.float64)
    bad = np.resize([np.nan, np.inf, -np.inf], (3, d))
    bad[:, 1:] = 1.0
    mixed = np.concatenate([bad[:1], values, bad[1:]])
    sketch = make_sketch().partial_fit(like(mixed, X)).partial_fit(like(bad, X))
    clean = make_sketch().partial_fit(X).partial_fit(X[:0])
    expect(sketch.n_skipped == 6, "n_skipped", sketch.n_skipped, 6)
    expect(sketch.n_samples_seen == len(X), "n_samples_seen", sketch.n_samples_seen, len(X))
    expect_same("sketch beside bad rows", to_numpy(sketch.sketch()), to_numpy(clean.sketch()))
    expect_same("diagonal", to_numpy(sketch.diagonal()), to_numpy(clean.diagonal()))
    expect_same("mean", to_numpy(sketch.mean), to_numpy(clean.mean))


def check_errors_change_nothing(make_sketch: MakeSketch, X: Array) -> None:
    """Check that bad arguments are refused by name, and that the sketch is as it was."""
    sketch = make_sketch().partial_fit(X)
    saved, n = sketch.to_bytes(), len(X)
    wide = like(np.ones((2, X.shape[1] + 1)), X)
    calls: list[tuple[str, type[Exception], Callable[[], Any]]] = [
        ("X", ValueError, lambda: sketch.partial_fit(wide)),
        ("X", TypeError, lambda: sketch.partial_fit([[0.0] * X.shape[1]])),
        ("X", TypeError, lambda: sketch.partial_fit(X > 0)),
        ("sample_weight", ValueError, lambda: sketch.partial_fit(X, -np.ones(n))),
        ("sample_weight", ValueError, lambda: sketch.partial_fit(X, np.full(n, np.nan))),
        ("sample_weight", ValueError, lambda: sketch.partial_fit(X, np.ones(n + 1))),
        ("sample_weight", TypeError, lambda: sketch.partial_fit(X, ["one"] * n)),
        ("eps", ValueError, lambda: sketch.energy_rank(1.5)),
        ("other", TypeError, lambda: sketch.merge(object())),  # type: ignore[arg-type]
        ("data", ValueError, lambda: sketch.from_bytes(b"something else")),
        ("data", TypeError, lambda: sketch.from_bytes("text")),  # type: ignore[arg-type]
    ]
    for name, kind, call in calls:
        try:
            call()
        except kind as error:
            expect(name in str(error), "the message", str(error), f"one that names {name}")
        else:
            raise AssertionError(f"a bad {name} must raise {kind.__name__}")
        expect(sketch.to_bytes() == saved, "state", f"changed by a bad {name}", "unchanged")


def check_round_trip(make_sketch: MakeSketch, X: Array) -> None:
    """Check that a saved sketch is restored to the bit and goes on as the other would."""
    spoiled = like(np.full((2, X.shape[1]), np.nan), X)
    for sketch in (
        make_sketch(),
        fed(make_sketch, split(X)),
        make_sketch().partial_fit(X[:1]).partial_fit(spoiled),
    ):
        saved = sketch.to_bytes()
        back = sketch.from_bytes(saved, like=X)
        expect(back.to_bytes() == saved, "restored state", "another", "the same")
        expect_same("restored sketch", to_numpy(back.sketch()), to_numpy(sketch.sketch()))
        for name in ("n_features", "n_samples_seen", "n_skipped", "effective_weight"):
            one, two = getattr(back, name), getattr(sketch, name)
            expect(one == two, f"restored {name}", one, two)
        expect(type(back.sketch()) is type(sketch.sketch()) or not len(X), "kind", "new", "same")
        sketch.partial_fit(X)
        back.partial_fit(X)
        expect(back.to_bytes() == sketch.to_bytes(), "state after going on", "another", "the same")
