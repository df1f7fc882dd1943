"""The functions of the shipped programs, from published numbers.

`memrl_programs` ships what `shipped_files` returns; a test regenerates the files and compares. To
write them anew: `python -m memrl_ctrl.program.shapes FOLDER`. None of it is operational data: energies,
ctimes and ranges are published, the shapes between are this project's own.

**PSB.** 160 MeV at injection and 2 GeV at extraction are the LHC Injectors Upgrade's (H. Damerau et al.
(ed.), Technical Design Report, vol. I, CERN-ACC-2014-0337); 1.4 GeV is what ISOLDE still takes. With
rho = 8.239 m of the PSB parameter list B = p / (e rho) goes from 0.232 to 1.135 T, or to 0.867 T. Injection
is at ctime 275 ms, extraction at 805 ms of 1.2 s. The shapes stay within Bdot <= 3.70 T/s,
6 kV <= V1 <= 11 kV, 0.14 <= V2/V1 <= 0.8, V1 + V2 <= 24 kV.

**ISIS.** 70.4 MeV to 800 MeV in the 10 ms between minimum and maximum of a field that swings as a sine
of 50 Hz: B rho = 1.2349 to 4.8813 T m, with rho = 7.00 m 0.1764 to 0.6973 T.
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
B_1P4GEV_T = 0.8671
"""Field at 1.4 GeV, T: p = 2141.8 MeV/c over e rho."""
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


def field_t(ctime_ms: FloatArray, extraction_t: float = B_EXTRACTION_T) -> FloatArray:
    """Field [n], T: Bdot rises soon to 0.8 T/s, on to its plateau, and falls to 0 at extraction."""
    length = EXTRACTION_MS - INJECTION_MS
    first = 1e-3 * FIRST_T_PER_S  # T/ms
    gained = extraction_t - B_INJECTION_T - first * 0.5 * (RISE_MS - FIRST_MS)
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
    """Return the functions of `psb-2gev`: file name to CSV text."""
    fine, coarse = _grids()
    return _files(
        "psb-2gev",
        b_field_t=(fine, np.round(field_t(fine), 8)),
        v1_v=(coarse, np.round(v1_v(coarse), 1)),
        v2_v=(coarse, np.round(v2_v(coarse), 1)),
        phi_hw_deg=(coarse, np.round(phi_hw_deg(coarse), 3)),
    )


def psb_1p4gev_functions() -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return a normal 1.4 GeV user: name to ctimes [n], ms, and values [n].

    V1 10 kV in the ramp, V2 0.8 of it early, 0.6 in the ramp and 0.4 at extraction.
    """
    fine, coarse = _grids()
    v1 = between(coarse, 275.0, 330.0, 8000.0, 10000.0) + between(
        coarse, 700.0, 800.0, 0.0, -2000.0
    )
    ratio = between(coarse, 360.0, 620.0, 0.8, 0.6) + between(coarse, 700.0, 800.0, 0.0, -0.2)
    phase = between(coarse, 280.0, 420.0, -80.0, -68.0) + between(coarse, 620.0, 780.0, 0.0, -7.0)
    return {
        "b_field_t": (fine, np.round(field_t(fine, B_1P4GEV_T), 8)),
        "v1_v": (coarse, np.round(v1, 1)),
        "v2_v": (coarse, np.round(ratio * v1, 1)),
        "phi_hw_deg": (coarse, np.round(phase, 3)),
    }


