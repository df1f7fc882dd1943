"""The measurement chain: each parameter does what it says, against what is known of it."""

import dataclasses
import math

import numpy as np
import pytest

from memrl_backends.zmq.cli import machine
from memrl_ctrl.backend import Quality
from memrl_ctrl.beam.measurement import FOOT, IDEAL, PRESETS, WCM, Monitor, monitor_from
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.ranges import as_range, named_values
from memrl_ctrl.registry import open_backend

SILENT = dataclasses.replace(IDEAL, noise=(0.0, 0.0))
REVOLUTION_HZ = 1.0e6


def bunches(n_slices=200, count=3):
    """Parabolas of different lengths that start at different places of the turn."""
    phase = (np.arange(n_slices) + 0.5) / n_slices
    middle = np.linspace(0.3, 0.8, count)[:, None]
    half = np.linspace(0.1, 0.3, count)[:, None]
    away = (phase - middle + 0.5) % 1.0 - 0.5
    return np.maximum(0.0, 1.0 - (away / half) ** 2).astype(np.float32)


def seen(density, seed=0, **values):
    """What a silent monitor with these values shows, and its flags."""
    monitor = dataclasses.replace(SILENT, **values)
    return monitor.measure(density, REVOLUTION_HZ, np.random.default_rng(seed))


def test_the_ideal_monitor_without_noise_shows_the_line_density():
    """Nothing is changed and nothing flagged."""
    density = bunches()
    profile, flags = seen(density)
    assert profile.dtype == np.float32
    np.testing.assert_array_equal(profile, density)
    assert not flags.any()


