"""Element type and shape of each column of a trace, by its header: who reads one can rely on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from memrl_ctrl.frames import DTYPES, MAX_DIMENSIONS
from memrl_ctrl.trace import datasets
from memrl_ctrl.trace.codec import MEASURE, MEMORY_IN, MEMORY_OUT
from memrl_ctrl.trace.columns import (
    COLUMNS,
    CYCLES,
    MEMORY_FROM,
    OUTCOMES,
    PROFILE,
    PROFILE_FIRST,
    PROFILE_STEP,
    described,
    quoted,
)
from memrl_ctrl.trace.journal import MAX_PAYLOAD_BYTES
from memrl_ctrl.trace.records import TraceHeader

ANY = None
"""A length that no header fixes."""
EVERY_CYCLE = (
    "cycle",
    "stamp_ns",
    "received_ns",
    "mode",
    "policy_ran",
    "target_cycle",
    "events_json",
    "setpoint_rad",
    "applied_rad",
    "readback_rad",
    "synchronous_phase_rad",
    "quality",
    "proposed_rad",
    "verdicts",
)
"""Columns of `/cycles` that are in each trace with cycles, beside the profile."""
TEXT = "O"
SLICE_BYTES = 4
"""What a slice of a profile takes; one byte where it is a step."""

Wanted = tuple[str, tuple[int | None, ...]]
"""Element types, and the shape of a cycle's value."""
Empty = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Element type and shape of the columns without any element, by path."""


class Shapes:
    """The columns that a trace's header allows.

    Args:
        header: of the trace.
    """

    def __init__(self, header: TraceHeader) -> None:
        points, slices = header.machine.points, header.machine.n_slices
        function: Wanted = ("<f8", (points,))
        measures = [CYCLES + MEASURE + quoted(name) for name in header.measures]
        functions = [path for path, column in COLUMNS.items() if column.units == "rad"]
        self._points = points
        self._known: dict[str, Wanted] = dict.fromkeys((*functions, *measures), function) | {
            PROFILE: ("<f4", (points, slices)),
            PROFILE_STEP: ("<i1 <i2", (points, slices)),
            PROFILE_FIRST: ("<i4", (points,)),
            "cycles/quality": ("<u2", (points,)),
            "cycles/policy_ran": ("|u1", ()),
            "cycles/observation": ("<f4", (points, ANY)),
            "cycles/previous_applied": ("<f4", (points, 1)),
            "cycles/action": ("<f4", (points, 1)),
            "cycles/verdicts": ("|u1", (points, len(header.guard_stages))),
            "outcomes/state": ("|i1", ()),
        }
        self.always = (*(CYCLES + name for name in EVERY_CYCLE), *measures)
        """Columns that have a value in each cycle, and all of it in its own place."""

    def check(self, path: str, dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
        """Check a column.

        Args:
            path: of the column.
            dtype: its element type.
            row: shape of a cycle's value.

        Raises:
            ValueError: it does not fit.
        """
        if path.startswith((CYCLES + MEMORY_IN, CYCLES + MEMORY_OUT)):
            fits = row[:1] == (self._points,) and len(row) <= MAX_DIMENSIONS
            fits = fits and dtype in DTYPES.values()
        else:
            types, wanted = self._wanted(path)
            fits = len(row) == len(wanted) and all(
                one in (ANY, length) for one, length in zip(wanted, row, strict=True)
            )
            fits = fits and dtype in map(np.dtype, types.split())
        if not fits:
            raise ValueError(f"{path} is {dtype} {list(row)} a cycle, which does not fit")

    def _wanted(self, path: str) -> Wanted:
        if path in self._known:
            return self._known[path]
        if path.startswith(MEMORY_FROM):
            return "<i1", ()
        return (TEXT if not described(path).units else "<i8"), ()


class Columns:
    """Datasets of a trace's columns by path; what this release does not know is no column.

    One that cannot be the column of its name is refused where it is asked for, and costs no other.

    Args:
        file: `h5py.File`, a trace.
        header: of it.
        cycles: how many it has.

    Raises:
        ValueError: a group of columns is missing, or lies in another file.
    """

    def __init__(self, file: Any, header: TraceHeader, cycles: int) -> None:
        self._file, self._shapes, self._cycles = file, Shapes(header), cycles
        self._checked: dict[str, Any] = {}
        self.names = tuple(sorted(_paths(file)))

    def __contains__(self, path: str) -> bool:
        return path in self.names

    def __getitem__(self, path: str) -> Any:
        """Return a column's dataset.

        Raises:
            ValueError: it is missing, or cannot be the column of that name.
        """
        if path not in self._checked:
            dataset = datasets.column(self._file, path, self._cycles)
            self._shapes.check(path, dataset.dtype, dataset.shape[1:])
            self._check_claim(path, dataset)
            self._checked[path] = dataset
        return self._checked[path]

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a cycle's values, texts by their references; of the columns that can be read.

        Raises:
            ValueError: more than any record has.
        """
        total = 0
        for path in self.names:
            with contextlib.suppress(*datasets.DAMAGE):
                total += prod(self[path].shape[1:]) * self[path].dtype.itemsize
        if total > 2 * MAX_PAYLOAD_BYTES:
            raise ValueError(f"a cycle claims {total} bytes, more than any record has")
        return total

    def _check_claim(self, path: str, dataset: Any) -> None:
        """Hold what each cycle has against the bytes that are there; other columns may have holes."""
        stored = dataset.id.get_storage_size()
        if path == PROFILE:  # as they are, or in steps
            steps = self[PROFILE_STEP].id.get_storage_size() if PROFILE_STEP in self else 0
            datasets.check_claim(path, dataset.nbytes, SLICE_BYTES * (stored + steps))
        elif path in self._shapes.always:
            datasets.check_claim(path, dataset.nbytes, stored)


def _paths(file: Any) -> Iterator[str]:
    """Yield the paths of all columns; what a link leads to is one too, and refused where it is asked for.

    Raises:
        ValueError: a group of columns is missing, or lies in another file.
    """
    for top in (CYCLES, OUTCOMES):
        for name in datasets.group(file, top.rstrip("/")):
            path = top + name
            if _is_known(path):
                yield path
            elif datasets.is_group(file, path):
                inside = (f"{path}/{own}" for own in datasets.group(file, path))
                yield from filter(_is_known, inside)


def empty_of(held: Mapping[str, tuple[str, list[int]]], header: TraceHeader) -> Empty:
    """Return element type and shape of the columns without any element.

    Raises:
        ValueError: one of them has elements, or does not fit.
    """
    shapes, empty = Shapes(header), Empty()
    for path, (name, row) in held.items():
        dtype, shape = DTYPES.get(name), tuple(row)
        if dtype is None or not _is_known(path) or 0 not in shape:
            raise ValueError(f"{path} is said to be empty, with a shape of {row} of {name}")
        shapes.check(path, dtype, shape)
        empty[path] = dtype, shape
    return empty


def _is_known(path: str) -> bool:
    try:
        described(path)
    except KeyError:
        return False
    return True
