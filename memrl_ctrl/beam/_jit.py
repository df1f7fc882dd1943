"""One decorator for the compiled functions of the beam model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# "nnan" and "ninf" are left out: NaN marks what does not exist and must survive.
_FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without the GIL, cached on disk where a folder can be written.

    A file that calls compiled functions of another file keeps its cached code when only that other
    file changes: while developing, delete `memrl_ctrl/beam/__pycache__`.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        result: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder for its cache, as in a read-only container
        result = numba.njit(**options)(function)
    return result
