"""What the fit must not depend on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.beam import (
    Conditions,
    Machine,
    Resonator,
    bucket_area_evs,
    fit_profile,
    matched_profiles,
)
from memrl_ctrl.metrics import circular_difference

MACHINE = Machine(
    space_charge_g=2.0,
    impedance=(Resonator(r_shunt_ohm=27.2, frequency_hz=1.57e6, q=0.044, count=13),),
)


def bunch(phi2_rad, intensity, b_dot=1.5):
    point = Conditions(
        b_field_t=0.5,
        b_dot_t_per_s=b_dot,
        v1_v=8.0e3,
        v2_v=5.0e3,
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=intensity,
        machine=MACHINE,
    )
    return point.replace(emittance_evs=0.5 * bucket_area_evs(point), phi2_rad=phi2_rad)


def shown(point, seed):
    density = matched_profiles(point, 256).line_density[0].astype(float)
    noise = np.random.default_rng(seed).standard_normal(256)
    return density / density.max() + 0.01 * noise


@settings(max_examples=12)
@given(
    gain=st.floats(1e-6, 1e9),
    baseline=st.floats(-1e3, 1e3),
    phi2=st.floats(-0.8, 0.8),
)
def test_units_and_baseline_do_not_matter(gain, baseline, phi2):
    """A profile in other units, on another baseline, has the same fit."""
    point = bunch(phi2, 5e12)
    profile = shown(point, 1)
    first = fit_profile(profile, MACHINE, point)
    second = fit_profile(gain * (profile + baseline), MACHINE, point)
    assert abs(circular_difference(first.phi2_rad, second.phi2_rad)[0]) < 1e-4
    assert np.isclose(first.chi2_reduced, second.chi2_reduced, rtol=1e-3)[0]
    assert np.isclose(second.noise, gain * first.noise, rtol=1e-3)[0]


@settings(max_examples=10)
@given(slices=st.integers(0, 255), phi2=st.floats(-0.6, 0.6))
def test_where_on_the_turn_does_not_matter(slices, phi2):
    """With an unknown trigger, a profile moved by whole slices has the same fit."""
    point = bunch(phi2, 4e12)
    profile = shown(point, 2)
    first = fit_profile(profile, MACHINE, point, trigger="unknown")
    second = fit_profile(np.roll(profile, slices), MACHINE, point, trigger="unknown")
    difference = abs(circular_difference(first.phi2_rad, second.phi2_rad)[0])
    # Importance sampling about minima that differ by rounding: a fraction of the uncertainty.
    assert difference < 0.2 * first.phi2_sigma_rad[0] + 1e-4


@settings(max_examples=10)
@given(phi2=st.floats(-1.0, 1.0), b_dot=st.floats(0.2, 2.0), seed=st.integers(0, 1000))
def test_the_fit_is_no_worse_than_the_truth(phi2, b_dot, seed):
    """The chi2 that the search finds is not above that of the parameters that made the profile."""
    point = bunch(phi2, 6e12, b_dot)
    profile = shown(point, seed)
    fit = fit_profile(profile, MACHINE, point, noise=0.01)
    # The truth has five parameters less: its chi2 per degree of freedom is about 1.
    assert fit.verdict[0] in ("good", "ambiguous")
    assert abs(circular_difference(fit.phi2_rad, phi2)[0]) < 6.0 * fit.phi2_sigma_rad[0]
