"""Benchmarks of the fidelity `tracking`: `memrl-ctrl bench tracking` and `bench tracking-cycle`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numba
import numpy as np

from memrl_backends.blond._import import blond, contained
from memrl_backends.blond.backend import Matched
from memrl_backends.blond.stretch import FloatArray, Stretch
from memrl_backends.blond.tracker import WAKE_SLICES, PhaseLoop, Tracker
from memrl_backends.blond.tracking import CycleTracking, TrackingOptions
from memrl_ctrl.beam import Conditions, filling_to_emittance, matched_profiles, reference_optimum
from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.metrics import measure
from memrl_ctrl.program import CycleProgram, PiecewiseLinear, load_program
from memrl_ctrl.terminal import Terminal

PROGRAM = "psb-2gev"
INTENSITY = 6.0e12
FILLING = 0.6
MACROPARTICLES = 100_000
STRIDES = (1_000, 3_000)
SLICES = 256
TIMED_TURNS = 1_024
REPETITIONS = 3
CYCLE_COLUMNS = (
    "what",
    "s",
    "cpu s",
    "profile rms %",
    "mean % of a turn",
    "length %",
    "asymmetry",
)


def run(json_path: Path | None = None) -> dict[str, Any]:
    """Turns a second of tracking with BLonD, and the time of a cycle in strides.

    Args:
        json_path: file for the JSON, or None.

    Returns:
        What was written (see `memrl_ctrl.bench.report.publish`).
    """
    program = load_program(PROGRAM)
    ctime, conditions = _cycle(program)
    stretch = Stretch.of_program(
        program,
        float(ctime[0]),
        float(ctime[-1]),
        PiecewiseLinear(ctime_ms=ctime, value=conditions.phi2_rad),
    )
    emittance = float(conditions.emittance_evs[0])
    turns = stretch.length or 0
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {"turns_of_the_cycle": float(turns)}
    for count in (MACROPARTICLES, MACROPARTICLES // 10):
        ours_s = _turn_s(stretch, emittance, count)
        plain_s = _plain_turn_s(stretch, emittance, count)
        figures[f"us_a_turn_{count}"] = 1e6 * ours_s
        figures[f"plain_blond_us_a_turn_{count}"] = 1e6 * plain_s
        rows.append(_turn_row(f"{count:,} macroparticles", ours_s, turns, plain_s / ours_s))
        rows.append(_turn_row(f"{count:,}, BLonD's loop alone", plain_s, turns, 1.0))
    for stride in STRIDES:
        begin, cpu = time.perf_counter(), time.process_time()
        _track(program, ctime, conditions, stride)
        seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        figures[f"cycle_stride_{stride}_s"] = seconds
        rows.append(
            {"what": f"cycle in strides of {stride:,} turns", "cycle s": seconds, "cpu s": cpu_s}
        )
    return publish(
        name="tracking",
        columns=("what", "us a turn", "cycle s", "cpu s", "times quicker than BLonD's loop"),
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[
            f"One thread, {INTENSITY:g} protons, {WAKE_SLICES} slices, induced voltage and phase "
            f"loop; a turn is the CPU time of {TIMED_TURNS} turns, median of {REPETITIONS}, and its "
            f"cycle s what {PROGRAM}'s {turns:,} turns would take at that. Strides: "
            f"{MACROPARTICLES:,} macroparticles, {ctime.size} points."
        ],
    )


def run_cycle(json_path: Path | None = None) -> dict[str, Any]:
    """A whole cycle tracked turn by turn, next to strides and the kernel: minutes of work.

    Args:
        json_path: file for the JSON, or None.

    Returns:
        What was written (see `memrl_ctrl.bench.report.publish`).
    """
    program = load_program(PROGRAM)
    ctime, conditions = _cycle(program)
    rows: list[dict[str, Any]] = []
    profiles: list[Any] = []
    lost = 0.0
    for stride in (None, *STRIDES):
        begin, cpu = time.perf_counter(), time.process_time()
        with work_bar(Terminal(stderr=True), f"tracking, {_name(stride)}"):
            tracked = _track(program, ctime, conditions, stride)
        seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        rows.append({"what": _name(stride), "s": seconds, "cpu s": cpu_s})
        profiles.append(tracked.profile)
        lost = 1.0 - float(tracked.captured[-1]) if stride is None else lost
    rows.append({"what": "kernel", "s": "", "cpu s": ""})
    profiles.append(matched_profiles(conditions, SLICES).line_density)
    figures = {
        "whole_cycle_s": float(rows[0]["s"]),
        "whole_cycle_cpu_s": float(rows[0]["cpu s"]),
        "lost_fraction": lost,
    }
    for row, profile in zip(rows[1:], profiles[1:], strict=True):
        row.update(_difference(profile, profiles[0]))
    return publish(
        name="tracking-cycle",
        columns=CYCLE_COLUMNS,
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[
            f"{PROGRAM}, {INTENSITY:g} protons, {conditions.emittance_evs[0]:.2f} eV s, "
            f"{MACROPARTICLES:,} macroparticles, {ctime.size} points. Differences from the whole "
            "tracking: median over the points, largest in brackets."
        ],
    )


def _name(stride: int | None) -> str:
    return "every turn" if stride is None else f"strides of {stride:,} turns"


def _cycle(program: CycleProgram) -> tuple[FloatArray, Conditions]:
    """Injection and the control points, and one bunch there at its reference optimum."""
    ctime = np.concatenate([[program.beam_ms[0]], program.control_points_ms])
    bare = program.at(ctime).conditions(program.machine.ring, intensity=INTENSITY)
    bunch = bare.replace(emittance_evs=float(filling_to_emittance(bare, FILLING).min()))
    symmetric, flattest = reference_optimum(bunch), reference_optimum(bunch, "bunching-factor")
    phi2 = np.unwrap(np.where(np.isnan(symmetric), flattest, symmetric))
    return ctime, bunch.replace(phi2_rad=phi2)


def _track(
    program: CycleProgram, ctime_ms: FloatArray, conditions: Conditions, stride: int | None
) -> Matched:
    options = TrackingOptions(macroparticles=MACROPARTICLES, stride=stride)
    fidelity = CycleTracking(program, program.machine, ctime_ms, options)
    return fidelity(conditions, SLICES, 1, np.random.default_rng(1))


def _turn_s(stretch: Stretch, emittance_evs: float, count: int) -> float:
    tracker = Tracker.matched(
        stretch,
        emittance_evs=emittance_evs,
        intensity=INTENSITY,
        count=count,
        rng=np.random.default_rng(1),
        phase_loop=PhaseLoop(),
    )
    tracker.advance(64)
    seconds = []
    for _ in range(REPETITIONS):
        begin = time.process_time()
        tracker.advance(TIMED_TURNS)
        seconds.append((time.process_time() - begin) / TIMED_TURNS)
    return float(np.median(seconds))


def _plain_turn_s(stretch: Stretch, emittance_evs: float, count: int) -> float:
    """The same turns with BLonD's objects made for all of them, in a plain loop."""
    b = blond()
    now = stretch.turns(0, TIMED_TURNS + 1)
    ours = Tracker.matched(
        stretch,
        emittance_evs=emittance_evs,
        intensity=INTENSITY,
        count=count,
        rng=np.random.default_rng(1),
    )
    dt, de = ours.particles()
    ring = stretch.machine
    seconds = []
    with contained():
        for _ in range(REPETITIONS):
            blond_ring = b.Ring(
                ring.circumference_m,
                now.gamma_transition[None, :] ** -2.0,
                now.momentum_ev,
                b.Particle(ring.mass_ev, 1.0),
                TIMED_TURNS,
            )
            rf = b.RFStation(
                blond_ring,
                list(ring.harmonics),
                [now.v1_v, now.v2_v],
                [np.full(TIMED_TURNS + 1, np.pi), np.pi + now.phi2_rad],
                n_rf=2,
            )
            beam = b.Beam(blond_ring, count, INTENSITY)
            beam.dt[:], beam.dE[:] = dt, de
            frame = b.Profile(
                beam,
                b.CutOptions(cut_left=0.0, cut_right=blond_ring.t_rev[0], n_slices=WAKE_SLICES),
            )
            revolution_hz = float(blond_ring.f_rev[0])
            order = np.arange(WAKE_SLICES)
            impedance = np.zeros(WAKE_SLICES, dtype=np.complex128)
            impedance[1:] = ring.impedance_ohm(order[1:] * revolution_hz, revolution_hz)
            table = b.InputTable(order * revolution_hz, impedance.real, impedance.imag)
            wake = b.InducedVoltageFreq(beam, frame, [table], use_regular_fft=False)
            total = b.TotalInducedVoltage(beam, frame, [wake])
            loop = b.BeamFeedback(
                blond_ring, rf, frame, {"machine": "PSB", "PL_gain": PhaseLoop().gain_per_s}
            )
            tracker = b.RingAndRFTracker(
                rf,
                beam,
                beam_feedback=loop,
                interpolation=True,
                profile=frame,
                total_induced_voltage=total,
            )
            numba.set_num_threads(1)
            begin = time.process_time()
            for _turn in range(TIMED_TURNS):
                frame.track()
                total.induced_voltage_sum()
                tracker.track()
            seconds.append((time.process_time() - begin) / TIMED_TURNS)
    return float(np.median(seconds))


def _turn_row(what: str, seconds: float, turns: int, ratio: float) -> dict[str, Any]:
    return {
        "what": what,
        "us a turn": 1e6 * seconds,
        "cycle s": turns * seconds,
        "times quicker than BLonD's loop": ratio,
    }


def _difference(profile: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> dict[str, str]:
    """How far profiles [points, slices] are from others: median and largest over the points."""
    a, b = measure(profile), measure(other)
    rms = np.sqrt(np.mean((profile - other) ** 2, axis=1)) / other.max(axis=1)
    mean = np.abs((a.mean_turns - b.mean_turns + 0.5) % 1.0 - 0.5)
    length = np.abs(a.rms_length_turns / b.rms_length_turns - 1.0)

    def text(values: FloatArray, scale: float) -> str:
        return f"{scale * np.median(values):.3g} ({scale * values.max():.3g})"

    return {
        "profile rms %": text(rms, 100.0),
        "mean % of a turn": text(mean, 100.0),
        "length %": text(length, 100.0),
        "asymmetry": text(np.abs(a.asymmetry - b.asymmetry), 1.0),
    }
