"""Reading the files of a controls-system export: which columns are what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.document import MAX_BYTES
from memrl_ctrl.program.table import check_increasing, csv_rows, number

FloatArray = NDArray[np.float64]

ROLES = ("b_field_t", "v1_v", "v2_v", "phi_hw_deg")
EXAMPLE = {
    "b_field_t": ("magnetic field", "PSBBEAM/B#value"),
    "v1_v": ("h=1 voltage", "BA3.FGVRFH1/Settings#amplitudes"),
    "v2_v": ("h=2 voltage", "BA3.FGVRFH2/Settings#amplitudes"),
    "phi_hw_deg": ("h=2 phase", "BA3.FGPRFH2/Settings#amplitudes"),
}
"""What each role is in words, and the device that usually holds it."""
_DEVICE = {
    "b_field_t": re.compile(r"(/B$|\.?BMEAS|\bBFIELD\b)", re.IGNORECASE),
    "v1_v": re.compile(r"V[A-Z]*H1\b", re.IGNORECASE),
    "v2_v": re.compile(r"V[A-Z]*H2\b", re.IGNORECASE),
    "phi_hw_deg": re.compile(r"P[A-Z]*H2\b", re.IGNORECASE),
}
_FILE = {
    "b_field_t": re.compile(r"B(field)?", re.IGNORECASE),
    "v1_v": re.compile(r"V1A?", re.IGNORECASE),
    "v2_v": re.compile(r"V2A?", re.IGNORECASE),
    "phi_hw_deg": re.compile(r"V2P|P2|phi_?2|phi_hw", re.IGNORECASE),
}
_RING = re.compile(r"^B[A-Z](\d)\b", re.IGNORECASE)
_DATED = re.compile(r"^(?P<name>.*?)\s*\((?P<date>[^()]*\d[^()]*)\)\s*$")
_DAY = re.compile(r"^(\d{2})-(\d{2})-(\d{4})(.*)$")
_EXPECTED = "device names in the first line, X,Y in the second, then breakpoints"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One X,Y pair of columns, or one .npy file."""

    path: Path
    """File."""
    header_line: int | None
    """Line of its name; None in a .npy file."""
    title: str
    """Name as in the file."""
    device: str
    """Name without its date."""
    date: str
    """Date of an older version; empty for the current one."""
    role: str
    """One of `ROLES`; empty where neither device nor file name says it."""
    ring: int | None
    """Ring of the device; None where it belongs to none."""
    ctime_ms: FloatArray
    """Breakpoints [n], ms."""
    value: FloatArray
    """Values [n], in the export's unit."""
    lines: tuple[int, ...]
    """Line of each breakpoint; empty in a .npy file."""

    def matches(self, version: str) -> bool:
        """Whether this is the older version of that date, given with or without its time."""
        wanted = version.strip()
        return bool(self.date and wanted) and (
            self.date.startswith(wanted) or _iso(self.date).startswith(wanted)
        )


def read_export(folder: Path) -> tuple[list[Pair], list[str]]:
    """Read every .csv and .npy file of a folder.

    Returns:
        The pairs whose role is known, and a sentence for each that was left out.

    Raises:
        ProgramError: a file is no export; names file, line and what was expected.
    """
    expected = "a folder with the exported .csv files"
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "does not exist"
        raise ProgramError(folder, f"{problem}; expected {expected}")
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".csv", ".npy"))
    except OSError as error:
        raise ProgramError(folder, f"cannot be read ({error.strerror})") from error
    if not paths:
        raise ProgramError(folder, f"holds no .csv or .npy file; expected {expected}")
    pairs: list[Pair] = []
    for path in paths:
        pairs += [_read_npy(path)] if path.suffix.lower() == ".npy" else _read_csv(path)
    left_out = [
        f"{pair.path.name}: left out {pair.title}, it is no field, voltage or h=2 phase"
        for pair in pairs
        if not pair.role
    ]
    return [pair for pair in pairs if pair.role], left_out


