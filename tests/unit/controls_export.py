"""Small exports of the controls system, as the tests of their import write them."""

from __future__ import annotations

from pathlib import Path

FIELD = "0,0\n270,2320.5\n805,8627.123\n815,8627.123\n1200,0"
V1 = "0,0\n260,4000\n300,9000\n810,9000\n1200,0"
V2 = "0,0\n260,3000\n300,6000\n810,3000\n1200,0"
PHASE = "0,-88\n300,-75.5\n805,-90.25"
DEVICES = {
    "B": "PSBBEAM/B#value",
    "V1A": "BA3.FGVRFH1/Settings#amplitudes",
    "V2A": "BA3.FGVRFH2/Settings#amplitudes",
    "V2P": "BA3.FGPRFH2/Settings#amplitudes",
}


def write(path: Path, pairs: list[tuple[str, str]]) -> None:
    """Write pairs (title, rows) side by side, the shorter ones with empty cells below."""
    columns = [[row.split(",") for row in rows.splitlines()] for _, rows in pairs]
    lines = [",".join(f"{title},{title}" for title, _ in pairs), ",".join(["X,Y"] * len(pairs))]
    for i in range(max(map(len, columns))):
        cells = [column[i] if i < len(column) else ["", ""] for column in columns]
        lines.append(",".join(",".join(pair) for pair in cells))
    path.write_text("\n".join(lines) + "\n")


def complete(folder: Path) -> Path:
    """Write a complete export into a new folder."""
    folder.mkdir()
    for name, rows in (("B", FIELD), ("V1A", V1), ("V2A", V2), ("V2P", PHASE)):
        write(folder / f"{name}.csv", [(DEVICES[name], rows)])
    return folder