@pytest.mark.parametrize("n_slices", [64, 200, 1000])
@pytest.mark.parametrize("bandwidth_mhz", [3.0, 30.0, 300.0])
def test_the_upper_limit_is_one_pole(n_slices, bandwidth_mhz):
    """Every harmonic is that of 1 / (1 + j f / f0) on slices, averaged over a slice."""
    density = bunches(n_slices)
    profile, _ = seen(density, bandwidth_mhz=bandwidth_mhz)
    harmonic = np.arange(n_slices // 2)
    # Response of the pole to a slice, averaged over a slice, for exp(2 pi j n i / N): the geometric
    # sum of its decay from slice to slice.
    ratio = 2.0 * np.pi * bandwidth_mhz * 1e6 / (REVOLUTION_HZ * n_slices)
    keep, turn = np.exp(-ratio), np.exp(-2j * np.pi * harmonic / n_slices)
    share = (1.0 - keep) / ratio
    response = 1.0 - share + share * (1.0 - keep) * turn / (1.0 - keep * turn)
    before = np.fft.rfft(density)[:, : n_slices // 2]
    after = np.fft.rfft(profile)[:, : n_slices // 2]
    np.testing.assert_allclose(after, before * response, atol=2e-5 * n_slices)
    low = slice(1, 4)
    pole = 1.0 / (1.0 + 1j * harmonic[low] * REVOLUTION_HZ / (bandwidth_mhz * 1e6))
    np.testing.assert_allclose(np.abs(response[low]), np.abs(pole), rtol=0.01)


@pytest.mark.parametrize("low_cutoff_khz", [1.0, 20.0, 100.0])
@pytest.mark.parametrize("n_slices", [64, 250, 1000])
def test_the_lower_limit_tilts_the_baseline_and_keeps_the_mean(n_slices, low_cutoff_khz):
    """Every harmonic n f is multiplied by j n f / (f0 + j n f); the mean is restored."""
    density = bunches(n_slices)
    profile, _ = seen(density, low_cutoff_khz=low_cutoff_khz)
    harmonic = np.arange(1, 6)
    expected = 1j * harmonic / (low_cutoff_khz * 1e3 / REVOLUTION_HZ + 1j * harmonic)
    before, after = np.fft.rfft(density)[:, 1:6], np.fft.rfft(profile)[:, 1:6]
    scale = np.abs(np.fft.rfft(density)[:, :1])
    assert (np.abs(after - before * expected) / scale).max() < 2e-4
    np.testing.assert_allclose(profile.mean(axis=1), density.mean(axis=1), rtol=1e-5)
    # Just after the bunch the baseline is lower than just before it, by at most the droop of its area.
    drop = profile[1, int(0.95 * n_slices)] - profile[1, int(0.25 * n_slices)]
    droop = 2.0 * np.pi * low_cutoff_khz * 1e3 / REVOLUTION_HZ * density[1].mean()
    assert -droop < drop < -0.1 * droop


def test_the_baseline_and_the_gain_have_their_spread():
    """Offsets spread as said, in fractions of the peak; gains lie in their range, drift by shots."""
    density = np.repeat(bunches(64, 1), 4000, axis=0)
    rng = np.random.default_rng(1)
    monitor = dataclasses.replace(SILENT, baseline=0.02, gain=(0.5, 2.0), gain_drift=0.01)
    state = monitor.draw(4000, rng)
    profile, _ = monitor.measure(density, REVOLUTION_HZ, rng, state=state)
    offset = profile[:, 0]  # no bunch there
    peak = density[0].max() * state.gain
    assert np.std(offset / peak) == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(np.ptp(profile, axis=1), state.gain * np.ptp(density[0]), rtol=1e-5)
    assert 0.5 <= state.gain.min() < 0.51
    assert 1.99 < state.gain.max() <= 2.0
    later = monitor.drifted(state, rng)
    assert np.std(np.log(later.gain / state.gain)) == pytest.approx(0.01, rel=0.05)
    together = monitor.drifted(state, rng, common=True)
    assert np.ptp(together.gain / state.gain) == pytest.approx(0.0, abs=1e-12)
    assert not np.array_equal(together.gain, state.gain)


def test_noise_is_a_fraction_of_each_profiles_own_peak():
    """The standard deviation of a slice is noise times peak, whatever the other values are."""
    density = bunches(1000) * np.array([[1.0], [5.0], [0.2]], dtype=np.float32)
    profile, _ = seen(density, noise=0.03)
    spread = (profile - density).std(axis=1) / density.max(axis=1)
    np.testing.assert_allclose(spread, 0.03, rtol=0.08)


def test_the_trigger_moves_the_profile_in_time():
    """The mean position spreads by the jitter; the shape's length changes by less than a slice's."""
    density = np.repeat(bunches(500, 1), 2000, axis=0)
    jitter_ns = 3.3
    profile, _ = seen(density, trigger_jitter_ns=jitter_ns)
    angle = 2.0 * np.pi * (np.arange(500) + 0.5) / 500
    mean = np.angle(profile @ np.exp(1j * angle)) / (2.0 * np.pi * REVOLUTION_HZ)
    assert np.std(mean) == pytest.approx(jitter_ns * 1e-9, rel=0.05)
    np.testing.assert_allclose(profile.sum(axis=1), density.sum(axis=1), rtol=1e-5)
    monitor = dataclasses.replace(SILENT, trigger_jitter_ns=1e3 / 500)  # one slice
    state = monitor.draw(1, np.random.default_rng(0))
    late, _ = monitor.measure(density[:1], REVOLUTION_HZ, np.random.default_rng(1), state=state)
    draws = np.random.default_rng(1)
    draws.standard_normal((1, 500), dtype=np.float32)
    moved = draws.standard_normal((2, 1))[0, 0]
    whole = math.floor(moved)
    first, second = np.roll(density[0], whole), np.roll(density[0], whole + 1)
    expected = first + (moved - whole) * (second - first)
    np.testing.assert_allclose(late[0], expected, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 8, 12])
def test_the_digitiser_has_its_steps(bits):
    """All values are on 2**bits levels from a tenth below zero to the full scale."""
    density = bunches(1000)
    profile, flags = seen(density, bits=bits, full_scale=1.5)
    for row in range(3):
        top = 1.5 * density[row].max()
        step = (1.0 + FOOT) * top / (2**bits - 1)
        code = (profile[row] + FOOT * top) / step
        assert np.abs(code - np.round(code)).max() < 1e-3
        assert np.abs(profile[row] - density[row]).max() <= 0.5 * step * (1.0 + 1e-4)
    assert not flags.any()


def test_saturation_cuts_and_is_flagged():
    """Where the peak is above the full scale of the reference peak, it is cut there and flagged."""
    density = bunches(200, 3)
    monitor = dataclasses.replace(SILENT, full_scale=1.0)
    profile, flags = monitor.measure(
        density, REVOLUTION_HZ, np.random.default_rng(0), reference_peak=[2.0, 0.6, np.nan]
    )
    assert flags.tolist() == [0, Quality.SATURATED, 0]
    assert profile[1].max() == pytest.approx(0.6)
    np.testing.assert_array_equal(profile[[0, 2]], density[[0, 2]])


@pytest.mark.parametrize("bits", [0, 8])
def test_the_lowest_of_the_noise_may_be_cut_at_the_foot(bits):
    """Much noise reaches the foot in a few slices of a thousand: no flag; a baseline below it is flagged."""
    density = np.repeat(bunches(1000, 1), 200, axis=0)
    monitor = dataclasses.replace(WCM, noise=(0.1, 0.1), full_scale=(3.0, 3.0), bits=bits)
    profile, flags = monitor.measure(density, REVOLUTION_HZ, np.random.default_rng(4))
    lowest = profile.min(axis=1, keepdims=True)
    cut = (profile == lowest).sum(axis=1)
    assert (cut > 1).any()  # the foot was reached
    assert not flags.any()
    monitor = dataclasses.replace(monitor, noise=(0.3, 0.3))
    _, flags = monitor.measure(density, REVOLUTION_HZ, np.random.default_rng(4))
    assert (flags == Quality.SATURATED).all()


def test_a_profile_that_is_not_finite_stays_so_and_harms_no_other():
    """NaN in, NaN out, no flag; the rows beside it are as without it."""
    density = bunches(64, 3)
    alone, _ = WCM.measure(density, REVOLUTION_HZ, np.random.default_rng(2))
    density[1] = np.nan
    profile, flags = WCM.measure(density, REVOLUTION_HZ, np.random.default_rng(2))
    assert np.isnan(profile[1]).all()
    assert not flags.any()
    assert np.isfinite(profile[[0, 2]]).all()
    assert profile.shape == alone.shape


def test_no_beam_gives_a_flat_profile():
    """Zeros have no peak: the noise, a fraction of it, is zero too, and nothing is divided by it."""
    profile, flags = WCM.measure(np.zeros((2, 64)), REVOLUTION_HZ, np.random.default_rng(0))
    step = (1.0 + FOOT) * WCM.full_scale[0] / (2**WCM.bits - 1)
    assert np.abs(profile).max() <= step
    assert not flags.any()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bandwidth_mhz": 0.0}, "bandwidth_mhz must be 1 to 1e"),
        ({"bandwidth_mhz": (50.0, math.inf)}, "bandwidth_mhz must be finite and in order"),
        ({"low_cutoff_khz": -1.0}, "low_cutoff_khz must be 0 to 1000 kHz, not -1"),
        ({"noise": 11.0}, "noise must be 0 to 10 of a profile's peak, not 11"),
        ({"baseline": "much"}, "baseline must be a number or a pair"),
        ({"trigger_jitter_ns": math.nan}, "trigger_jitter_ns must be finite"),
        ({"gain": (1.0, 2.0, 3.0)}, "gain must be a number or a pair"),
        ({"gain": (2.0, 1.0)}, "gain must be finite and in order"),
        ({"gain": 0.0}, "gain must be 0.001 to 1000 times the nominal gain, not 0"),
        ({"gain_drift": 1.0}, "gain_drift must be at least 0 and below 1"),
        ({"bits": 1}, "bits must be 0"),
        ({"bits": 8.0}, "bits must be a whole number"),
        ({"bits": True}, "bits must be a whole number"),
        ({"full_scale": math.inf}, "10 bits have to be spread over a range"),
        ({"bandwidth_mhz": 1.0, "low_cutoff_khz": 1e3}, "must be below bandwidth_mhz"),
    ],
)
def test_an_instrument_that_cannot_be_is_refused(values, words):
    """One sentence: which value, what is allowed."""
    with pytest.raises(UsageError, match=words):
        Monitor(**values)


