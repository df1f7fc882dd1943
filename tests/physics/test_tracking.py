"""Turn-by-turn tracking: it keeps matched bunches, loses what it must, and is BLonD's."""

from dataclasses import replace

import numpy as np
import pytest

from memrl_backends.blond import tracker as engine
from memrl_backends.blond._import import blond, contained
from memrl_backends.blond.stretch import Stretch
from memrl_backends.blond.tracker import PhaseLoop, Tracker
from memrl_ctrl.beam import (
    Conditions,
    Machine,
    Resonator,
    bucket_area_evs,
    matched_profiles,
    reference_optimum,
    sample_particles,
)
from memrl_ctrl.errors import MissingExtraError, UsageError
from memrl_ctrl.program import PiecewiseLinear, load_program

SLICES = 256
MACHINE = Machine(
    space_charge_g=2.0,
    impedance=(Resonator(r_shunt_ohm=15.0, frequency_hz=3.0e6, q=0.6, count=36),),
)


@pytest.fixture(scope="module", autouse=True)
def _blond():
    try:
        blond()
    except MissingExtraError as error:
        pytest.skip(str(error))


def condition(field, b_dot, v2, filling, *, away_rad=0.0, intensity=9.0e12):
    """A condition `away_rad` from its optimum, with a filling of the bare bucket."""
    point = Conditions(
        b_field_t=field,
        b_dot_t_per_s=b_dot,
        v1_v=8.0e3,
        v2_v=v2,
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=intensity,
        machine=MACHINE,
    )
    best = reference_optimum(point.replace(emittance_evs=0.3 * bucket_area_evs(point)))
    point = point.replace(phi2_rad=best + away_rad)
    return point.replace(emittance_evs=filling * bucket_area_evs(point))


def matched(point, count, **options):
    return Tracker.matched(
        Stretch.constant(point),
        emittance_evs=float(point.emittance_evs[0]),
        intensity=float(point.intensity[0]),
        count=count,
        rng=np.random.default_rng(3),
        **options,
    )


def moments(density):
    """Mean and rms length, rad, of a line density over one turn."""
    step = 2.0 * np.pi / density.size
    phase = (np.arange(density.size) + 0.5) * step
    mean = density @ phase * step
    return mean, np.sqrt(density @ phase**2 * step - mean**2)


def mean_phase(tracker):
    """Mean RF phase of the bunch in the present turn, rad."""
    return moments(tracker.profile(512))[0]


def shot_noise(density, count):
    """Rms of a line density of so many particles, 1/rad."""
    step = 2.0 * np.pi / density.size
    return np.sqrt(np.mean(density * step / count)) / step


@pytest.mark.parametrize(
    ("field", "b_dot", "v2", "filling", "away_rad"),
    [(0.28, 0.4, 6.0e3, 0.3, 0.0), (0.50, 1.0, 6.0e3, 0.4, 0.5), (0.95, 3.0, 3.0e3, 0.5, 0.2)],
)
def test_matched_bunch_is_stationary(field, b_dot, v2, filling, away_rad):
    """At 9e12 protons, dense and near injection too, 1e5 particles keep the kernel's profile."""
    point = condition(field, b_dot, v2, filling, away_rad=away_rad)
    density = matched_profiles(point, SLICES).line_density[0].astype(np.float64)
    expected_mean, expected_length = moments(density)
    tracker = matched(point, 100_000)
    for _ in range(6):
        tracker.advance(500)
        tracked = tracker.profile(SLICES)
        rms = np.sqrt(np.mean((tracked - density) ** 2))
        mean, length = moments(tracked)
        assert rms <= shot_noise(density, 100_000) + 0.01 * density.max()
        assert abs(mean - expected_mean) <= 0.003 * 2.0 * np.pi
        assert abs(length / expected_length - 1.0) <= 0.01
    assert tracker.surviving_fraction >= 0.9999


def test_too_many_wake_harmonics_heat_the_bunch_and_the_default_does_not():
    """With harmonics up to half the slices shot noise lengthens a dense bunch; by default not."""
    point = condition(0.28, 0.4, 6.0e3, 0.3)
    spread = {}
    for name, options in {"full": {"wake_harmonics": 256}, "default": {}}.items():
        tracker = matched(point, 20_000, wake_slices=512, **options)
        before = np.std(tracker.particles()[1])
        tracker.advance(1_500)
        spread[name] = np.std(tracker.particles()[1]) / before - 1.0
    assert spread["full"] > 0.10
    assert abs(spread["default"]) < 0.02


def ramp(start_ms, end_ms, intensity, phi2_rad=None):
    """A stretch of the shipped 2 GeV cycle near its optimum, and its control points."""
    program = load_program("psb-2gev")
    ctime = np.linspace(start_ms, end_ms, 4)
    at = program.at(ctime)
    points = Conditions(
        b_field_t=at.b_field_t,
        b_dot_t_per_s=at.b_dot_t_per_s,
        v1_v=at.v1_v,
        v2_v=at.v2_v,
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=intensity,
        machine=program.machine.ring,
        gamma_transition=at.gamma_transition,
    )
    best = reference_optimum(points) if phi2_rad is None else np.full(4, phi2_rad)
    return Stretch.of_program(
        program, start_ms, end_ms, PiecewiseLinear(ctime_ms=ctime, value=best)
    )


