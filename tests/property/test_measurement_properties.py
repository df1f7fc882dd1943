"""What holds for every monitor and every profile."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from memrl_ctrl.backend import Quality
from memrl_ctrl.beam.measurement import FOOT, IDEAL, TINY, Monitor
from memrl_ctrl.metrics import measure

SLICES = st.sampled_from([16, 33, 64, 100, 128, 500])
SEEDS = st.integers(0, 2**32 - 1)
FREQUENCIES = st.floats(2e5, 1e7)
SILENT = dataclasses.replace(IDEAL, noise=(0.0, 0.0))


@st.composite
def densities(draw):
    """Any positive profile [1 to 3, n_slices], of any scale."""
    shape = (draw(st.integers(1, 3)), draw(SLICES))
    unit = npst.arrays(np.float32, shape, elements=st.floats(0.0, 1.0, width=32))
    return draw(unit) * np.float32(draw(st.sampled_from([1e-3, 1.0, 1e6])))


def ranges(low, high):
    """A number or a pair in order."""
    numbers = st.floats(low, high)
    return st.one_of(numbers, st.tuples(numbers, numbers).map(lambda pair: tuple(sorted(pair))))


MONITORS = st.builds(
    Monitor,
    bandwidth_mhz=ranges(2.0, 1e4),
    low_cutoff_khz=ranges(0.0, 900.0),
    noise=ranges(0.0, 1.0),
    baseline=ranges(0.0, 1.0),
    trigger_jitter_ns=ranges(0.0, 1e3),
    gain=ranges(0.1, 10.0),
    gain_drift=st.floats(0.0, 0.5),
    bits=st.sampled_from([0, 2, 8, 12, 24]),
    full_scale=ranges(0.1, 10.0),
)


@given(densities(), MONITORS, SEEDS, FREQUENCIES)
def test_what_is_finite_stays_finite_and_a_seed_repeats_it(density, monitor, seed, frequency):
    """Nothing not finite comes out, and the same seed gives the same, to the bit."""
    first, again = (
        monitor.measure(density, frequency, np.random.default_rng(seed)) for _ in range(2)
    )
    assert np.isfinite(first[0]).all()
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


BAND_LIMITS = st.builds(
    lambda high, low, jitter: dataclasses.replace(
        SILENT,
        bandwidth_mhz=max(high, low * 1e-3 + 1.0),
        low_cutoff_khz=low,
        trigger_jitter_ns=jitter,
    ),
    st.floats(1.0, 1e4),
    st.floats(0.0, 900.0),
    st.floats(0.0, 1e3),
)


@given(densities(), BAND_LIMITS, SEEDS, FREQUENCIES)
def test_band_limits_and_trigger_conserve_area(density, monitor, seed, frequency):
    """The area is that of the line density, whatever the pick-up passes and when it is triggered."""
    profile, flags = monitor.measure(density, frequency, np.random.default_rng(seed))
    before = density.sum(axis=1, dtype=np.float64)
    after = profile.sum(axis=1, dtype=np.float64)
    # 1e-20: the filters keep out of the subnormal numbers, which are slow
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-20)
    assert not flags.any()


@given(densities(), st.floats(1.0, 1e4), FREQUENCIES)
def test_the_upper_limit_never_overshoots(density, high, frequency):
    """A low-passed profile lies between the lowest and the highest slice."""
    monitor = dataclasses.replace(SILENT, bandwidth_mhz=high)
    profile, _ = monitor.measure(density, frequency, np.random.default_rng(0))
    room = 1e-6 * density.max(axis=1) + 1e-20
    assert (profile.max(axis=1) <= density.max(axis=1) + room).all()
    assert (profile.min(axis=1) >= density.min(axis=1) - room).all()


@given(densities(), st.integers(2, 16), ranges(0.1, 3.0), st.floats(0.0, 0.5), SEEDS)
def test_steps_err_by_half_and_flags_stand_exactly_where_slices_were_cut(
    density, bits, full_scale, noise, seed
):
    """Against the same signal undigitised: at most half a step in the range, the range's end
    outside, and a flag on those rows only."""
    limited = dataclasses.replace(SILENT, noise=noise, full_scale=full_scale, bits=bits)
    free = dataclasses.replace(SILENT, noise=noise)
    state = limited.draw(density.shape[0], np.random.default_rng(seed + 1))
    signal, _ = free.measure(
        density,
        1e6,
        np.random.default_rng(seed),
        state=dataclasses.replace(state, full_scale=np.full(len(state), np.inf)),
    )
    profile, flags = limited.measure(density, 1e6, np.random.default_rng(seed), state=state)
    peak = density.max(axis=1)
    top = (state.full_scale * np.where(peak > TINY, peak, 1.0))[:, None]
    step = (1.0 + FOOT) * top / (2**bits - 1)
    inside = np.clip(signal, -FOOT * top, top)
    # float32, in which a slice that lies between two steps may fall to either
    room = 1e-5 * np.maximum(top, np.abs(signal))
    assert (np.abs(profile - inside) <= 0.5 * step + room).all()
    beyond = np.maximum(signal - top, -FOOT * top - signal) - 0.5 * step
    cut = flags == np.uint16(Quality.SATURATED)
    assert cut[(beyond > room).any(axis=1)].all()
    assert not cut[(beyond < -room).all(axis=1)].any()


@given(
    SEEDS,
    st.sampled_from([64, 128, 1000]),
    st.floats(0.05, 20.0),
    st.floats(-0.3, 0.3),
    st.floats(0.0, 0.03),
)
def test_gain_and_baseline_do_not_change_the_metrics(seed, n_slices, gain, offset, noise):
    """Metrics of a profile and of the same one amplified and lifted agree, uncertainties too."""
    rng = np.random.default_rng(seed)
    phase = (np.arange(n_slices) + 0.5) / n_slices - 0.5
    half, lean = rng.uniform(0.12, 0.35), rng.uniform(-0.8, 0.8)
    density = np.maximum(0.0, 1.0 - (phase / half) ** 2) * (1.0 + lean * phase / half)
    monitor = dataclasses.replace(SILENT, noise=noise)
    profile, _ = monitor.measure(density[None], 1e6, rng)
    before, after = measure(profile), measure(gain * (profile.astype(np.float64) + offset))
    for field in dataclasses.fields(before):
        one, other = getattr(before, field.name), getattr(after, field.name)
        if field.name in ("noise", "peak"):
            one = one * gain
        if field.name == "baseline":
            one = gain * (one + offset)
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4 * max(gain, 1.0))