def test_shapes_and_frequencies_that_do_not_fit_are_refused():
    """Two dimensions, as many instruments as rows, a frequency above 0."""
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"\[n, n_slices\]"):
        WCM.measure(np.zeros(64), REVOLUTION_HZ, rng)
    with pytest.raises(UsageError, match="rf_frequency_hz"):
        WCM.measure(np.zeros((2, 64)), [1e6, 0.0], rng)
    with pytest.raises(UsageError, match="3 instruments for 2 profiles"):
        WCM.measure(np.zeros((2, 64)), 1e6, rng, state=WCM.draw(3, rng))


def test_options_give_the_monitor_that_they_name():
    """A preset, values by name on a preset, a monitor; what does not exist is refused."""
    assert monitor_from(None) is WCM
    assert monitor_from("ideal") is IDEAL
    assert monitor_from({"preset": "ideal", "gain": (0.5, 1.0)}).gain == (0.5, 1.0)
    assert monitor_from({"bits": 8}) == dataclasses.replace(WCM, bits=8)
    assert monitor_from(WCM) is WCM
    with pytest.raises(UnknownNameError, match=r"no monitor 'idael'.*did you mean 'ideal'"):
        monitor_from("idael")
    with pytest.raises(UnknownNameError, match=r"'bandwith_mhz'.*did you mean 'bandwidth_mhz'"):
        monitor_from({"bandwith_mhz": 60})
    with pytest.raises(UsageError, match="an option of its own"):
        monitor_from({"noise": 0.1})
    with pytest.raises(UsageError, match="monitor must be one of ideal, wcm"):
        monitor_from(3)
    assert set(PRESETS) == {"ideal", "wcm"}


