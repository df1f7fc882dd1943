"""The low-level RF, voltages and shots of the simulation: against independent solutions and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import solve_ivp

from memrl_backends.blond import open_backend
from memrl_backends.blond.hardware import PERFECT, Hardware, lagged
from memrl_ctrl.beam import matched_profiles, reference_optimum
from memrl_ctrl.errors import UsageError
from memrl_ctrl.metrics import asymmetry

CTIME_MS = np.array([275.0, 280.0, 282.5, 300.0, 340.0, 341.0, 400.0])
FUNCTION = arrays(np.float64, CTIME_MS.size, elements=st.floats(-10, 10))


def cycle(**options):
    return open_backend(**{"n_slices": 64, "points": 6, "seed": 3, "offset_deg": 0.0, **options})


@pytest.mark.parametrize("time_constant_ms", [0.3, 3.0, 50.0])
def test_the_lag_is_the_solution_of_its_equation(time_constant_ms):
    """T dy/dt = x - y, integrated by scipy, has the values of the closed form at the points."""
    x = np.array([0.0, 1.0, 0.5, 0.5, -1.0, -1.2, 0.3])

    def slope(t, y):
        return (np.interp(t, CTIME_MS, x) - y) / time_constant_ms

    solved = solve_ivp(
        slope, (275.0, 400.0), [0.0], t_eval=CTIME_MS, max_step=0.05, rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(lagged(x, CTIME_MS, time_constant_ms), solved.y[0], atol=3e-5)


@given(x=FUNCTION, time_constant_ms=st.floats(1e-3, 1e3))
def test_a_lag_never_overshoots_and_leaves_a_constant_alone(x, time_constant_ms):
    """What follows stays between the lowest and the highest of what it follows."""
    y = lagged(x, CTIME_MS, time_constant_ms)
    assert y[0] == x[0]
    assert (y >= x.min() - 1e-6).all()
    assert (y <= x.max() + 1e-6).all()
    np.testing.assert_allclose(lagged(np.full(7, x[0]), CTIME_MS, time_constant_ms), x[0])


@given(x=FUNCTION, slope=st.floats(0.01, 100.0))
def test_the_generator_keeps_its_slope(x, slope):
    """No step along the cycle is faster than the generator; what is slow enough passes unchanged."""
    hardware = Hardware(generator_slope_deg_per_ms=slope)
    y = hardware.at_cavity(x, CTIME_MS)
    reach = math.radians(slope) * np.diff(CTIME_MS)
    assert (np.abs(np.diff(y)) <= reach * (1 + 1e-9) + 1e-12).all()
    gentle = np.clip(x, -1e-4, 1e-4) * slope
    if (np.abs(np.diff(gentle)) <= reach).all():
        assert np.array_equal(hardware.at_cavity(gentle, CTIME_MS), gentle)


def test_a_change_settles_from_cycle_to_cycle():
    """After n cycles exp(-n / settling_cycles) of a change is still to come, and the readback shows it."""
    backend = cycle(settling_cycles=2.0)
    first = backend.start()
    assert np.array_equal(first.readback_rad, first.applied_rad)
    wanted = first.applied_rad + 0.5
    reading = backend.play(wanted)
    for n in range(1, 6):
        left = (reading.applied_rad - reading.readback_rad) / 0.5
        np.testing.assert_allclose(left, math.exp(-n / 2.0))
        reading = backend.observe()
    assert np.array_equal(reading.applied_rad, wanted)
    truth = reading.truth
    np.testing.assert_allclose(truth.phi2_rad, reading.readback_rad, atol=1e-12)
    np.testing.assert_allclose(truth.phi2_rad, reading.applied_rad - truth.offset_rad, atol=1e-12)


def left_of_a_change(backend, moved=0.5):
    """Play a change and return the share of it that the cavity has still to come to [points]."""
    reading = backend.play(backend.start().applied_rad + moved)
    return (reading.applied_rad - reading.readback_rad) / moved


def test_each_episode_has_a_lag_of_its_own():
    """Of a range unrelated rows draw each their own, a cycle's points one together, each episode anew."""
    rows = open_backend(
        machine="psb", rows=300, n_slices=32, seed=3, distinct=5, settling_cycles=(0.2, 0.8)
    )
    left = left_of_a_change(rows)
    cycles = -1.0 / np.log(left)
    assert 0.2 <= cycles.min() < 0.25
    assert 0.75 < cycles.max() <= 0.8
    assert np.median(cycles) == pytest.approx(0.5, abs=0.06)
    points = cycle(settling_cycles=(0.2, 0.8))
    first, second = left_of_a_change(points), left_of_a_change(points)
    np.testing.assert_allclose(first, first[0])
    assert abs(second[0] - first[0]) > 1e-3