def _read_csv(path: Path) -> list[Pair]:
    rows = csv_rows(path, _EXPECTED)
    if len(rows) < 2:
        raise ProgramError(path, f"has {len(rows)} line; expected {_EXPECTED}")
    (first, names), (second, axes) = rows[:2]
    if len(names) < 2 or len(names) % 2:
        raise ProgramError(
            path, f"has {len(names)} columns; expected pairs of X and Y; {_EXPECTED}", line=first
        )
    if [axis.upper() for axis in axes] != ["X", "Y"] * (len(names) // 2):
        wanted = ",".join(["X", "Y"] * (len(names) // 2))
        raise ProgramError(path, f"reads {','.join(axes)[:60]!r}; expected {wanted}", line=second)
    for line, cells in rows[2:]:
        if len(cells) > len(names):
            raise ProgramError(path, f"has {len(cells)} columns; expected {len(names)}", line=line)
    return [_pair(path, rows, column) for column in range(0, len(names), 2)]


def _pair(path: Path, rows: list[tuple[int, list[str]]], column: int) -> Pair:
    line, names = rows[0]
    x_name, y_name = names[column : column + 2]
    title = x_name or y_name
    if not title or (y_name and y_name != title):
        raise ProgramError(
            path,
            f"columns {column + 1} and {column + 2} are named {x_name!r} and {y_name!r}; "
            "expected one device for both",
            line=line,
        )
    times, values, lines = [], [], []
    for line, cells in rows[2:]:
        x, y = (cells[i] if i < len(cells) else "" for i in (column, column + 1))
        if not x and not y:
            continue
        times.append(number(path, line, f"X of {title}", x))
        values.append(number(path, line, f"Y of {title}", y))
        lines.append(line)
    if len(times) < 2:
        raise ProgramError(
            path, f"{title} has {len(times)} breakpoints; expected at least 2", line=rows[0][0]
        )
    time = np.array(times)
    check_increasing(path, lines, time, f"X of {title}")
    dated = _DATED.match(title)
    device = dated["name"] if dated else title
    return Pair(
        path=path,
        header_line=rows[0][0],
        title=title,
        device=device,
        date=dated["date"].strip() if dated else "",
        role=_role(device, path),
        ring=_ring(device),
        ctime_ms=time,
        value=np.array(values),
        lines=tuple(lines),
    )


def _read_npy(path: Path) -> Pair:
    expected = "an array of shape (2, n): ctime in ms and field in gauss"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProgramError(path, f"is larger than {MAX_BYTES >> 20} MiB; expected {expected}")
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        reason = error.strerror or "no .npy file"
        raise ProgramError(path, f"cannot be read ({reason}); expected {expected}") from error
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError, OverflowError) as error:
        # numpy parses the header as a Python literal: damage surfaces as any of these.
        raise ProgramError(path, f"is no .npy file of numbers; expected {expected}") from error
    if array.ndim != 2 or array.shape[0] != 2:
        raise ProgramError(path, f"has shape {array.shape}; expected {expected}")
    if array.dtype.kind not in "fiu" or array.shape[1] < 2:
        raise ProgramError(path, f"holds {array.shape[1]} {array.dtype}; expected {expected}")
    time, value = np.array(array, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(time) & np.isfinite(value)))
    if bad.size:
        raise ProgramError(path, f"column {bad[0]} is not finite; expected {expected}")
    falls = np.flatnonzero(np.diff(time) <= 0)
    if falls.size:
        raise ProgramError(
            path, f"ctime does not increase at column {falls[0] + 1}; expected {expected}"
        )
    return Pair(
        path=path,
        header_line=None,
        title=path.name,
        device=path.name,
        date="",
        role="b_field_t",
        ring=None,
        ctime_ms=time,
        value=value,
        lines=(),
    )


def _role(device: str, path: Path) -> str:
    name = device.partition("#")[0]
    for role, pattern in _DEVICE.items():
        if pattern.search(name):
            return role
    # A known kind of device that is none of the four (an h=1 phase, say) is not guessed at.
    if re.search(r"FG[A-Z]+", name):
        return ""
    for role, pattern in _FILE.items():
        if pattern.fullmatch(path.stem):
            return role
    return ""


def _ring(device: str) -> int | None:
    match = _RING.match(device)
    return int(match.group(1)) if match else None


def _iso(date: str) -> str:
    """Return `30-11-2024 …` as `2024-11-30 …`."""
    match = _DAY.match(date)
    return f"{match[3]}-{match[2]}-{match[1]}{match[4]}" if match else date
