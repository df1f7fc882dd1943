"""Where `memrl-ctrl fit` has its profiles from: a trace, or a plain file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Quality
from memrl_ctrl.errors import FileError, MemrlError, TraceError, UsageError
from memrl_ctrl.program import CycleProgram, load_program
from memrl_ctrl.trace import TraceReader
from memrl_ctrl.trace.truth import offset_of_cycle

FloatArray = NDArray[np.float64]

PLAIN = (".csv", ".txt", ".npy")
"""Endings of plain files; all else is a trace."""
CTIME_DECIMALS = 3
_HEAD = re.compile(r"^#\s*(ctime_ms|phi_hw_deg)\s*:\s*(.*)$")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Profiles of some control points of one cycle."""

    path: Path
    """Where they come from."""
    program: CycleProgram
    """What the machine played."""
    cycle: int | None
    """Number of the cycle; None for a plain file."""
    points: NDArray[np.int64]
    """Control points, counted from 0; -1 for a ctime that is none [n]."""
    ctime_ms: FloatArray
    """Where in the cycle [n]."""
    phi_hw_rad: FloatArray | None
    """The knob as the machine reports it [n]; None: as the program sets it."""
    profile: FloatArray
    """[n, n_slices]."""
    flags: tuple[str, ...]
    """What is wrong with each profile, empty where nothing is [n]."""
    true_offset_rad: FloatArray | None = None
    """The offset that a simulation knows [n]."""

    def take(self, rows: NDArray[np.int64]) -> Measured:
        """Return some of the points."""
        from dataclasses import replace

        return replace(
            self,
            points=self.points[rows],
            ctime_ms=self.ctime_ms[rows],
            phi_hw_rad=None if self.phi_hw_rad is None else self.phi_hw_rad[rows],
            profile=self.profile[rows],
            flags=tuple(self.flags[row] for row in rows),
            true_offset_rad=None if self.true_offset_rad is None else self.true_offset_rad[rows],
        )


def is_plain(path: Path) -> bool:
    """Whether a path is a plain file of profiles."""
    return path.suffix.lower() in PLAIN


def from_trace(
    path: Path, *, program: str | None, cycle: int | None, truth: Path | None
) -> Measured:
    """Return a cycle of a trace, the last one unless its number is given.

    Raises:
        TraceError: no such cycle, or a trace whose points are not those of a cycle.
        UnknownNameError: the trace's program cannot be found by its name.
    """
    with TraceReader(path) as trace:
        machine = trace.header.machine
        if not len(trace):
            raise TraceError(trace.path, "has no cycle; there is nothing to fit")
        if machine.ctime_ms is None:
            raise TraceError(trace.path, "its rows are unrelated conditions, not points of a cycle")
        index = len(trace) - 1
        if cycle is not None:
            found = np.flatnonzero(trace.cycles == cycle)
            if not found.size:
                raise TraceError(
                    trace.path,
                    f"has no cycle {cycle}; it holds {trace.cycles[0]} to {trace.cycles[-1]}",
                )
            index = int(found[0])
        reading = trace.record(index).reading
        ctime = np.array(machine.ctime_ms, dtype=np.float64)
        name, where = machine.program, trace.path
    loaded = _program(program or name, where, given=program is not None)
    _inside(loaded, ctime, where)
    known = None
    if truth is not None:
        known = offset_of_cycle(truth, reading.cycle, ctime.size)
    return Measured(
        path=where,
        program=loaded,
        cycle=reading.cycle,
        points=np.arange(ctime.size),
        ctime_ms=ctime,
        phi_hw_rad=np.array(reading.readback_rad),
        profile=reading.profile.astype(np.float64),
        flags=tuple(
            "" if usable else _flag_words(int(quality))
            for usable, quality in zip(reading.usable, reading.quality, strict=True)
        ),
        true_offset_rad=known,
    )


def from_file(
    path: Path, *, program: str | None, ctime_ms: float | None, phi_hw_deg: float | None, point: str
) -> Measured:
    """Return the profiles of a plain file: .npy [n_slices] or [n, n_slices], or CSV, one a column.

    Raises:
        FileError: the file cannot be read, or does not say where in the cycle its profiles are.
        UsageError: no program.
    """
    if program is None:
        raise UsageError(f"{path} does not say which program was played: give --program")
    loaded = load_program(program)
    head: dict[str, FloatArray] = {}
    if path.suffix.lower() == ".npy":
        profile = _npy(path)
    else:
        profile, head = _csv(path)
    count = profile.shape[0]
    if ctime_ms is not None:
        head["ctime_ms"] = np.array([ctime_ms])
    if "ctime_ms" not in head:
        head["ctime_ms"] = _program_ctimes(path, loaded, count, point)
    if phi_hw_deg is not None:
        head["phi_hw_deg"] = np.array([phi_hw_deg])
    for name, values in head.items():
        if values.size not in (1, count):
            raise FileError(path, f"{name} has {values.size} values for {count} profiles")
        head[name] = np.broadcast_to(values, (count,)).copy()
    _inside(loaded, head["ctime_ms"], path)
    return Measured(
        path=path,
        program=loaded,
        cycle=None,
        points=_points_at(loaded, head["ctime_ms"]),
        ctime_ms=head["ctime_ms"],
        phi_hw_rad=np.radians(head["phi_hw_deg"]) if "phi_hw_deg" in head else None,
        profile=profile,
        flags=("",) * count,
    )


