"""The fit of measured profiles: what it finds, how sure it is, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from memrl_ctrl.beam import (
    Conditions,
    Machine,
    Resonator,
    bucket_area_evs,
    fit_cycle,
    fit_profile,
    matched_profiles,
    reference_optimum,
    suggest_delta_rad,
    suggested_sigma_rad,
)
from memrl_ctrl.beam.measurement import Monitor
from memrl_ctrl.errors import BeamError, UnknownNameError, UsageError
from memrl_ctrl.metrics import circular_difference
from memrl_ctrl.program import load_program

MACHINE = Machine(
    space_charge_g=2.0,
    impedance=(
        Resonator(r_shunt_ohm=27.2, frequency_hz=1.57e6, q=0.044, count=13),
        Resonator(r_shunt_ohm=98.2, frequency_hz=17.6e6, q=2.77, count=13),
    ),
)
PHI_HW = np.radians(40.0)


def points(phi2_rad=0.4, *, machine=MACHINE, intensity=5.0e12, count=1):
    """Some good conditions; the emittance is half of the bare bucket at phi2 = 0."""
    spread = np.linspace(0.0, 1.0, count)
    result = Conditions(
        b_field_t=0.4 + 0.3 * spread,
        b_dot_t_per_s=1.0 + spread,
        v1_v=8.0e3,
        v2_v=5.5e3,
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=intensity,
        machine=machine,
    )
    return result.replace(emittance_evs=0.5 * bucket_area_evs(result).min(), phi2_rad=phi2_rad)


def measured(conditions, n_slices=256, *, noise=0.0, rng=None):
    """Profiles in arbitrary units, with a baseline; noise per peak."""
    density = matched_profiles(conditions, n_slices).line_density.astype(float)
    shown = density / density.max(axis=1, keepdims=True)
    if noise:
        shown = shown + noise * (rng or np.random.default_rng(7)).standard_normal(shown.shape)
    return 250.0 * shown - 33.0


def deg(angle):
    return np.degrees(circular_difference(angle, 0.0))


@pytest.mark.parametrize("phi2", [-2.5, -0.7, 0.0, 1.1, 2.9])
def test_a_noiseless_profile_gives_back_what_made_it(phi2):
    """Offset, emittance and intensity come back wherever phi2 is, short bunches included."""
    true = points(phi2)
    fit = fit_profile(measured(true), MACHINE, true, phi_hw_rad=PHI_HW)
    assert fit.verdict[0] == "good"
    assert fit.trigger_known[0]
    assert abs(deg(fit.offset_rad - (PHI_HW - phi2))[0]) < 0.3
    assert fit.emittance_evs[0] == pytest.approx(true.emittance_evs[0], rel=0.005)
    assert fit.intensity[0] == pytest.approx(true.intensity[0], rel=0.05)
    assert fit.baseline[0] == pytest.approx(-33.0, abs=1.0)


def test_the_answer_lies_within_its_uncertainty():
    """Over 12 noisy profiles the rms pull is that of honest uncertainties."""
    rng = np.random.default_rng(3)
    true = points(rng.uniform(-0.6, 0.6, 12), count=12, intensity=rng.uniform(1e12, 9e12, 12))
    fit = fit_profile(measured(true, 500, noise=0.02, rng=rng), MACHINE, true)
    pull = circular_difference(fit.phi2_rad, true.phi2_rad) / fit.phi2_sigma_rad
    assert 0.5 < np.sqrt(np.mean(pull**2)) < 1.6
    assert np.allclose(fit.noise, 250.0 * 0.02, rtol=0.15)
    assert set(fit.verdict) == {"good"}


def test_a_bunch_anywhere_on_the_turn_is_found():
    """A moved profile is seen to be moved, by how much, and costs certainty only."""
    true = points(0.3)
    profile = measured(true, noise=0.01)[0]
    here = fit_profile(profile, MACHINE, true)
    moved = fit_profile(np.roll(profile, 100), MACHINE, true)
    assert here.trigger_known[0]
    assert not moved.trigger_known[0]
    expected = circular_difference(100 * 2.0 * np.pi / 256, 0.0)
    assert abs(moved.trigger_rad[0] - expected) < 4.0 * moved.trigger_sigma_rad[0] + 0.01
    assert moved.phi2_sigma_rad[0] > here.phi2_sigma_rad[0]
    assert abs(circular_difference(moved.phi2_rad, 0.3)[0]) < 4.0 * moved.phi2_sigma_rad[0]


def test_knowing_the_intensity_sharpens_the_phase():
    """A current transformer's value makes the uncertainty of phi2 smaller, not the answer wrong."""
    true = points(0.3)
    profile = np.roll(measured(true, noise=0.02)[0], 50)
    free = fit_profile(profile, MACHINE, true, trigger="unknown")
    told = fit_profile(profile, MACHINE, true, trigger="unknown", intensity=(5.0e12, 5.0e10))
    assert told.phi2_sigma_rad[0] < 0.7 * free.phi2_sigma_rad[0]
    assert told.intensity[0] == pytest.approx(5.0e12, rel=0.03)
    assert abs(circular_difference(told.phi2_rad, 0.3)[0]) < 4.0 * told.phi2_sigma_rad[0]