def test_steps_of_phase():
    """The cavity has multiples of the resolution, at most half a step from what was asked for."""
    backend = cycle(phase_resolution_deg=1.0)
    start = backend.start().applied_rad
    reading = backend.play(start + 0.1234)
    steps = np.degrees(reading.readback_rad)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert np.degrees(np.abs(reading.readback_rad - reading.applied_rad)).max() <= 0.5 + 1e-9


def test_readback_noise_is_in_the_readback_only():
    """Its standard deviation is what was said; beam and setpoint have none of it."""
    backend = cycle(readback_noise_deg=0.2)
    backend.start()
    readings = [backend.observe() for _ in range(60)]
    noise = np.degrees([r.readback_rad - r.applied_rad for r in readings])
    assert noise.std() == pytest.approx(0.2, rel=0.15)
    assert all((r.truth.phi2_rad == r.applied_rad).all() for r in readings)


def test_a_perfect_machine_is_what_it_was():
    """Without imperfections nothing is drawn for them: the readings of a seed are the same to the bit."""
    plain, said = cycle(noise=0.02), cycle(noise=0.02, settling_ms=0.0, v1_error=0.0)
    assert PERFECT.perfect
    for a, b in ((plain.start(), said.start()), (plain.observe(), said.observe())):
        assert np.array_equal(a.profile, b.profile)
        assert np.array_equal(a.readback_rad, a.applied_rad)


def test_nobody_knows_of_a_wrong_voltage():
    """The beam has the wrong voltage and its reference, the control system the programmed one."""
    right, wrong = cycle(filling=0.6), cycle(filling=0.6, v1_error=0.1, v2_error=-0.2)
    a, b = right.start(), wrong.start()
    before, after = right.conditions(), wrong.conditions()
    np.testing.assert_allclose(after.v1_v, 1.1 * before.v1_v)
    np.testing.assert_allclose(after.v2_v, 0.8 * before.v2_v)
    np.testing.assert_allclose(b.synchronous_phase_rad, a.synchronous_phase_rad)
    np.testing.assert_allclose(b.truth.reference_rad, reference_optimum(after))
    drawn = cycle(v1_error=(-0.02, 0.02))
    errors = [drawn.start().truth and drawn.conditions().v1_v / before.v1_v - 1 for _ in range(8)]
    assert all(np.ptp(e) < 1e-12 and abs(e[0]) <= 0.02 for e in errors)
    assert np.std([e[0] for e in errors]) > 0.004


def test_unrelated_rows_have_errors_of_their_own():
    """Each row of a batch is a machine of its own; a partial start leaves the others' alone."""
    backend = open_backend(
        rows=6, n_slices=64, seed=1, v1_error=(-0.1, 0.1), emittance_scatter=0.02
    )
    before = backend.start()
    known = before.synchronous_phase_rad.copy()
    mask = np.array([True, False, False, True, False, False])
    v1 = backend.conditions().v1_v
    after = backend.start(mask=mask)
    assert np.array_equal(after.synchronous_phase_rad[~mask], known[~mask])
    assert np.array_equal(backend.conditions().v1_v[~mask], v1[~mask])
    assert not np.isclose(after.synchronous_phase_rad[mask], known[mask]).any()
    backend.observe()


@pytest.mark.parametrize(
    "options", [{"program": "psb-2gev", "points": 10}, {"machine": "psb", "rows": 40}]
)
def test_shots_scatter_and_their_reference_is_right(options):
    """Bunches vary by what was said; the interpolated reference is the computed one within 0.1 degree."""
    backend = open_backend(
        n_slices=64, seed=5, intensity_scatter=0.03, emittance_scatter=0.02, **options
    )
    truth = backend.start().truth
    intensity, emittance, error = [], [], []
    for _ in range(12):
        shot = backend.observe().truth
        intensity.append(shot.intensity / truth.intensity - 1.0)
        emittance.append(shot.emittance_evs / truth.emittance_evs - 1.0)
        found = reference_optimum(backend.conditions())
        apart = np.abs(np.angle(np.exp(1j * (found - shot.reference_rad))))
        assert np.array_equal(np.isnan(found), np.isnan(shot.reference_rad))
        error.append(np.degrees(apart[np.isfinite(apart)]))
    assert np.concatenate(error).max() < 0.1
    assert np.abs(intensity).max() <= 0.09 + 1e-9
    if "rows" in options:
        assert np.std(intensity) == pytest.approx(0.03, rel=0.15)
        assert np.std(emittance) == pytest.approx(0.02, rel=0.15)
    else:
        assert np.ptp(intensity, axis=1).max() < 1e-12  # one bunch a cycle
        assert np.std([i[0] for i in intensity]) == pytest.approx(0.03, rel=0.7)


