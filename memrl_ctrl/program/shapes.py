"""The functions of the shipped 2 GeV programs, from published numbers.

`memrl_programs` ships what `psb_2gev_files` returns; a test regenerates the files and compares. To
write them anew: `python -m memrl_ctrl.program.shapes FOLDER`.

160 MeV at injection and 2 GeV at extraction are the LHC Injectors Upgrade's (H. Damerau et al. (ed.),
Technical Design Report, vol. I, CERN-ACC-2014-0337); with rho = 8.239 m of the PSB parameter list
B = p / (e rho) goes from 0.232 to 1.135 T. Injection is at ctime 275 ms, extraction at 805 ms of 1.2 s.
The shapes between are this project's own:
they stay within Bdot <= 3.70 T/s, 6 kV <= V1 <= 11 kV, 0.14 <= V2/V1 <= 0.8, V1 + V2 <= 24 kV.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.program.table import TIME, format_columns

FloatArray = NDArray[np.float64]

START_MS, END_MS = 265.0, 815.0
INJECTION_MS, EXTRACTION_MS = 275.0, 805.0
B_INJECTION_T, B_EXTRACTION_T = 0.232, 1.135
FIRST_T_PER_S = 0.8
"""Bdot that is reached soon after injection, T/s."""
FIRST_MS, RISE_MS, FALL_MS = 20.0, 400.0, 130.0
"""How long Bdot takes to that value, from there to its plateau, and back to 0, ms."""


def smooth_step(u: FloatArray) -> FloatArray:
    """Rise from 0 at u <= 0 to 1 at u >= 1 with continuous first and second derivative."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10.0 + u * (6.0 * u - 15.0))


def _risen(u: FloatArray) -> FloatArray:
    """Integral of `smooth_step` from 0 to u."""
    inside = np.clip(u, 0.0, 1.0)
    return inside**4 * (2.5 + inside * (inside - 3.0)) + np.maximum(u - 1.0, 0.0)


def between(time: FloatArray, start: float, end: float, low: float, high: float) -> FloatArray:
    """Go smoothly from `low` at `start` to `high` at `end`."""
    return low + (high - low) * smooth_step((time - start) / (end - start))


def field_t(ctime_ms: FloatArray) -> FloatArray:
    """Field [n], T: Bdot rises soon to 0.8 T/s, on to its plateau, and falls to 0 at extraction."""
    length = EXTRACTION_MS - INJECTION_MS
    first = 1e-3 * FIRST_T_PER_S  # T/ms
    gained = B_EXTRACTION_T - B_INJECTION_T - first * 0.5 * (RISE_MS - FIRST_MS)
    plateau = gained / (length - 0.5 * (RISE_MS + FALL_MS))  # T/ms
    elapsed = ctime_ms - INJECTION_MS
    return (
        B_INJECTION_T
        + first * FIRST_MS * _risen(elapsed / FIRST_MS)
        + (plateau - first) * RISE_MS * _risen(elapsed / RISE_MS)
        - plateau * FALL_MS * _risen((elapsed - (length - FALL_MS)) / FALL_MS)
    )


def v1_v(ctime_ms: FloatArray) -> FloatArray:
    """Voltage of h=1 [n], V: 8 kV at injection, 10.8 kV for the ramp, 8 kV before extraction."""
    return between(ctime_ms, 275.0, 320.0, 8000.0, 10800.0) + between(
        ctime_ms, 690.0, 800.0, 0.0, -2800.0
    )


def v2_v(ctime_ms: FloatArray) -> FloatArray:
    """Voltage of h=2 [n], V: 0.8 of V1 early, 0.5 in the ramp, 0.14 before extraction."""
    ratio = between(ctime_ms, 350.0, 600.0, 0.8, 0.5) + between(ctime_ms, 740.0, 800.0, 0.0, -0.36)
    return ratio * v1_v(ctime_ms)


def phi_hw_deg(ctime_ms: FloatArray) -> FloatArray:
    """Knob [n], degrees: nearly flat, as set by hand before any optimisation. Not the optimum."""
    return between(ctime_ms, 280.0, 420.0, -85.0, -70.0) + between(
        ctime_ms, 600.0, 780.0, 0.0, -10.0
    )


def psb_2gev_files() -> dict[str, str]:
    """Return the shipped functions: file name to CSV text."""
    fine = np.arange(START_MS, END_MS + 0.5, 1.0)
    coarse = np.arange(START_MS, END_MS + 0.5, 5.0)
    columns = {
        "b_field_t": (fine, np.round(field_t(fine), 8)),
        "v1_v": (coarse, np.round(v1_v(coarse), 1)),
        "v2_v": (coarse, np.round(v2_v(coarse), 1)),
        "phi_hw_deg": (coarse, np.round(phi_hw_deg(coarse), 3)),
    }
    return {
        f"psb-2gev-{name}.csv": format_columns({TIME: time, name: value})
        for name, (time, value) in columns.items()
    }


def main() -> None:
    """Write the files into the folder named on the command line."""
    folder = Path(sys.argv[1])
    for name, text in psb_2gev_files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
