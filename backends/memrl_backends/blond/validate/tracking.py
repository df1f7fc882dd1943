"""The kernel's bunch tracked by BLonD: under constant conditions, and along a stretch of the ramp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memrl_backends.blond.stretch import Stretch
from memrl_backends.blond.tracker import Tracker
from memrl_backends.blond.validate.comparison import (
    Comparison,
    Distance,
    Figure,
    FloatArray,
    distance,
    shot_noise,
)
from memrl_backends.blond.validate.conditions import as_numbers, in_words
from memrl_ctrl.beam import (
    Conditions,
    filling_to_emittance,
    matched_profiles,
    reference_optimum,
)
from memrl_ctrl.errors import BeamError
from memrl_ctrl.program import CycleProgram, PiecewiseLinear

SLICES = 256
PROFILE_PERCENT, MEAN_PERCENT, LENGTH_PERCENT, LOST_PERCENT = 1.0, 0.5, 1.0, 1.0
"""Tolerances: profile beyond its shot noise in % of the peak, mean position in % of a turn, bunch
length in %, particles lost in %."""
SNAPSHOTS = 12
"""Profiles taken while a bunch is tracked, the first apart."""
RAMP_FILLING = 0.6
"""Part of the smallest bare bucket of the stretch that is filled, at the optimum's phi_2."""
_NODE_MS = 1.0

Advance = Callable[[float], None]
"""Called with the part that is done, 0 to 1."""


def stationary(
    point: Conditions, advance: Advance, *, particles: int, turns: int, seed: int
) -> Comparison:
    """Track a matched bunch under constant conditions: its profile must stay the kernel's.

    Args:
        point: one condition that holds its bunch.
        advance: called with the part that is done, 0 to 1.
        particles: macroparticles.
        turns: turns to track.
        seed: of the macroparticles.
    """
    kernel = matched_profiles(point, SLICES)
    density = kernel.line_density[0].astype(np.float64)
    tracker = Tracker.matched(
        Stretch.constant(point),
        emittance_evs=float(point.emittance_evs[0]),
        intensity=float(point.intensity[0]),
        count=particles,
        rng=np.random.default_rng(seed),
    )
    edges = np.linspace(0, turns, SNAPSHOTS + 1).astype(int)
    profiles = np.empty((edges.size, SLICES))
    for k, edge in enumerate(edges):
        tracker.advance(int(edge) - tracker.turn)
        profiles[k] = tracker.profile(SLICES)
        advance(k / SNAPSHOTS)
    apart = distance(profiles, density)
    lost = 1.0 - tracker.surviving_fraction
    check = stationary_check(float(point.intensity[0]))
    return Comparison(
        check=check,
        what=in_words(point),
        condition=as_numbers(point),
        figures=_figures(apart, shot_noise(density, particles), lost),
        phase_rad=kernel.phase_rad,
        kernel=density,
        blond=profiles[-1],
        turns=edges.astype(np.float64),
        length_ratio=apart.length_ratio,
    )


def stationary_check(intensity: float) -> str:
    """Name of the check of stationarity at an intensity."""
    return f"stationary-{intensity:g}".replace("+", "")


