"""The fidelity `tracking` of the simulation: cycles, strides of them, and unrelated conditions."""

from dataclasses import replace

import numpy as np
import pytest

from memrl_backends.blond import open_backend
from memrl_backends.blond._import import blond
from memrl_backends.blond.tracking import CycleTracking, RowTracking, TrackingOptions
from memrl_ctrl.backend import Quality
from memrl_ctrl.beam import Conditions, bucket_area_evs, matched_profiles, reference_optimum
from memrl_ctrl.errors import MissingExtraError, UsageError
from memrl_ctrl.metrics import measure
from memrl_ctrl.program import load_program
from memrl_ctrl.progress import listening

SLICES = 128


@pytest.fixture(scope="module", autouse=True)
def _blond():
    try:
        blond()
    except MissingExtraError as error:
        pytest.skip(str(error))


def along(ctime_ms, *, emittance_evs, intensity, away_rad=0.0):
    """The shipped 2 GeV cycle, and one bunch at some ctimes, `away_rad` from its optimum."""
    program = load_program("psb-2gev")
    at = program.at(ctime_ms)
    points = Conditions(
        b_field_t=at.b_field_t,
        b_dot_t_per_s=at.b_dot_t_per_s,
        v1_v=at.v1_v,
        v2_v=at.v2_v,
        phi2_rad=0.0,
        emittance_evs=emittance_evs,
        intensity=intensity,
        machine=program.machine.ring,
        gamma_transition=at.gamma_transition,
    )
    return program, points.replace(phi2_rad=reference_optimum(points) + away_rad)


def play(program, conditions, ctime_ms, seed=1, **options):
    fidelity = CycleTracking(program, program.machine, ctime_ms, TrackingOptions(**options))
    return fidelity(conditions, SLICES, 1, np.random.default_rng(seed))


@pytest.mark.slow
def test_strides_agree_with_tracking_every_turn():
    """Over 9 ms a stride of 1,000 turns gives the profiles of whole tracking, within shot noise."""
    ctime = np.array([400.0, 403.0, 406.0, 409.0])
    program, conditions = along(ctime, emittance_evs=1.0, intensity=6.0e12, away_rad=0.3)
    count = 50_000
    whole = play(program, conditions, ctime, macroparticles=count)
    strides = play(program, conditions, ctime, macroparticles=count, stride=1_000)
    assert whole.converged.all()
    assert strides.converged.all()
    assert whole.on_the_way
    np.testing.assert_allclose(strides.captured, whole.captured, atol=2e-3)
    step = 2.0 * np.pi / SLICES
    density = np.asarray(whole.profile, dtype=np.float64)
    shot = np.sqrt(np.mean(2.0 * density * step / count, axis=1)) / step
    rms = np.sqrt(np.mean((strides.profile - density) ** 2, axis=1))
    assert (rms <= shot + 0.01 * density.max(axis=1)).all()
    a, b = measure(strides.profile), measure(whole.profile)
    assert np.abs(a.mean_turns - b.mean_turns).max() < 0.003
    assert np.abs(a.rms_length_turns / b.rms_length_turns - 1.0).max() < 0.01
    # A smaller bunch, or the profile at another phi_2, would be noticed.
    _, other = along(ctime, emittance_evs=1.0, intensity=6.0e12, away_rad=0.0)
    away = matched_profiles(other, SLICES).line_density - density
    assert (np.sqrt(np.mean(away**2, axis=1)) > 2.0 * rms).all()


def test_a_cycle_begins_matched_and_follows_the_phase_function_as_set():
    """The first profile is the kernel's; phi_2 that moves to the other side moves the asymmetry."""
    ctime = np.array([400.0, 401.0, 402.0])
    program, conditions = along(ctime, emittance_evs=0.6, intensity=2.0e12)
    moved = conditions.phi2_rad + np.array([0.0, 0.3, 0.6])
    tracked = play(program, conditions.replace(phi2_rad=moved), ctime, macroparticles=20_000)
    kernel = matched_profiles(conditions.replace(phi2_rad=moved), SLICES)
    first = tracked.profile[0] - kernel.line_density[0]
    assert np.sqrt(np.mean(first**2)) < 0.05 * kernel.line_density[0].max()
    seen = measure(tracked.profile).asymmetry
    assert seen[2] - seen[0] == pytest.approx(kernel.asymmetry[2] - kernel.asymmetry[0], rel=0.35)
    assert seen[2] < seen[0] - 0.05