def test_scatter_does_not_walk():
    """Every shot scatters about the bunch that was drawn, not about the last one."""
    backend = cycle(intensity_scatter=0.1)
    drawn = backend.start().truth.intensity[0]
    shots = [backend.observe().truth.intensity[0] / drawn for _ in range(150)]
    assert np.mean(shots) == pytest.approx(1.0, abs=0.03)
    assert 0.7 - 1e-9 <= min(shots) <= max(shots) <= 1.3 + 1e-9


def test_a_trip_is_a_beam_without_the_second_harmonic():
    """Profiles are those of the kernel at V2 = 0, nothing is to be scored, and all comes back."""
    backend = cycle(noise=0.0, monitor="ideal")
    before = backend.start()
    backend.disturb(offset_rad=np.zeros(6), v2_factor=np.zeros(6))
    tripped = backend.observe()
    conditions = backend.conditions()
    assert (conditions.v2_v == 0.0).all()
    alone = matched_profiles(conditions, 64).line_density
    np.testing.assert_allclose(tripped.profile, alone, rtol=1e-5, atol=1e-6)
    assert np.isnan(tripped.truth.reference_rad).all()
    assert np.array_equal(tripped.truth.goal_rad, before.truth.goal_rad)
    turned = backend.play(before.applied_rad + 0.5)
    np.testing.assert_allclose(turned.profile, tripped.profile, atol=1e-6)
    backend.disturb(offset_rad=np.zeros(6), v2_factor=np.full(6, 0.5))
    half = backend.observe()
    assert np.array_equal(
        half.truth.reference_rad, reference_optimum(backend.conditions()), equal_nan=True
    )
    backend.disturb(offset_rad=np.zeros(6), v2_factor=np.ones(6))
    assert np.array_equal(backend.play(before.applied_rad).profile, before.profile)


def test_a_disturbed_offset_moves_the_beam():
    """An offset of 20 degrees more is phi_2 of 20 degrees less, and the profile leans."""
    backend = cycle(noise=0.0, monitor="ideal", filling=0.6)
    first = backend.start()
    best = backend.play(first.truth.reference_rad)
    backend.disturb(offset_rad=np.full(6, math.radians(20.0)), v2_factor=np.ones(6))
    moved = backend.observe()
    np.testing.assert_allclose(np.degrees(moved.truth.phase_error_rad), -20.0, atol=0.2)
    assert np.abs(asymmetry(best.profile)).max() < 0.02
    assert (asymmetry(moved.profile)[:-1] > 0.1).all()  # at extraction V2 is small


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settling_ms": -1.0}, "settling_ms must be 0 to 1000 ms, not -1.0"),
        ({"settling_cycles": math.nan}, "settling_cycles must be 0 to 1000 cycles, not nan"),
        ({"settling_cycles": (0.3, 1e4)}, "settling_cycles must be 0 to 1000 cycles"),
        (
            {"phase_resolution_deg": 100.0},
            "phase_resolution_deg must be 0 to 90 degrees, not 100.0",
        ),
        ({"generator_slope_deg_per_ms": 0.0}, "generator_slope_deg_per_ms must be at least 0.001"),
        ({"readback_noise_deg": math.inf}, "readback_noise_deg must be 0 to 90 degrees, not inf"),
        (
            {"v2_error": (-0.9, 0.1)},
            "v2_error must be -0.5 to 0.5 of the programmed voltage, not -0.9",
        ),
        (
            {"emittance_scatter": 0.5},
            "emittance_scatter must be 0 to 0.3 of the drawn value, not 0.5",
        ),
        ({"intensity_scatter": (0.1, 0.2)}, "intensity_scatter is one number, not a range"),
        (
            {"along_cycle": True, "settling_ms": 1.0},
            "along_cycle does not simulate the low-level RF",
        ),
        (
            {"along_cycle": True, "v1_error": 0.1},
            "along_cycle does not simulate errors of the voltages",
        ),
    ],
)
def test_what_no_hardware_can_be_is_one_sentence(options, said):
    """Which option, what is allowed, what was given; before any work."""
    with pytest.raises(UsageError, match=said):
        open_backend(**options)