def test_an_emittance_that_is_known_is_kept():
    """A Gaussian constraint on the emittance that contradicts the profile makes the fit poor."""
    true = points(0.3)
    wrong = 0.8 * float(true.emittance_evs[0])
    profile = measured(true, noise=0.02)
    fit = fit_profile(profile, MACHINE, true, emittance_evs=(wrong, 1e-4 * wrong))
    assert fit.emittance_evs[0] == pytest.approx(wrong, rel=0.02)
    assert fit.verdict[0] == "poor"


def test_what_the_model_does_not_describe_is_called_poor():
    """Two separate bunches are no matched bunch: the chi2 says so and the uncertainty grows."""
    phase = (np.arange(256) + 0.5) * (2.0 * np.pi / 256)
    profile = np.exp(-0.5 * ((phase - 1.5) / 0.2) ** 2) + np.exp(-0.5 * ((phase - 4.5) / 0.2) ** 2)
    fit = fit_profile(profile + 1e-3 * np.sin(50.0 * phase), MACHINE, points())
    assert fit.verdict[0] == "poor"
    assert fit.chi2_reduced[0] > 10.0


def test_without_intensity_effects_the_intensity_is_not_made_up():
    """A bare ring's profile says nothing of the intensity, and the result says nothing either."""
    bare = Machine()
    true = points(0.5, machine=bare)
    fit = fit_profile(measured(true, noise=0.02), bare, true)
    assert np.isnan(fit.intensity[0])
    assert fit.verdict[0] == "good"
    assert abs(circular_difference(fit.phi2_rad, 0.5)[0]) < 4.0 * fit.phi2_sigma_rad[0]


def test_a_bunch_that_overfills_its_bucket_gives_what_the_bucket_holds():
    """Emittance and intensity of an overfull bucket are those captured."""
    true = points(2.0)
    true = true.replace(emittance_evs=1.3 * bucket_area_evs(true))
    matched = matched_profiles(true, 256)
    assert matched.captured_fraction[0] < 0.9
    fit = fit_profile(measured(true, noise=0.01), MACHINE, true)
    held = matched.captured_fraction[0]
    assert abs(circular_difference(fit.phi2_rad, 2.0)[0]) < 4.0 * fit.phi2_sigma_rad[0]
    assert fit.emittance_evs[0] == pytest.approx(held * true.emittance_evs[0], rel=0.03)


def test_a_slow_monitor_is_allowed_for():
    """With the monitor's bandwidth given the phase is right; without, the fit notices a delay."""
    true = points(0.3)
    slow = Monitor(
        bandwidth_mhz=20.0,  # type: ignore[arg-type]
        low_cutoff_khz=0.0,  # type: ignore[arg-type]
        baseline=0.0,  # type: ignore[arg-type]
        trigger_jitter_ns=0.0,  # type: ignore[arg-type]
        noise=0.01,  # type: ignore[arg-type]
    )
    shown, _ = slow.measure(
        matched_profiles(true, 512).line_density, true.rf_frequency_hz, np.random.default_rng(1)
    )
    with_it = fit_profile(shown[0], MACHINE, true, monitor=slow)
    also = fit_profile(shown[0], MACHINE, true, bandwidth_hz=20.0e6)
    without = fit_profile(shown[0], MACHINE, true)
    assert with_it.trigger_known[0]
    assert with_it.verdict[0] == "good"
    assert abs(deg(with_it.phi2_rad - 0.3)[0]) < 4.0 * np.degrees(with_it.phi2_sigma_rad[0])
    assert also.phi2_rad[0] == pytest.approx(with_it.phi2_rad[0], abs=2e-3)
    assert not without.trigger_known[0] or without.verdict[0] == "poor"


def test_noise_that_is_given_counts():
    """With the noise said to be half of what it is, the same profile fits four times worse."""
    true = points(0.3)
    profile = measured(true, noise=0.02)
    right = fit_profile(profile, MACHINE, true, noise=5.0)
    half = fit_profile(profile, MACHINE, true, noise=2.5)
    assert right.verdict[0] == "good"
    assert half.verdict[0] == "poor"
    assert half.chi2_reduced[0] == pytest.approx(4.0 * right.chi2_reduced[0], rel=0.1)


