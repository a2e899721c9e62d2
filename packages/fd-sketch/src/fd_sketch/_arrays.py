"""Where arrays live: numpy on the host, the array's own library on a device."""

import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import array_api_compat as compat
import numpy as np

Array: TypeAlias = Any  # an array of any library that follows the Array API


@dataclass(frozen=True, slots=True)
class Home:
    """The library and the device of a user's arrays."""

    library: str
    device: Any

    @property
    def on_host(self) -> bool:
        """Whether the arithmetic is numpy's: host tensors are read in place as numpy arrays."""
        return self.library == "numpy" or (self.library == "torch" and self.device.type == "cpu")

    def __str__(self) -> str:
        return f"{self.library} on {self.device}"


NUMPY = Home("numpy", "cpu")
NUMPY_NAMESPACE = compat.array_namespace(np.empty(0))


def home_of(X: Array, name: str = "X") -> Home:
    """Return where an array lives.

    Raises:
        TypeError: `X` is no dense array.
    """
    if isinstance(X, type):
        raise TypeError(f"{name} must be an array, got the type {X.__name__}")
    if isinstance(X, np.ndarray) and not isinstance(X, np.ma.MaskedArray):
        return NUMPY
    if compat.is_torch_array(X) and not is_dense(X):
        raise TypeError(f"{name} must be a dense tensor, got layout {X.layout}")
    if compat.is_jax_array(X):
        raise TypeError(
            f"{name} must not be an array of jax, which is never written to: pass "
            f"numpy.asarray({name}), or use fd_sketch.functional"
        )
    if compat.is_array_api_obj(X) and not isinstance(X, np.ndarray | np.generic):
        library = compat.array_namespace(X).__name__.rpartition("array_api_compat.")[2]
        return Home(library, compat.device(X))
    raise TypeError(
        f"{name} must be an array (numpy, torch or another of the Array API), "
        f"got {type(X).__name__}"
    )


def home_of_rows(X: Array, name: str = "X") -> Home:
    """Return where rows live, which may also be a sparse matrix of scipy.

    Raises:
        TypeError: `X` is neither a dense array nor a sparse matrix of scipy.
    """
    return NUMPY if is_sparse(X) else home_of(X, name)


def is_sparse(X: Array) -> bool:
    """Return whether this is a sparse matrix of scipy, which is never imported to find out."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(X))


def is_dense(X: Array) -> bool:
    """Return whether a tensor stores all its entries."""
    return bool(X.layout == sys.modules["torch"].strided)


def to_state(X: Array, home: Home) -> Array:
    """Return the array the arithmetic works on: a view where the values allow it.

    Half precision becomes float32. Autograd ends here.
    """
    if home.library == "torch":
        X = _wide(X.detach())
        return X.numpy(force=True) if home.on_host else X
    if is_sparse(X):
        # integers stored twice for one entry would add up in their own narrow range
        return (X.astype(np.float64) if X.dtype.kind in "iu" else X).tocsr()
    return np.asarray(X) if home == NUMPY else X


def _wide(X: Array) -> Array:
    """Return a tensor of half precision or less as float32, of which numpy knows all kinds."""
    return X.float() if X.dtype.is_floating_point and X.dtype.itemsize < 4 else X


def to_user(A: Array, home: Home) -> Array:
    """Return a state array as an array of its home, sharing memory."""
    if home.library == "torch" and home.on_host:
        # what numpy computes of an array of no dimensions is none any more
        return sys.modules["torch"].from_numpy(np.asarray(A))
    return A


def move(A: Array, home: Home, target: Home) -> Array:
    """Return a copy of a state array in another place of the same library, or out of numpy."""
    if target.library == "numpy":
        return np.array(A)
    X = to_user(A, home)
    if home.library == "numpy":
        X = foreign(X, target)
    X = compat.to_device(X, target.device)
    return clone(to_state(X, target))


def foreign(A: np.ndarray, target: Home) -> Array:
    """Return a numpy array as one of another library."""
    if target.library == "torch":
        return sys.modules["torch"].from_numpy(A)
    return sys.modules[target.library].asarray(A)


def clone(A: Array) -> Array:
    """Return a copy of an array in its own place."""
    return namespace(A).asarray(A, copy=True)


def namespace(A: Array) -> Any:
    """Return the Array API namespace of an array, numpy's for a sparse matrix."""
    if isinstance(A, np.ndarray) or is_sparse(A):
        return NUMPY_NAMESPACE
    return compat.array_namespace(A)


def place(A: Array) -> Any:
    """Return the device of a state array."""
    return NUMPY.device if is_sparse(A) else compat.device(A)


def to_numpy(A: Array) -> np.ndarray:
    """Return the values of an array as numpy holds them."""
    if compat.is_torch_array(A):
        return np.asarray(_wide(A.detach()).numpy(force=True))
    return np.asarray(A.get() if compat.is_cupy_array(A) else A)


def working_dtype(X: Array, name: str = "X") -> str:
    """Return the name of the dtype of rows as kept: float32 for up to 32 bits, else float64.

    Integers count as float64.

    Raises:
        TypeError: `X` holds something else than real numbers.
    """
    xp = namespace(X)
    if xp is NUMPY_NAMESPACE:
        kind, narrow = X.dtype.kind, X.dtype.itemsize <= 4
    else:
        kind = "f" if xp.isdtype(X.dtype, "real floating") else "?"
        kind = "i" if xp.isdtype(X.dtype, "integral") else kind
        narrow = kind == "f" and xp.finfo(X.dtype).bits <= 32
    if kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {X.dtype}")
    return "float32" if kind == "f" and narrow else "float64"


def cast(A: Array, dtype: str) -> Array:
    """Return the array with a dtype, itself where it has that dtype."""
    xp = namespace(A)
    return xp.astype(A, getattr(xp, dtype), copy=False)