def test_a_command_line_gives_values_by_name():
    """A word is the preset, numbers are read as people write them."""
    texts = ["ideal", "bits=8", "gain=[5e-1, 2]", "bandwidth_mhz=inf", "bits=10"]
    assert named_values("--monitor", texts) == {
        "preset": "ideal",
        "bits": 10,
        "gain": [0.5, 2],
        "bandwidth_mhz": math.inf,
    }
    for text in ("bits=", "gain=[", "gain=[1, x]", "gain={a: 1}"):
        with pytest.raises(UsageError, match=r"--monitor '.*' is not of the form"):
            named_values("--monitor", [text])


def test_a_range_is_a_number_or_two():
    """Numbers and pairs in order; infinity only where it is allowed, and not in a pair."""
    assert as_range("x", 3) == (3.0, 3.0)
    assert as_range("x", math.inf, infinite=True) == (math.inf, math.inf)
    for value in (math.inf, (1.0, math.inf), "ab", True, None):
        with pytest.raises(UsageError, match="x must be"):
            as_range("x", value)


def test_the_points_of_a_cycle_are_seen_with_one_instrument():
    """Gain and range are the cycle's; unrelated rows have an instrument each."""
    options = {
        "n_slices": 64,
        "seed": 1,
        "noise": 0.0,
        "monitor": {"preset": "ideal", "gain": [0.2, 5.0]},
    }
    cycle = open_backend("blond", program="psb-2gev", points=4, **options).start()
    area = cycle.profile.sum(axis=1)
    assert np.ptp(area) / area.mean() < 1e-4
    rows = open_backend("blond", machine="psb", rows=4, **options).start()
    area = rows.profile.sum(axis=1)
    assert np.ptp(area) / area.mean() > 0.1


