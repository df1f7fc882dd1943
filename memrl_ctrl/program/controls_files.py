"""Reading the files of a controls-system export: which columns are what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.document import LARGEST, MAX_BYTES
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
    role: re.compile(rf"(?<![a-z0-9])({words})(?![a-z0-9])", re.IGNORECASE)
    for role, words in (
        ("b_field_t", "B|B_?field(_t)?"),
        ("v1_v", "V1|V1A|v1_v"),
        ("v2_v", "V2|V2A|v2_v"),
        ("phi_hw_deg", "V2P|P2|phi_?2|phi_hw(_deg)?"),
    )
}
"""What a file's name says, where no device does: a word of it, as in `TOF_V1A.csv`."""
_RING = re.compile(r"^B[A-Z](\d)\b", re.IGNORECASE)
_DATED = re.compile(r"^(?P<name>.*?)\s*\((?P<date>[^()]*\d[^()]*)\)\s*$")
_DAY = re.compile(r"^(\d{2})-(\d{2})-(\d{4})(.*)$")
PICKLES = (".pkl", ".pickle", ".p", ".joblib")
"""File names of pickles."""
NO_PICKLES = "pickles are not read: they can run any code"
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
    cells: tuple[tuple[str, ...], tuple[str, ...]]
    """Times and values as they are written, digit by digit."""

    def line_of(self, index: int) -> int | None:
        """Return the line of a breakpoint; None in a .npy file."""
        return self.lines[index] if self.lines else None

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
        paths = sorted(p for p in folder.iterdir() if p.is_file())
    except OSError as error:
        raise ProgramError(folder, f"cannot be read ({error.strerror})") from error
    pickles = [path.name for path in paths if path.suffix.lower() in PICKLES]
    left_out = [f"{name}: left out, {NO_PICKLES}" for name in pickles]
    paths = [path for path in paths if path.suffix.lower() in (".csv", ".npy")]
    if not paths:
        there = f" ({', '.join(pickles)}: {NO_PICKLES})" if pickles else ""
        raise ProgramError(folder, f"holds no .csv or .npy file{there}; expected {expected}")
    pairs = [pair for path in paths for pair in read_file(path)]
    left_out += [
        f"{pair.path.name}: left out {pair.title}, it is no field, voltage or h=2 phase"
        for pair in pairs
        if not pair.role
    ]
    return [pair for pair in pairs if pair.role], left_out


def read_file(path: Path) -> list[Pair]:
    """Read one .csv or .npy file of an export.

    Raises:
        ProgramError: it is none; names file, line and what was expected.
    """
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ProgramError(path, f"{NO_PICKLES}; save it as .csv or as .npy of shape (2, n)")
    return [read_npy(path)] if suffix == ".npy" else _read_csv(path)


def _read_csv(path: Path) -> list[Pair]:
    rows = csv_rows(path, _EXPECTED)
    if len(rows) < 2:
        raise ProgramError(path, f"has {len(rows)} line; expected {_EXPECTED}")
    (first, names), (second, axes) = rows[:2]
    if len(names) < 2 or len(names) % 2:
        semicolons = "; save it with commas between the cells" if ";" in names[0] else ""
        raise ProgramError(
            path,
            f"has {len(names)} columns; expected pairs of X and Y; {_EXPECTED}{semicolons}",
            line=first,
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
    lines, xs, ys, gap = [], [], [], 0
    for line, cells in rows[2:]:
        x, y = (cells[i] if i < len(cells) else "" for i in (column, column + 1))
        if not x and not y:
            gap = gap or line
            continue
        if gap:
            # Columns of different length leave empty cells at their end, never in the middle.
            raise ProgramError(
                path, f"{title} has empty cells, but goes on in line {line}; fill the gap", line=gap
            )
        xs.append(x)
        ys.append(y)
        lines.append(line)
    if len(lines) < 2:
        raise ProgramError(
            path, f"{title} has {len(lines)} breakpoints; expected at least 2", line=rows[0][0]
        )
    rows_of_numbers = zip(lines, xs, ys, strict=True)
    time, value = np.array(
        [
            (number(path, line, f"X of {title}", x), number(path, line, f"Y of {title}", y))
            for line, x, y in rows_of_numbers
        ]
    ).T
    check_increasing(path, lines, time, f"X of {title}")
    dated = _DATED.match(title)
    device = dated["name"] if dated else title
    return Pair(
        path=path,
        header_line=rows[0][0],
        title=title,
        device=device,
        date=dated["date"].strip() if dated else "",
        role=role_of(device, path.stem),
        ring=_ring(device),
        ctime_ms=time,
        value=value,
        lines=tuple(lines),
        cells=(tuple(xs), tuple(ys)),
    )


def read_npy(path: Path) -> Pair:
    """Read an array of shape (2, n): times and values. It is the field, unless its name says other.

    Raises:
        ProgramError: it is none; says what was expected.
    """
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
        if "Object arrays" in str(error):
            raise ProgramError(path, f"holds Python objects: {NO_PICKLES}; {expected}") from error
        raise ProgramError(path, f"is no .npy file of numbers; expected {expected}") from error
    if array.ndim != 2 or array.shape[0] != 2:
        turned = " (save its transpose)" if array.ndim == 2 and array.shape[1] == 2 else ""
        raise ProgramError(path, f"has shape {array.shape}; expected {expected}{turned}")
    if array.dtype.kind not in "fiu" or array.shape[1] < 2:
        raise ProgramError(path, f"holds {array.shape[1]} {array.dtype}; expected {expected}")
    time, value = np.array(array, dtype=np.float64)
    bad = np.flatnonzero(~((np.abs(time) <= LARGEST) & (np.abs(value) <= LARGEST)))
    if bad.size:
        problem = f"column {bad[0]} is not finite, or too large; expected {expected}"
        raise ProgramError(path, problem)
    falls = np.flatnonzero(np.diff(time) <= 0)
    if falls.size:
        raise ProgramError(
            path, f"ctime does not increase at column {falls[0] + 1}; expected {expected}"
        )
    return Pair(
        path=path,
        header_line=None,
        title=path.name,
        device="",
        date="",
        role=role_of("", path.stem) or "b_field_t",
        ring=None,
        ctime_ms=time,
        value=value,
        lines=(),
        cells=(tuple(map(repr, time.tolist())), tuple(map(repr, value.tolist()))),
    )


def role_of(device: str, stem: str) -> str:
    """Return what a device plays, or what a file's name says where it does not; empty for neither."""
    name = device.partition("#")[0]
    for role, pattern in _DEVICE.items():
        if pattern.search(name):
            return role
    # A known kind of device that is none of the four (an h=1 phase, say) is not guessed at.
    if re.search(r"FG[A-Z]+", name):
        return ""
    found = [role for role, pattern in _FILE.items() if pattern.search(stem)]
    return found[0] if len(found) == 1 else ""


def of_ring(device: str, ring: int) -> str:
    """Return the device of the same kind in another ring; the same where it is of no ring."""
    match = _RING.match(device)
    return f"{device[: match.start(1)]}{ring}{device[match.end(1) :]}" if match else device


def _ring(device: str) -> int | None:
    match = _RING.match(device)
    return int(match.group(1)) if match else None


def _iso(date: str) -> str:
    """Return `30-11-2024 …` as `2024-11-30 …`."""
    match = _DAY.match(date)
    return f"{match[3]}-{match[2]}-{match[1]}{match[4]}" if match else date