def test_a_bad_profile_harms_no_other_of_its_batch():
    """Rows that cannot be fitted are NaN with a reason; the others are as they would be alone."""
    true = points([0.3, 0.3, 0.3, 0.3], count=1)
    batch = measured(true, noise=0.02)
    batch[0, 5] = np.nan
    batch[1] = 4.0
    batch[2] = np.random.default_rng(0).standard_normal(256)
    fit = fit_profile(batch, MACHINE, true.take([0]))
    assert list(fit.verdict[:3]) == ["not fitted"] * 3
    assert "NaN" in fit.reason[0]
    assert "flat" in fit.reason[1]
    assert "noise" in fit.reason[2]
    assert np.isnan(fit.phi2_rad[:3]).all()
    assert np.isnan(suggest_delta_rad(fit)[:3]).all()
    alone = fit_profile(batch[3], MACHINE, true.take([3]))
    assert fit.phi2_rad[3] == alone.phi2_rad[0]


@pytest.mark.parametrize(
    ("profile", "options", "error", "words"),
    [
        (np.full(64, np.nan), {}, BeamError, "NaN or infinity"),
        (np.ones(64), {}, BeamError, "flat"),
        (np.random.default_rng(1).standard_normal(200), {}, BeamError, "no bunch stands out"),
        (np.ones(12), {}, UsageError, "16 slices at least; this has 12"),
        (np.ones((2, 3, 40)), {}, UsageError, r"\[n_slices\], or a batch"),
        ("words", {}, UsageError, "must be numbers"),
        (np.ones((3, 40)), {}, UsageError, "3 profiles and 2 points"),
        (None, {"intensity": (5e12, 0.0)}, UsageError, "intensity must be"),
        (None, {"emittance_evs": (-1.0, 0.1)}, UsageError, "emittance_evs must be"),
        (None, {"trigger": "maybe"}, UsageError, "auto, known, unknown"),
        (None, {"trigger_sigma_rad": 0.0}, UsageError, "trigger_sigma_rad"),
        (None, {"noise": -1.0}, UsageError, "noise must be above 0"),
        (None, {"noise": [1.0, 2.0, 3.0]}, UsageError, "noise has shape"),
        (None, {"bandwidth_hz": 0.0}, UsageError, "bandwidth_hz"),
        (None, {"intensity_max": 0.0}, UsageError, "intensity_max"),
        (None, {"phi_hw_rad": [1.0, 2.0, 3.0]}, UsageError, "phi_hw_rad has shape"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(profile, options, error, words):
    """Each wrong input has its own sentence."""
    two = points(count=2)
    given = measured(two.take([0]))[0] if profile is None else profile
    point = two if profile is not None and np.ndim(profile) == 2 else two.take([0])
    with pytest.raises(error, match=words):
        fit_profile(given, MACHINE, point, **options)


def test_a_point_without_a_bucket_is_refused():
    """Where the voltage is too low for the Bdot there is nothing to fit."""
    true = points()
    with pytest.raises(BeamError, match="no bucket at any phi2"):
        fit_profile(measured(true), MACHINE, true.replace(b_dot_t_per_s=30.0))


def test_a_point_without_second_harmonic_is_refused():
    """At V2 = 0 phi2 has no effect."""
    true = points()
    with pytest.raises(BeamError, match="V2 is 0"):
        fit_profile(measured(true), MACHINE, true.replace(v2_v=0.0))


@pytest.mark.parametrize(("machine", "point"), [("psb", points()), (MACHINE, 12)])
def test_other_kinds_of_machine_and_point_are_refused(machine, point):
    """The error names what was given."""
    with pytest.raises(UsageError, match=r"not str|not int"):
        fit_profile(measured(points()), machine, point)


def test_a_model_based_controller_would_go_to_the_optimum():
    """The suggested change ends at the reference optimum of the true condition."""
    true = points(0.9)
    fit = fit_profile(measured(true), MACHINE, true)
    expected = circular_difference(reference_optimum(true), true.phi2_rad)
    assert np.degrees(suggest_delta_rad(fit) - expected)[0] == pytest.approx(0.0, abs=0.5)
    assert suggest_delta_rad(fit, true) == pytest.approx(suggest_delta_rad(fit))
    with pytest.raises(UsageError, match="2 conditions and 1 fitted"):
        suggest_delta_rad(fit, points(count=2))
    with pytest.raises(UnknownNameError):
        suggest_delta_rad(fit, criterion="beauty")  # type: ignore[arg-type]


@pytest.mark.parametrize("away", [0.0, 0.5])
def test_what_is_suggested_is_as_uncertain_as_it_says(away):
    """Over forty profiles of a bunch it scatters by what it says, and by less than phi2."""
    true = points(0.0)
    true = true.replace(phi2_rad=reference_optimum(true) + away)
    rng = np.random.default_rng(3)
    profiles = np.concatenate([measured(true, noise=0.02, rng=rng) for _ in range(40)])
    fit = fit_profile(profiles, MACHINE, true, trigger="unknown")
    sigma = suggested_sigma_rad(fit)
    pull = (suggest_delta_rad(fit) + away) / sigma
    assert 0.7 < np.sqrt(np.mean(pull**2)) < 1.4
    assert np.median(sigma) < 0.6 * np.median(fit.phi2_sigma_rad)


def test_nothing_is_suggested_where_nothing_is_fitted():
    """Neither a change nor how well it is known; the row beside it has both."""
    true = points(0.9)
    good = measured(true, noise=0.02)[0]
    fit = fit_profile(np.stack([good, np.full(good.size, 4.0)]), MACHINE, true)
    assert list(np.isnan(suggested_sigma_rad(fit))) == [False, True]
    assert list(np.isnan(suggest_delta_rad(fit))) == [False, True]


def test_points_of_a_program_bring_their_knob():
    """With the points of a program the offset is that of the program's phi_hw."""
    program = load_program("psb-2gev")
    at = program.at([400.0])
    ring = Conditions(
        b_field_t=at.b_field_t,
        b_dot_t_per_s=at.b_dot_t_per_s,
        v1_v=at.v1_v,
        v2_v=at.v2_v,
        phi2_rad=at.phi_hw_rad - 1.0,
        emittance_evs=1.2,
        intensity=6e12,
        machine=program.machine.ring,
        gamma_transition=at.gamma_transition,
    )
    fit = fit_profile(measured(ring, noise=0.005), program.machine, at)
    assert abs(fit.offset_rad[0] - 1.0) < 4.0 * fit.phi2_sigma_rad[0]
    assert np.isnan(fit_profile(measured(ring), program.machine.ring, ring).offset_rad[0])


def cycle_of(count=5, offset=1.2, **changes):
    """Points of one bunch, the knob, and the noisy profiles."""
    knob = np.linspace(0.9, 1.6, count)
    true = points(knob - offset, count=count).replace(**changes)
    return true, knob, measured(true, 300, noise=0.02, rng=np.random.default_rng(11))


def test_a_cycle_has_one_offset_known_better_than_any_points():
    """Common offset, emittance and intensity lie within uncertainties smaller than each point's."""
    true, knob, profiles = cycle_of()
    fit = fit_cycle(profiles, MACHINE, true, phi_hw_rad=knob)
    assert fit.verdict == "good"
    assert abs(fit.offset_rad - 1.2) < 4.0 * fit.offset_sigma_rad
    assert fit.offset_sigma_rad < 0.7 * fit.points.phi2_sigma_rad.min()
    assert abs(fit.emittance_evs - true.emittance_evs[0]) < 4.0 * fit.emittance_sigma_evs
    assert abs(fit.intensity - 5.0e12) < 4.0 * fit.intensity_sigma
    assert np.allclose(fit.phi2_rad, knob - fit.offset_rad)
    rest = (profiles - fit.model) / fit.points.noise[:, None]
    assert np.std(rest) == pytest.approx(1.0, abs=0.1)


def test_a_cycle_with_two_offsets_is_called_poor():
    """If the offset moves within the cycle, the common fit says that it does not fit."""
    true, knob, profiles = cycle_of()
    knob[3:] += np.radians(15.0)
    assert fit_cycle(profiles, MACHINE, true, phi_hw_rad=knob).verdict == "poor"


def test_a_cycle_leaves_out_what_it_cannot_use():
    """A flat profile is left out and the others decide."""
    true, knob, profiles = cycle_of()
    profiles[2] = 0.0
    fit = fit_cycle(profiles, MACHINE, true, phi_hw_rad=knob)
    assert abs(fit.offset_rad - 1.2) < 4.0 * fit.offset_sigma_rad
    assert np.isnan(fit.model[2]).all()
    assert "flat" in fit.points.reason[2]


def test_a_cycle_without_its_knob_is_refused():
    """A common offset needs phi_hw."""
    true, _, profiles = cycle_of(2)
    with pytest.raises(UsageError, match="phi_hw_rad"):
        fit_cycle(profiles, MACHINE, true)


def test_a_cycle_of_a_bare_ring_has_no_intensity():
    """Without intensity effects a cycle gives offset and emittance."""
    bare = dataclasses.replace(MACHINE, space_charge_g=0.0, impedance=())
    true, knob, profiles = cycle_of(3, machine=bare)
    fit = fit_cycle(profiles, bare, true, phi_hw_rad=knob)
    assert np.isnan(fit.intensity)
    assert abs(fit.offset_rad - 1.2) < 4.0 * fit.offset_sigma_rad