def test_a_seed_hides_the_same_behind_any_monitor():
    """Conditions, offsets and references do not depend on what profiles are seen with."""
    truths = []
    for monitor in ("wcm", "ideal", {"bits": 8, "gain": [0.5, 2.0], "gain_drift": 0.0}):
        backend = open_backend(
            "blond",
            machine="psb",
            rows=3,
            n_slices=64,
            seed=4,
            offset_drift_deg=1.0,
            monitor=monitor,
        )
        first = backend.start()
        backend.play(first.applied_rad + 0.1)
        truths.append(backend.start(mask=np.array([True, False, True])).truth)
    for truth in truths[1:]:
        np.testing.assert_array_equal(truth.offset_rad, truths[0].offset_rad)
        np.testing.assert_array_equal(truth.emittance_evs, truths[0].emittance_evs)
        np.testing.assert_array_equal(truth.reference_rad, truths[0].reference_rad)


def test_the_range_stays_as_it_was_set_at_the_start():
    """With no headroom, a higher peak than the first is cut and flagged; an equal one is not."""
    backend = open_backend(
        "blond",
        program="psb-2gev",
        points=2,
        n_slices=128,
        seed=1,
        offset_deg=-90.0,
        noise=0.0,
        intensity=1e11,
        monitor={"preset": "ideal", "full_scale": 1.0 + 1e-6},
    )
    first = backend.start()
    assert not first.quality.any()
    assert not backend.play(first.applied_rad).quality.any()
    top = first.profile.max()
    reading, step = first, min(backend.description.limits.step_rad, 0.5)
    for _ in range(5):
        reading = backend.play(reading.applied_rad + step)
        saturated = (reading.quality & Quality.SATURATED) != 0
        assert reading.profile.max() <= top * (1.0 + 1e-5)
        if saturated.any():
            break
    assert saturated.any()
    assert np.array_equal(reading.usable, ~saturated)
    assert reading.profile[saturated].max() == pytest.approx(top, rel=1e-5)


def test_along_the_cycle_the_range_is_set_point_by_point():
    """The bunch gets shorter along the ramp; a good instrument's range follows it, a poor one's not."""
    options = {"program": "psb-2gev", "along_cycle": True, "rows": 8, "n_slices": 64, "seed": 1}
    good = open_backend("blond", **options)
    flags = [good.start().quality] + [good.observe().quality for _ in range(29)]
    assert not (np.array(flags) & Quality.SATURATED).any()
    poor = open_backend("blond", monitor={"full_scale": 0.8}, **options)
    flags = [poor.start().quality] + [poor.observe().quality for _ in range(5)]
    assert (np.array(flags) & Quality.SATURATED).all()


def test_the_command_refuses_a_monitor_that_there_is_not():
    """`memrl-ctrl machine --monitor` names what is wrong before anything is opened."""
    with pytest.raises(UnknownNameError, match=r"'bit'.*did you mean 'bits'"):
        machine(monitor=["wcm", "bit=8"], quiet=True)
    with pytest.raises(UsageError, match="is not of the form"):
        machine(monitor=["bits="], quiet=True)


def test_saturated_rows_are_still_flagged_after_others_begin_anew():
    """A partial start leaves the instrument, the range and the flags of the other rows."""
    backend = open_backend(
        "blond", machine="psb", rows=6, n_slices=64, seed=2, monitor={"full_scale": 0.5}
    )
    first = backend.start()
    assert (first.quality & Quality.SATURATED).all()
    mask = np.array([True, False, False, True, False, False])
    second = backend.start(mask=mask)
    np.testing.assert_array_equal(second.profile[~mask], first.profile[~mask])
    assert (second.quality & Quality.SATURATED).all()