@pytest.mark.slow
def test_bunch_follows_the_kernel_along_the_ramp():
    """Along 4 ms of the ramp with the loop closed the tracked bunch is what the kernel says."""
    stretch = ramp(400.0, 404.0, 5.0e12)
    tracker = Tracker.matched(
        stretch,
        emittance_evs=1.0,
        intensity=5.0e12,
        count=100_000,
        rng=np.random.default_rng(1),
        phase_loop=PhaseLoop(),
    )
    tracker.advance(stretch.length - 10)
    tracked = tracker.profile(SLICES, 10)
    kernel = matched_profiles(
        stretch.conditions(tracker.turn, emittance_evs=1.0, intensity=5.0e12), SLICES
    )
    density = kernel.line_density[0].astype(np.float64)
    rms = np.sqrt(np.mean((tracked - density) ** 2))
    assert tracker.ctime_ms == pytest.approx(404.0, abs=0.002)
    assert rms <= shot_noise(density, 100_000) + 0.01 * density.max()
    assert abs(moments(tracked)[0] - moments(density)[0]) <= 0.003 * 2.0 * np.pi
    assert moments(tracked)[1] == pytest.approx(moments(density)[1], rel=0.01)


def test_particles_go_where_a_plain_loop_of_blond_takes_them():
    """Without intensity effects each particle is where BLonD takes it, across two refreshes."""
    b, turns = blond(), 2 * engine.REFRESH + 100
    stretch = ramp(400.0, 401.0, 0.0, phi2_rad=-0.3)
    first = stretch.conditions(0, emittance_evs=0.8, intensity=0.0)
    dt, de = sample_particles(first, 500, np.random.default_rng(2), intensity_effects=False)
    tracker = Tracker(stretch, dt, de, 0.0, wake_slices=1024)
    tracker.advance(turns)
    now, machine = stretch.turns(0, turns + 1), stretch.machine
    with contained():
        ring = b.Ring(
            machine.circumference_m,
            now.gamma_transition[None, :] ** -2.0,
            now.momentum_ev,
            b.Proton(),
            turns,
        )
        rf = b.RFStation(
            ring,
            [1, 2],
            [now.v1_v, now.v2_v],
            [np.full(turns + 1, np.pi), np.pi + now.phi2_rad],
            n_rf=2,
        )
        beam = b.Beam(ring, dt.size, 0.0)
        beam.dt[:], beam.dE[:] = dt, de
        plain = b.RingAndRFTracker(rf, beam)
        for _ in range(turns):
            plain.track()
    ours_dt, ours_de = tracker.particles()
    assert ours_dt.size == dt.size
    # The bunch is 5e-7 s long; the interpolated voltage is a little below the sine.
    assert np.abs(ours_dt - beam.dt).max() < 1e-9
    assert np.abs(ours_de - beam.dE).max() < 0.003 * np.abs(de).max()


@pytest.mark.parametrize(
    ("gain_per_s", "turns"),
    [pytest.param(330.0, 8_000, marks=pytest.mark.slow), (4.0e4, 400)],
)
def test_phase_loop_damps_an_injected_offset(gain_per_s, turns):
    """A short bunch kicked 10 degrees off swings on without the loop, and much less with it."""
    point = Conditions(
        b_field_t=0.4,
        b_dot_t_per_s=0.0,
        v1_v=8.0e3,
        v2_v=0.0,
        phi2_rad=0.0,
        emittance_evs=0.03,
        intensity=1.0e11,
        machine=MACHINE,
    )
    off_s = np.radians(10.0) / (2.0 * np.pi * point.rf_frequency_hz[0])
    swing = {}
    for name, loop in {"open": None, "closed": PhaseLoop(gain_per_s=gain_per_s)}.items():
        tracker = matched(point, 2_000, phase_loop=loop)
        # After the loop has settled on the phase it found.
        tracker._parts.beam.dt += off_s
        tracker.advance(turns)
        phases = []
        for _ in range(60):
            tracker.advance(25)
            phases.append(mean_phase(tracker))
        swing[name] = np.ptp(phases)
    assert swing["open"] > np.radians(15.0)
    assert swing["closed"] < 0.5 * swing["open"]


@pytest.mark.slow
def test_a_gain_too_high_drives_a_bunch_in_two_harmonics_away():
    """At V2/V1 = 0.8 the default gain keeps the bunch; BLonD's test gain loses it within 20 ms."""
    program = load_program("psb-2gev")
    phi2 = PiecewiseLinear(ctime_ms=[275.0, 285.0, 300.0], value=np.radians([-4.3, -11.8, -17.0]))
    stretch = Stretch.of_program(program, 275.0, 295.0, phi2)
    longer = {}
    for gain_per_s in (330.0, 4.0e4):
        tracker = Tracker.matched(
            stretch,
            emittance_evs=1.3,
            intensity=6.0e12,
            count=5_000,
            rng=np.random.default_rng(1),
            phase_loop=PhaseLoop(gain_per_s=gain_per_s),
        )
        tracker.advance(stretch.length - 10)
        here = stretch.conditions(tracker.turn, emittance_evs=1.3, intensity=6.0e12)
        density = matched_profiles(here, 64).line_density[0].astype(np.float64)
        longer[gain_per_s] = moments(tracker.profile(64, 10))[1] / moments(density)[1] - 1.0
    assert abs(longer[330.0]) < 0.02
    assert longer[4.0e4] > 0.05