def chosen(measured: Measured, point: str) -> Measured:
    """Return the control point that is asked for, or all.

    Raises:
        UsageError: no such point.
    """
    if point == "all":
        return measured
    number = point_number(point)
    rows = np.flatnonzero(measured.points == number)
    if not rows.size:
        have = sorted({int(p) for p in measured.points if p >= 0})
        words = f"{have[0]} to {have[-1]}" if have else "none"
        raise UsageError(f"no control point {number} in {measured.path}; there is: {words}")
    return measured.take(rows)


def point_number(point: str) -> int:
    """Return a control point's number.

    Raises:
        UsageError: neither a number nor `all`.
    """
    if not point.isdigit():
        raise UsageError(f"--point is {point!r}; it must be a number from 0, or 'all'")
    return int(point)


def _program(name: str, path: Path, *, given: bool) -> CycleProgram:
    try:
        return load_program(name)
    except MemrlError as error:
        if given:
            raise
        raise TraceError(
            path, f"its program {name!r} cannot be loaded ({error}); give it with --program"
        ) from error


def _inside(program: CycleProgram, ctime_ms: FloatArray, path: Path) -> None:
    low, high = program.beam_ms
    outside = np.flatnonzero(~((ctime_ms >= low) & (ctime_ms <= high)))
    if outside.size:
        raise FileError(
            path,
            f"ctime {ctime_ms[outside[0]]:g} ms is outside program {program.name}: it has beam from "
            f"{low:g} to {high:g} ms",
        )


def _flag_words(quality: int) -> str:
    names = [
        flag.name.lower().replace("_", " ")
        for flag in Quality
        if flag.name and flag.value and quality & flag.value and flag is not Quality.NO_MATCH
    ]
    return f"flagged {', '.join(names)}"


def _npy(path: Path) -> FloatArray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(path, f"cannot be read as an array: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise FileError(path, "holds no array of numbers")
    if values.ndim not in (1, 2) or values.size == 0:
        raise FileError(
            path, f"has shape {values.shape}; expected [n_slices] or [n, n_slices] profiles"
        )
    return np.atleast_2d(values).astype(np.float64)


def _csv(path: Path) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Return profiles [n, n_slices] and what the head says, [n] each."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read: {error}") from error
    head: dict[str, FloatArray] = {}
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if text.startswith("#"):
            match = _HEAD.match(text)
            if match:
                head[match[1]] = np.array(_numbers(match[2].split(","), path, number))
            continue
        rows.append(_numbers(text.split(","), path, number))
        if len(rows[-1]) != len(rows[0]):
            raise FileError(
                path, f"{len(rows[-1])} values, the lines before have {len(rows[0])}", line=number
            )
    if not rows:
        raise FileError(path, "holds no numbers; expected one profile a column, one slice a line")
    return np.array(rows, dtype=np.float64).T, head


def _numbers(texts: Sequence[str], path: Path, line: int) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise FileError(
            path,
            "expected numbers separated by commas (one profile a column; a head is written as "
            "'# ctime_ms: 285')",
            line=line,
        ) from error


def _program_ctimes(path: Path, program: CycleProgram, count: int, point: str) -> FloatArray:
    """Return the ctimes of profiles that do not say them: the point asked for, or all points."""
    points = program.control_points_ms
    if point != "all":
        number = point_number(point)
        if number >= points.size:
            raise UsageError(
                f"no control point {number} in program {program.name}; there is: 0 to "
                f"{points.size - 1}"
            )
        return points[[number]]
    if count != points.size:
        raise FileError(
            path,
            f"does not say where in the cycle its {count} profiles are (program {program.name} has "
            f"{points.size} control points): give --ctime, --point or a line '# ctime_ms: ...'",
        )
    return np.array(points)


def _points_at(program: CycleProgram, ctime_ms: FloatArray) -> NDArray[np.int64]:
    """Return the control points that stand at some ctimes, -1 where there is none."""
    near = np.abs(program.control_points_ms[None, :] - ctime_ms[:, None])
    best = near.argmin(axis=1)
    close = near[np.arange(ctime_ms.size), best] < 10.0**-CTIME_DECIMALS
    return np.where(close, best, -1)