def test_losses_stay_lost_and_reach_the_truth():
    """What the first bucket does not hold is missing at every later point, and in the truth."""
    ctime = np.array([285.0, 286.0, 287.0])
    program, conditions = along(ctime, emittance_evs=1.0, intensity=3.0e12)
    full = 1.3 * float(bucket_area_evs(conditions)[0])
    options = {
        "program": program,
        "n_slices": SLICES,
        "seed": 2,
        "intensity": 3.0e12,
        "emittance_evs": full,
        "offset_deg": 0.0,
        "monitor": "ideal",
        "noise": 0.0,
        "points": 30,
    }
    tracked = open_backend(fidelity="tracking", macroparticles=1_000, stride=20, **options)
    truth = tracked.start().truth
    ideal = open_backend(**options).start().truth
    assert (ideal.intensity == 3.0e12).all()
    assert truth.intensity[0] < 0.95 * 3.0e12
    assert (np.diff(truth.intensity) <= 0.0).all()
    share = truth.intensity / 3.0e12
    np.testing.assert_allclose(truth.emittance_evs, share * full)
    lossy = share < 0.9
    finite = np.isfinite(truth.reference_rad) & np.isfinite(ideal.reference_rad) & lossy
    # A smaller bunch has another optimum.
    assert (truth.reference_rad[finite] != ideal.reference_rad[finite]).all()


def test_unrelated_conditions_are_tracked_where_they_are():
    """Rows tracked at constant conditions keep the kernel's profile; those without bucket say so."""
    ctime = np.array([350.0, 500.0])
    _, conditions = along(ctime, emittance_evs=0.8, intensity=4.0e12)
    steep = conditions.replace(b_dot_t_per_s=np.array([conditions.b_dot_t_per_s[0], 20.0]))
    done = []
    with listening(lambda turns, total: done.append((turns, total))):
        tracked = RowTracking(TrackingOptions(macroparticles=20_000, turns=600))(
            steep, SLICES, 1, np.random.default_rng(1)
        )
    kernel = matched_profiles(conditions, SLICES).line_density[0]
    assert tracked.converged.tolist() == [True, False]
    assert np.isnan(tracked.profile[1]).all()
    assert tracked.captured[0] == 1.0
    assert np.sqrt(np.mean((tracked.profile[0] - kernel) ** 2)) < 0.05 * kernel.max()
    assert done[-1] == (1_200, 1_200)
    assert [turns for turns, _ in done] == sorted(turns for turns, _ in done)


def test_a_seed_reproduces_a_cycle():
    """The same seed gives the same reading, another seed another."""

    def reading(seed):
        backend = open_backend(
            points=2, n_slices=64, seed=seed, fidelity="tracking", macroparticles=500, stride=50
        )
        return backend.start().profile

    np.testing.assert_array_equal(reading(4), reading(4))
    assert not np.array_equal(reading(4), reading(5))


def test_a_beam_that_cannot_be_injected_is_flagged():
    """Without a bucket at the first point no profile is invented, and the reading says so."""
    ctime = np.array([400.0, 400.5])
    program, conditions = along(ctime, emittance_evs=0.6, intensity=2.0e12)
    hopeless = program.v1_v
    low = replace(
        program,
        v1_v=replace(hopeless, value=np.full_like(hopeless.value, 100.0)),
        v2_v=replace(program.v2_v, value=np.full_like(program.v2_v.value, 10.0)),
    )
    tracked = CycleTracking(low, low.machine, ctime, TrackingOptions(macroparticles=200))(
        conditions, SLICES, 1, np.random.default_rng(1)
    )
    assert not tracked.converged.any()
    assert np.isnan(tracked.profile).all()


def test_along_the_cycle_takes_the_fidelity():
    """Bunches on their way from point to point can be tracked too."""
    backend = open_backend(
        along_cycle=True,
        points=3,
        rows=2,
        n_slices=64,
        seed=1,
        fidelity="tracking",
        macroparticles=500,
        turns=50,
    )
    reading = backend.start()
    assert reading.profile.shape == (2, 64)
    assert (reading.quality & (0xFFFF ^ Quality.NO_MATCH) == 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"macroparticles": 1000},
            "macroparticles belongs to fidelity 'tracking', not to 'matched'",
        ),
        (
            {"fidelity": "blond", "stride": 1000},
            "stride belongs to fidelity 'tracking', not to 'blond'",
        ),
        (
            {"fidelity": "tracking", "macroparticles": 5},
            "macroparticles must be 100 to 100,000,000",
        ),
        ({"fidelity": "tracking", "macroparticles": "2e4"}, "must be a whole number, not '2e4'"),
        ({"fidelity": "tracking", "stride": 3}, "stride must be at least 10 turns"),
        ({"fidelity": "tracking", "turns": 500}, "turns belongs to unrelated conditions"),
        ({"fidelity": "tracking", "rows": 2, "stride": 500}, "stride belongs to a cycle"),
    ],
)
def test_options_that_do_not_fit_are_named(options, words):
    """An option of the tracking elsewhere, or out of range, is refused in one sentence."""
    with pytest.raises(UsageError, match=words):
        open_backend(**options)