def shrinking(point, v1_end, turns):
    """A stretch in which both voltages fall while Bdot stays."""
    constant = Stretch.constant(point).values
    share = np.array([1.0, v1_end / float(point.v1_v[0]), v1_end / float(point.v1_v[0])])

    def stay(value):
        return np.full(3, value[0])

    return Stretch(
        machine=point.machine,
        turn=np.array([0.0, turns, 1.5 * turns]),
        ctime_ms=np.array([0.0, 1.0, 1.5]),
        values=replace(
            constant,
            momentum_ev=stay(constant.momentum_ev),
            energy_gain_ev=stay(constant.energy_gain_ev),
            v1_v=constant.v1_v[0] * share,
            v2_v=constant.v2_v[0] * share,
            phi2_rad=stay(constant.phi2_rad),
            gamma_transition=stay(constant.gamma_transition),
        ),
    )


def test_losses_are_counted_when_the_bucket_shrinks():
    """What a shrinking bucket spills is gone from particles and intensity; the kernel agrees."""
    point = condition(0.5, 2.0, 4.0e3, 0.8, intensity=3.0e12)
    stretch = shrinking(point, 5.0e3, 4_000)
    emittance = float(point.emittance_evs[0])
    tracker = Tracker.matched(
        stretch,
        emittance_evs=emittance,
        intensity=3.0e12,
        count=20_000,
        rng=np.random.default_rng(4),
    )
    assert tracker.surviving_fraction == 1.0
    tracker.advance(stretch.length)
    end = matched_profiles(
        stretch.conditions(stretch.length, emittance_evs=emittance, intensity=3.0e12), 64
    )
    held = end.captured_fraction[0]
    assert held < 0.8
    # f(H) ~ sqrt(H0 - H): the outer area holds fewer particles than its share.
    assert held - 0.05 < tracker.surviving_fraction < 0.97
    assert tracker.particles()[0].size == round(tracker.surviving_fraction * 20_000)
    assert tracker.intensity == pytest.approx(3.0e12 * tracker.surviving_fraction)
    assert tracker.profile(64).sum() * 2.0 * np.pi / 64 == pytest.approx(1.0)


def test_nothing_is_left_without_a_bucket():
    """Where the bucket is gone all is lost, the profile is NaN, and tracking goes on in peace."""
    point = condition(0.5, 2.0, 4.0e3, 0.5, intensity=3.0e12)
    stretch = shrinking(point, 1.0e3, 2_000)
    tracker = Tracker.matched(
        stretch,
        emittance_evs=float(point.emittance_evs[0]),
        intensity=3.0e12,
        count=2_000,
        rng=np.random.default_rng(4),
        phase_loop=PhaseLoop(),
    )
    tracker.advance(stretch.length)
    assert tracker.surviving_fraction == 0.0
    assert tracker.intensity == 0.0
    assert np.isnan(tracker.profile(64)).all()


def test_a_seed_reproduces_the_particles_and_pieces_do_not_matter():
    """The same seed tracks to the same particles, bit for bit, in one piece or in several."""
    point = condition(0.4, 1.0, 4.0e3, 0.5)
    one = matched(point, 2_000, phase_loop=PhaseLoop())
    several = matched(point, 2_000, phase_loop=PhaseLoop())
    one.advance(700)
    for turns in (1, 299, 0, 400):
        several.advance(turns)
    for a, b in zip(one.particles(), several.particles(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.rf_phase_offset_rad == several.rf_phase_offset_rad != 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wake_slices": 31}, "wake_slices is 31"),
        ({"wake_harmonics": 300}, "wake_harmonics is 300; allowed is 1 to 256"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_impossible_options_are_named(options, words):
    """What cannot be tracked is refused in one sentence."""
    with pytest.raises(UsageError, match=words):
        matched(condition(0.4, 1.0, 4.0e3, 0.5), 200, **options)


def test_a_stretch_does_not_go_on_beyond_its_end():
    """More turns than the stretch has are refused, and so is a stretch without length."""
    stretch = ramp(400.0, 400.2, 0.0, phi2_rad=0.0)
    tracker = Tracker.matched(
        stretch, emittance_evs=0.5, intensity=0.0, count=200, rng=np.random.default_rng(1)
    )
    with pytest.raises(UsageError, match="the stretch has"):
        tracker.advance(stretch.length + 1)
    zero = PiecewiseLinear(ctime_ms=[0.0, 1.0], value=[0.0, 0.0], beyond="hold")
    with pytest.raises(UsageError, match="has no length"):
        Stretch.of_program(load_program("psb-2gev"), 400.0, 400.0, zero)