def along_ramp(
    program: CycleProgram,
    start_ms: float,
    length_ms: float,
    advance: Advance,
    *,
    intensity: float,
    particles: int,
    seed: int,
) -> Comparison:
    """Track a matched bunch along the ramp; at the end it must be what the kernel matches there.

    phi_2 follows the reference optimum (`symmetry`) of the bunch, every millisecond. The emittance
    fills 0.6 of the smallest bare bucket on the way and is conserved, so that nothing but the
    adiabatic change of profile is compared.

    Raises:
        BeamError: the stretch has no reference optimum.
    """
    end_ms = start_ms + length_ms
    phi2, emittance = optimum_function(program, start_ms, end_ms, intensity)
    stretch = Stretch.of_program(program, start_ms, end_ms, phi2)
    tracker = Tracker.matched(
        stretch,
        emittance_evs=emittance,
        intensity=intensity,
        count=particles,
        rng=np.random.default_rng(seed),
    )
    turns = stretch.length or 0
    edges = np.linspace(0, turns, SNAPSHOTS + 1).astype(int)
    profiles, kernels = np.empty((edges.size, SLICES)), np.empty((edges.size, SLICES))
    for k, edge in enumerate(edges):
        tracker.advance(int(edge) - tracker.turn)
        profiles[k] = tracker.profile(SLICES)
        point = stretch.conditions(tracker.turn, emittance_evs=emittance, intensity=intensity)
        kernel = matched_profiles(point, SLICES)
        kernels[k] = kernel.line_density[0]
        advance(k / SNAPSHOTS)
    ratios = [
        float(distance(p[None, :], q).length_ratio[0])
        for p, q in zip(profiles, kernels, strict=True)
    ]
    apart = distance(profiles[-1:], kernels[-1])
    lost = 1.0 - tracker.surviving_fraction
    return Comparison(
        check="ramp",
        what=f"{program.name}, ctime {start_ms:.0f} to {end_ms:.0f} ms, {turns} turns; at the end "
        + in_words(point),
        condition={"start_ms": start_ms, "end_ms": end_ms, "turns": turns, **as_numbers(point)},
        figures=_figures(apart, shot_noise(kernels[-1], particles), lost),
        phase_rad=kernel.phase_rad,
        kernel=kernels[-1],
        blond=profiles[-1],
        turns=edges.astype(np.float64),
        length_ratio=np.array(ratios),
    )


def optimum_function(
    program: CycleProgram, start_ms: float, end_ms: float, intensity: float
) -> tuple[PiecewiseLinear, float]:
    """The reference optimum over a stretch, and the emittance of the bunch it is the optimum of.

    Returns:
        phi_2 over ctime, rad, unwrapped; the emittance, eV s.

    Raises:
        BeamError: no bucket, or no optimum somewhere.
    """
    count = 1 + max(1, int(np.ceil((end_ms - start_ms) / _NODE_MS)))
    ctime = np.linspace(start_ms, end_ms, count)
    points = program.at(ctime).conditions(program.machine.ring, intensity=intensity)
    emittance = float(np.min(filling_to_emittance(points, RAMP_FILLING)))
    best = np.full(count, np.nan)
    if np.isfinite(emittance):
        for _ in range(2):  # the bucket is that at the optimum, which depends on the emittance
            points = points.replace(emittance_evs=emittance)
            best = reference_optimum(points)
            if np.isnan(best).any():
                break
            at_best = points.replace(phi2_rad=best)
            emittance = float(np.min(filling_to_emittance(at_best, RAMP_FILLING)))
    if np.isnan(best).any() or not np.isfinite(emittance):
        raise BeamError(
            f"program {program.name} has no bucket, or no reference optimum, somewhere between ctime "
            f"{start_ms:g} and {end_ms:g} ms at {intensity:g} protons"
        )
    return PiecewiseLinear(ctime_ms=ctime, value=np.unwrap(best), beyond="hold"), emittance


def _figures(apart: Distance, noise: float, lost: float) -> tuple[Figure, ...]:
    worst: FloatArray = apart.rms - noise
    return (
        Figure(
            name="profile beyond shot noise, rms, % of peak",
            value=max(0.0, 1e2 * float(np.max(worst))),
            tolerance=PROFILE_PERCENT,
        ),
        Figure(
            name="mean position, % of a turn",
            value=1e2 * float(np.max(apart.mean_turns)),
            tolerance=MEAN_PERCENT,
        ),
        Figure(
            name="bunch length, %",
            value=1e2 * float(np.max(np.abs(apart.length_ratio - 1.0))),
            tolerance=LENGTH_PERCENT,
        ),
        Figure(name="particles lost, %", value=1e2 * lost, tolerance=LOST_PERCENT),
    )
