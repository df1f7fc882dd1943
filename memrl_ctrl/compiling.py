"""The decorators of all functions that numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# "nnan" and "ninf" are left out: NaN marks what does not exist and must survive.
_FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    """Compile without the GIL, cached on disk; sums may be taken in another order.

    A file that calls compiled functions of another file keeps its cached code when only that other
    file changes: while developing, delete the `__pycache__` beside it.
    """
    return _compiled(function, fastmath=_FASTMATH, error_model="numpy")


def compiled_exactly(function: Function) -> Function:
    """Compile as `compiled` does, each operation as written: the same bits on every processor."""
    return _compiled(function)


def _compiled(function: Function, **options: Any) -> Function:
    try:
        result: Function = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # numba finds no folder for its cache, as in a read-only container
        result = numba.njit(nogil=True, **options)(function)
    return result
