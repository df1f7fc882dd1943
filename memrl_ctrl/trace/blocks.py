"""Rows of values by column, gathered into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def filler(dtype: np.dtype[Any]) -> Any:
    """Return what stands where a cycle has no value: NaN, -1, or 0 where there is no sign."""
    return {"f": np.nan, "i": -1}.get(dtype.kind, 0)


def column_of(rows: Sequence[Mapping[str, Any]], name: str, example: Any) -> NDArray[Any]:
    """Return a column of some rows [rows, ...], filled where a row has no value.

    Args:
        rows: values by column.
        name: the column.
        example: one of its values, for element type and shape; a string column is of objects.
    """
    if isinstance(example, str):
        return np.array([row.get(name, "") for row in rows], dtype=object)
    array = np.asarray(example)
    block = np.full((len(rows), *array.shape), filler(array.dtype), dtype=array.dtype)
    for index, row in enumerate(rows):
        if name in row:
            block[index] = row[name]
    return block