def psb_tof_functions() -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return a high-intensity time-of-flight user at 2 GeV: name to ctimes [n], ms, and values [n].

    V1 stays at 11 kV, for a short bunch at extraction; V2 is 0.8 of it early, where space charge is
    strong, 0.5 in the ramp, and is taken back to 0.14 from 560 to 700 ms.
    """
    fine, coarse = _grids()
    v1 = between(coarse, 275.0, 330.0, 8000.0, 11000.0)
    ratio = between(coarse, 340.0, 520.0, 0.8, 0.5) + between(coarse, 560.0, 700.0, 0.0, -0.36)
    phase = between(coarse, 280.0, 440.0, -88.0, -66.0) + between(coarse, 560.0, 740.0, 0.0, 6.0)
    return {
        "b_field_t": (fine, np.round(field_t(fine), 8)),
        "v1_v": (coarse, np.round(v1, 1)),
        "v2_v": (coarse, np.round(ratio * v1, 1)),
        "phi_hw_deg": (coarse, np.round(phase, 3)),
    }


def psb_1p4gev_modified_functions() -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return the normal 1.4 GeV user after some edits: name to ctimes [n], ms, and values [n].

    V1 scaled by 0.94; V2 scaled by 1.04 and shifted 15 ms later (its first value held); the phase
    resampled every 25 ms and shifted by 10 degrees, with a breakpoint inserted at 477.5 ms that dips by
    12 degrees. The field is untouched.
    """
    functions = psb_1p4gev_functions()
    coarse, v1 = functions["v1_v"]
    _, v2 = functions["v2_v"]
    late = 1.04 * np.interp(coarse - 15.0, coarse, v2)
    time = np.union1d(np.arange(START_MS, END_MS + 0.5, 25.0), [END_MS, 477.5])
    phase = 10.0 + np.interp(time, *functions["phi_hw_deg"])
    phase -= np.where(time == 477.5, 12.0, 0.0)
    return functions | {
        "v1_v": (coarse, np.round(0.94 * v1, 1)),
        "v2_v": (coarse, np.round(late, 1)),
        "phi_hw_deg": (time, np.round(phase, 3)),
    }


ISIS_INJECTION_T, ISIS_EXTRACTION_T = 0.1764, 0.6973
ISIS_FREQUENCY_PER_MS = 0.05
"""50 Hz, from minimum to maximum in 10 ms."""


def isis_field_t(ctime_ms: FloatArray) -> FloatArray:
    """Field [n], T: minimum at ctime 0, maximum at 10 ms, a sine of 50 Hz around their mean."""
    mean = 0.5 * (ISIS_EXTRACTION_T + ISIS_INJECTION_T)
    swing = 0.5 * (ISIS_EXTRACTION_T - ISIS_INJECTION_T)
    return np.asarray(mean - swing * np.cos(2.0 * np.pi * ISIS_FREQUENCY_PER_MS * ctime_ms))


def isis_functions() -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return a cycle of ISIS: name to ctimes [n], ms, and values [n].

    V1 rises from 40 kV to 155 kV in 2.5 ms, ahead of Bdot, and falls to 90 kV from 7 ms on; V2 is 0.6
    of it early and 0.5 later.
    """
    fine = np.round(np.arange(-0.2, 10.21, 0.02), 2)
    coarse = np.round(np.arange(-0.2, 10.21, 0.1), 1)
    v1 = between(coarse, 0.0, 2.5, 40e3, 155e3) + between(coarse, 7.0, 10.0, 0.0, -65e3)
    ratio = between(coarse, 1.0, 5.0, 0.6, 0.5)
    phase = between(coarse, 0.0, 3.0, 5.0, -25.0) + between(coarse, 7.5, 10.0, 0.0, 20.0)
    return {
        "b_field_t": (fine, np.round(isis_field_t(fine), 8)),
        "v1_v": (coarse, np.round(v1, 1)),
        "v2_v": (coarse, np.round(ratio * v1, 1)),
        "phi_hw_deg": (coarse, np.round(phase, 3)),
    }


def shipped_files() -> dict[str, str]:
    """Return the functions of all shipped programs: file name to CSV text.

    Programs with the field of another one name that one's file.
    """
    files = (
        psb_2gev_files()
        | _files("psb-1p4gev", **psb_1p4gev_functions())
        | _files("psb-tof", **psb_tof_functions())
        | _files("psb-1p4gev-modified", **psb_1p4gev_modified_functions())
        | _files("isis-800mev", **isis_functions())
    )
    first: dict[str, str] = {}
    for name, text in files.items():
        first.setdefault(text, name)
    return {name: text for text, name in first.items()}


def _grids() -> tuple[FloatArray, FloatArray]:
    """Breakpoints of the PSB's field and of its other functions, ms."""
    return np.arange(START_MS, END_MS + 0.5, 1.0), np.arange(START_MS, END_MS + 0.5, 5.0)


def _files(program: str, **functions: tuple[FloatArray, FloatArray]) -> dict[str, str]:
    return {
        f"{program}-{name}.csv": format_columns({TIME: time, name: value})
        for name, (time, value) in functions.items()
    }


def main() -> None:
    """Write the files into the folder named on the command line."""
    folder = Path(sys.argv[1])
    for name, text in shipped_files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
