"""The reference phase of a whole cycle: where phi_2 is best at each ctime, as a function to be played."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.beam import (
    Criterion,
    MatchedProfiles,
    filling_to_emittance,
    matched_profiles,
    reference_optimum,
)
from memrl_ctrl.errors import BeamError, UnknownNameError, UsageError
from memrl_ctrl.program.cycle import CycleProgram
from memrl_ctrl.program.functions import PiecewiseLinear

FloatArray = NDArray[np.float64]

DEFAULT_FILLING = 0.7
"""Emittance as a fraction of the cycle's smallest bucket, where neither it nor the emittance is given."""
FEWEST, MOST = 2, 100_000
"""Fewest and most points of a function."""
_PROFILE_SLICES = 256
_CTIME_DIGITS, _PHASE_DIGITS = 6, 6
"""Decimals of ctimes in ms and of phases in degrees: what is written is what people can read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CycleOptimum:
    """The optimum along a cycle, for one bunch. Arrays [n]."""

    program: CycleProgram
    """The cycle."""
    criterion: Criterion
    """What is best."""
    intensity: float
    """Protons in the ring."""
    emittance_evs: float
    """Longitudinal emittance, eV s, the same along the cycle."""
    offset_rad: float
    """What the hardware adds: phi_hw = phi_2 + offset."""
    ctime_ms: FloatArray
    """Where, ms."""
    phi2_rad: FloatArray
    """Optimum of phi_2, rad, unwrapped; NaN where none exists."""
    reasons: NDArray[np.str_]
    """Why there is none; empty where there is one."""
    at_optimum: MatchedProfiles
    """Matched profiles at the optimum; where there is none, at phi_2 = 0."""
    at_program: MatchedProfiles
    """Matched profiles at the program's own phase, phi_hw - offset."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """Where an optimum exists [n]."""
        return np.isfinite(self.phi2_rad)

    @property
    def phi_hw_rad(self) -> FloatArray:
        """The knob at the optimum [n], rad: of all whole turns those nearest to the program's phi_hw."""
        own = np.radians(self.program.phi_hw_deg.at(self.ctime_ms))
        phi_hw = self.phi2_rad + self.offset_rad
        turns = np.round(np.nanmedian(phi_hw - own) / (2.0 * np.pi))
        return np.asarray(phi_hw - 2.0 * np.pi * turns, dtype=np.float64)

    def gaps(self) -> list[tuple[float, float, int, str]]:
        """Return where no optimum exists: first and last ctime, ms, number of points, and why."""
        found, gaps = self.found, []
        edges = np.flatnonzero(np.diff(np.concatenate([[True], found, [True]]).astype(np.int8)))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            reasons, counts = np.unique(self.reasons[begin:end], return_counts=True)
            first, last = self.ctime_ms[[begin, end - 1]]
            reason = str(reasons[np.argmax(counts)])
            gaps.append((float(first), float(last), int(end - begin), reason))
        return gaps

    def function(self, *, bridge: bool = False) -> PiecewiseLinear:
        """Return phi_hw at the optimum as a function generator plays it, degrees.

        Args:
            bridge: add points where no optimum exists: on the straight line between those beside
                them, and the nearest value at the ends. Without, they are left out; a function
                generator then goes straight across, and holds at the ends.

        Raises:
            BeamError: the cycle has fewer than two points with an optimum.
        """
        found = self.found
        if np.count_nonzero(found) < FEWEST:
            reason = self.gaps()[0][3]
            raise BeamError(
                f"{self.program.name} has an optimum at {np.count_nonzero(found)} of {found.size} "
                f"points: no function ({reason})"
            )
        time, value = self.ctime_ms[found], np.degrees(self.phi_hw_rad[found])
        if bridge:
            time, value = self.ctime_ms, np.interp(self.ctime_ms, time, value)
        return PiecewiseLinear(ctime_ms=time, value=value.round(_PHASE_DIGITS), beyond="hold")

    def as_program(self, *, bridge: bool = False) -> CycleProgram:
        """Return the program with phi_hw at the optimum; see `function`."""
        return replace(self.program, phi_hw_deg=self.function(bridge=bridge))


def cycle_optimum(
    program: CycleProgram,
    *,
    intensity: float,
    emittance_evs: float | None = None,
    filling: float | None = None,
    criterion: Criterion = "symmetry",
    points: int = 200,
    offset_rad: float = 0.0,
    threads: int = 1,
) -> CycleOptimum:
    """Find the optimum of phi_2 along a cycle, for one bunch whose emittance is conserved.

    Args:
        program: the cycle.
        intensity: protons in the ring, at least 0.
        emittance_evs: longitudinal emittance, eV s.
        filling: emittance as a fraction of the cycle's smallest bucket (at phi_2 = 0, without
            intensity effects); 0.7 where neither is given.
        criterion: `symmetry`, `equal-wells` or `bunching-factor`.
        points: evenly spaced from injection to extraction.
        offset_rad: what the hardware adds to phi_2.
        threads: threads to share the points among.

    Raises:
        UsageError: arguments out of range, or both emittance and filling.
        BeamError: a point at or above transition.
    """
    if criterion not in get_args(Criterion):
        raise UnknownNameError("criterion", criterion, get_args(Criterion))
    if emittance_evs is not None and filling is not None:
        raise UsageError("give an emittance or a filling, not both")
    if not intensity >= 0.0 or not np.isfinite(intensity):
        raise UsageError(f"intensity must be at least 0 protons, not {intensity:g}")
    for name, value in (("emittance", emittance_evs), ("filling", filling)):
        if value is not None and not (value > 0.0 and np.isfinite(value)):
            raise UsageError(f"{name} must be above 0, not {value:g}")
    if not FEWEST <= points <= MOST:
        raise UsageError(f"points must be from {FEWEST} to {MOST}, not {points}")
    if not np.isfinite(offset_rad):
        raise UsageError(f"the offset must be a finite angle, not {offset_rad}")
    at = program.at(np.round(np.linspace(*program.beam_ms, points), _CTIME_DIGITS))
    bare = at.conditions(program.machine.ring)
    if emittance_evs is None:
        share = DEFAULT_FILLING if filling is None else filling
        emittance_evs = float(filling_to_emittance(bare, share).min())
    conditions = bare.replace(emittance_evs=emittance_evs, intensity=intensity)
    phi2, reasons = reference_optimum(conditions, criterion, threads=threads, with_reason=True)
    found = np.isfinite(phi2)
    unwrapped = np.full(phi2.shape, np.nan)
    unwrapped[found] = np.unwrap(phi2[found])

    def matched(phase_rad: FloatArray) -> MatchedProfiles:
        return matched_profiles(
            conditions.replace(phi2_rad=phase_rad), _PROFILE_SLICES, threads=threads
        )

    return CycleOptimum(
        program=program,
        criterion=criterion,
        intensity=intensity,
        emittance_evs=emittance_evs,
        offset_rad=offset_rad,
        ctime_ms=at.ctime_ms,
        phi2_rad=unwrapped,
        reasons=reasons,
        at_optimum=matched(np.nan_to_num(phi2)),
        at_program=matched(at.phi_hw_rad - offset_rad),
    )
