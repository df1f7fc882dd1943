"""Which way the control system counts the phase of the second harmonic.

In this project phi_hw runs with phi_2: phi_hw = offset + phi_2. A control system may count the other way.
A function that people have set by hand tells: it follows the optimum along the cycle, so that either
phi_hw - phi_2 or phi_hw + phi_2 is nearly constant.
"""

from __future__ import annotations

import numpy as np

from memrl_ctrl.errors import BeamError
from memrl_ctrl.program.cycle import CycleProgram

PROTONS = 3e12
"""Intensity that the optimum is computed for; the answer hardly depends on it."""
FILLING = 0.7
"""Emittance as a fraction of the cycle's smallest bucket, likewise."""
POINTS = 40
LEAST_TRAVEL_DEG = 10.0
"""An optimum that moves less along the cycle tells nothing."""
LEAST_RATIO = 2.0
"""So much more constant must phi_hw + phi_2 be than phi_hw - phi_2."""
SETTLED_MS = 15.0
"""Time after injection that is left out, where functions still start, ms (at most a tenth of the cycle)."""


def counted_otherwise(program: CycleProgram) -> tuple[str, ...]:
    """Return a sentence for the user where phi_hw seems to run against phi_2; else nothing.

    It is evidence, no proof: a phase that nobody has set to the optimum tells nothing.
    """
    from memrl_ctrl.program.optimum import cycle_optimum

    try:
        found = cycle_optimum(program, intensity=PROTONS, filling=FILLING, points=POINTS)
    except BeamError:
        return ()
    low, high = program.beam_ms
    late = found.ctime_ms > low + min(SETTLED_MS, 0.1 * (high - low))
    there = found.found & late
    if np.count_nonzero(there) < POINTS // 2:
        return ()
    phi2_deg = np.degrees(found.phi2_rad[there])
    phi_hw_deg = np.degrees(program.at(found.ctime_ms[there]).phi_hw_rad)
    if np.ptp(phi2_deg) < LEAST_TRAVEL_DEG:
        return ()
    along, against = np.std(phi_hw_deg - phi2_deg), np.std(phi_hw_deg + phi2_deg)
    if against * LEAST_RATIO > along:
        return ()
    other = -program.phase_sign
    return (
        f"phi_hw seems to run against phi_2 (along the cycle phi_hw + phi_2 at the optimum varies by "
        f"{against:.1f} degrees, phi_hw - phi_2 by {along:.1f}): if the hardware counts so, import with "
        f"--phase-sign {other}",
    )
