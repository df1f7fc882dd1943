"""The guard's look-ahead against the simulation: what is fitted, and where the beam really is lost."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from memrl_backends.blond import open_backend
from memrl_ctrl.backend import Reading
from memrl_ctrl.beam import matched_profiles
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.metrics import measure
from memrl_ctrl.program import load_program
from memrl_ctrl.trace import Verdict
from memrl_deploy.foreseeing import Task, foresee
from memrl_deploy.guard import Guard, GuardConfig, Outlook
from memrl_deploy.guard.decision import Stage
from memrl_deploy.guard.outlook import CELL_RAD, PHASES

PROGRAM = "psb-2gev"
POINTS = 8
OFFSET_RAD = np.radians(40.0)
FULL_EVS, SMALL_EVS = 2.1, 0.6
INTENSITY = 8e12
STEP_RAD = np.pi / 2.0
WIDE = PhaseLimits(step_rad=STEP_RAD, slope_rad_per_ms=10.0)
"""Limits that leave each point to itself."""

CTIME = np.linspace(285.0, 805.0, POINTS)


def readings(emittance_evs: float, phi_hw_rad: np.ndarray) -> Reading:
    """Return the reading of a bunch at given phases, with the noise of a monitor."""
    machine = open_backend(
        program=PROGRAM,
        points=POINTS,
        emittance_evs=emittance_evs,
        intensity=INTENSITY,
        offset_deg=float(np.degrees(OFFSET_RAD)),
        seed=1,
    )
    reading = machine.start()
    ctime_ms = machine.description.ctime_ms
    assert ctime_ms is not None
    np.testing.assert_allclose(ctime_ms, CTIME)
    for _ in range(12):
        machine_limits = machine.description.limits
        step = machine_limits.restrict(phi_hw_rad, reading.applied_rad, CTIME).phi_hw_rad
        reading = machine.play(step)
    machine.close()
    np.testing.assert_allclose(reading.applied_rad, phi_hw_rad, atol=1e-9)
    return reading


@cache
def foreseen(emittance_evs: float) -> tuple[Reading, Outlook]:
    """Return a reading, and what a fit to it says."""
    reading = readings(emittance_evs, OFFSET_RAD + np.full(POINTS, -0.4))
    task = Task.of(reading, reading.usable)
    assert task is not None
    event = foresee(task, load_program(PROGRAM), CTIME)
    outlook = Outlook.of(event, POINTS)
    assert outlook is not None, event
    return reading, outlook


def held(emittance_evs: float, phi_hw_rad: np.ndarray) -> np.ndarray:
    """Return the share that the bucket really holds at given phases [points]."""
    program = load_program(PROGRAM)
    conditions = program.at(CTIME).conditions(
        program.machine.ring,
        phi2_rad=phi_hw_rad - OFFSET_RAD,
        emittance_evs=emittance_evs,
        intensity=INTENSITY,
    )
    matched = matched_profiles(conditions, 64, intensity_effects=program.machine.intensity_effects)
    return np.asarray(matched.captured_fraction)


@pytest.mark.parametrize("emittance_evs", [FULL_EVS, SMALL_EVS])
def test_a_fit_tells_where_the_beam_would_be_lost(emittance_evs: float) -> None:
    """From one noisy reading, the share that is held at every phase is right to 3 %, and asymmetries are."""
    reading, outlook = foreseen(emittance_evs)
    for phase in range(0, PHASES, 4):
        there = held(emittance_evs, np.full(POINTS, phase * CELL_RAD))
        np.testing.assert_allclose(outlook.held[:, phase] / 250.0, there, atol=0.03)
    assert outlook.explains(measure(reading.profile).asymmetry, reading.applied_rad, 0.1)


def at(reading: Reading, phi_hw_rad: np.ndarray, cycle: int) -> Reading:
    """Return the same profiles, but not to the bit, at other phases of the hardware."""
    return replace(
        reading,
        cycle=cycle,
        profile=reading.profile * np.float32(1.0 + 1e-5 * cycle),
        setpoint_rad=phi_hw_rad,
        applied_rad=phi_hw_rad,
        readback_rad=phi_hw_rad,
    )


def walk(guard: Guard, start: Reading, outlook: Outlook, step_rad: float) -> list[np.ndarray]:
    """Ask for the same step every cycle; return what was let through. The fit is made anew each cycle."""
    place, places = start.applied_rad, []
    for cycle in range(40):
        guard.note_outlook(
            Outlook(cycle=cycle, held=outlook.held, asymmetry=_as_measured(start, outlook))
        )
        reading = at(start, place, cycle)
        decision = guard.decide(np.full(POINTS, step_rad), reading, reading.usable)
        if not decision.write:
            break
        place = decision.phi_hw_rad
        places.append(place)
    return places


def _as_measured(start: Reading, outlook: Outlook) -> np.ndarray:
    """Asymmetries that are those of the reading at every phase: whether a fit is still true is not asked."""
    nearest = np.rint(start.applied_rad / CELL_RAD).astype(int) % PHASES
    told = outlook.asymmetry[np.arange(POINTS), nearest]
    return np.tile(told[:, None], (1, PHASES))


@pytest.mark.parametrize("step_deg", [15.0, -15.0])
def test_a_walk_ends_before_the_beam_is_lost(step_deg: float) -> None:
    """A policy that goes on and on is stopped where a fifth is lost, not sooner, and in the end not followed.

    The largest bunch that fits: at some phases the bucket early in the cycle holds little more than half.
    """
    config = GuardConfig(lookahead_asymmetry=1.0)
    start, outlook = foreseen(FULL_EVS)
    places = walk(Guard(WIDE, CTIME, STEP_RAD, config), start, outlook, np.radians(step_deg))
    assert 5 < len(places) < 39
    for place in places:
        assert held(FULL_EVS, place).min() >= 0.8 - 0.03
    beyond = held(FULL_EVS, places[-1] + np.radians(step_deg))
    assert beyond.min() < 0.8


def test_a_bunch_that_fits_everywhere_is_led_anywhere() -> None:
    """Where no phase loses beam nothing is cut, all round the circle."""
    start, outlook = foreseen(SMALL_EVS)
    guard = Guard(WIDE, CTIME, STEP_RAD, GuardConfig(drift_rad=100.0))
    places = walk(guard, start, outlook, np.radians(15.0))
    assert len(places) == 40
    np.testing.assert_allclose(places[-1] - start.applied_rad, np.radians(15.0) * 40)


def test_one_step_beyond_is_cut_and_one_within_passes() -> None:
    """From the optimum's side: a step of 60 degrees towards the loss is cut, one away from it is not."""
    start, outlook = foreseen(FULL_EVS)
    loss = outlook.held[0] < 0.8 * 250
    edge = float(np.flatnonzero(loss & ~np.roll(loss, 1))[0] * CELL_RAD)
    applied = start.applied_rad + 2.0 * np.pi * np.round((edge - start.applied_rad) / (2.0 * np.pi))
    near = np.where(np.arange(POINTS) == 0, edge - np.radians(20.0), applied)
    guard = Guard(
        PhaseLimits(slope_rad_per_ms=10.0, min_rad=-100.0, max_rad=100.0), CTIME, STEP_RAD,
        GuardConfig(lookahead_asymmetry=1.0),
    )  # fmt: skip
    for cycle, (step_deg, cut) in enumerate(((60.0, True), (-60.0, False))):
        at_edge = at(start, near, cycle)
        guard.note_outlook(
            Outlook(cycle=cycle, held=outlook.held, asymmetry=_as_measured(start, outlook))
        )
        delta = np.where(np.arange(POINTS) == 0, np.radians(step_deg), 0.0)
        decision = guard.decide(delta, at_edge, at_edge.usable)
        assert bool(decision.verdicts[0, Stage.LOOK_AHEAD] == Verdict.ALTERED) is cut
        assert held(FULL_EVS, decision.phi_hw_rad)[0] >= 0.8 - 0.03
        if not cut:
            np.testing.assert_allclose(decision.phi_hw_rad - near, delta, atol=1e-12)
