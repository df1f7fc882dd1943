"""Each fault does what it says, when and where it says, to any backend, and again with the same seed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_backends.replay import open_backend as open_replay
from memrl_backends.twin import open_backend, with_faults
from memrl_backends.twin.faults import (
    KINDS,
    CavityTrip,
    DeadPickup,
    Fault,
    FlippedPolarity,
    FrozenProfile,
    LateReading,
    MissingReading,
    NanProfile,
    NoiseBurst,
    OffsetJump,
    Operator,
    SetpointIgnored,
)
from memrl_backends.twin.faulty import Timing
from memrl_ctrl.backend import Quality, Reading
from memrl_ctrl.env import BeamCycleVectorEnv, BeamPhaseVectorEnv
from memrl_ctrl.errors import RefusalReason, Refused, UsageError
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.testing.traces import write_sample_journal

POINTS, SLICES = 5, 32
ARRAYS = ("profile", "quality", "setpoint_rad", "applied_rad", "readback_rad")


def fake(**options) -> FakeBackend:
    return FakeBackend(**{"points": POINTS, "n_slices": SLICES, "noise": 0.01, **options})


def readings(faults: list[Fault], count: int, **options) -> dict[int, Reading]:
    """The first cycles with faults, by their number; those that nobody saw are not there."""
    backend = with_faults(fake(**options), faults, seed=3)
    seen = [backend.start()]
    while seen[-1].cycle < count:
        seen.append(backend.observe())
    return {reading.cycle: reading for reading in seen}


def healthy(count: int) -> dict[int, Reading]:
    return readings([], count)


def differing(faults: list[Fault], count: int = 9) -> list[int]:
    """Cycles whose profiles or flags are not those of a healthy run."""
    good = healthy(count)
    return [
        cycle
        for cycle, reading in readings(faults, count).items()
        if not (
            np.array_equal(reading.profile, good[cycle].profile, equal_nan=True)
            and np.array_equal(reading.quality, good[cycle].quality)
        )
    ]


def test_no_fault_changes_nothing():
    """Without faults the wrapper delivers the backend's readings to the bit."""
    backend = fake()
    plain = [backend.start(), backend.observe(), backend.observe()]
    for reading, wrapped in zip(plain, healthy(3).values(), strict=True):
        for name in ARRAYS:
            assert np.array_equal(getattr(reading, name), getattr(wrapped, name))


@pytest.mark.parametrize("kind", [FlippedPolarity, NoiseBurst, DeadPickup, LateReading, NanProfile])
def test_a_fault_happens_at_its_cycles_and_no_other(kind):
    """at_cycle, for_cycles and every_cycles count from 1, the first reading."""
    assert differing([kind(at_cycle=(3,))]) == [3]
    assert differing([kind(at_cycle=(1, 5), for_cycles=2)]) == [1, 2, 5, 6]
    assert differing([kind(at_cycle=(2,), every_cycles=3)]) == [2, 5, 8]


@pytest.mark.parametrize(
    "kind", [FlippedPolarity, NoiseBurst, DeadPickup, NanProfile, FrozenProfile]
)
def test_a_fault_happens_at_its_points_and_no_other(kind):
    """Profiles and flags of other points are left alone."""
    good = healthy(4)[4]
    reading = readings([kind(at_cycle=(4,), points=(1, 3))], 4)[4]
    same = [np.array_equal(a, b) for a, b in zip(reading.profile, good.profile, strict=True)]
    assert same == [True, False, True, False, True]
    assert np.array_equal(reading.quality[[0, 2, 4]], good.quality[[0, 2, 4]])


def test_a_missing_reading_is_a_hole():
    """Cycles whose reading is missing are played, and not seen."""
    seen = readings([MissingReading(at_cycle=(3,), for_cycles=2)], 6)
    assert list(seen) == [1, 2, 5, 6]


def test_a_function_set_for_a_missing_cycle_plays():
    """What is written for a cycle is applied whether or not its reading comes."""
    backend = with_faults(fake(), [MissingReading(at_cycle=(2,))])
    first = backend.start()
    after = backend.play(first.applied_rad + 0.2)
    assert after.cycle == 3
    assert np.allclose(after.applied_rad, first.applied_rad + 0.2)


def test_points_without_a_reading_are_flagged():
    """Single points that are missing are NaN and flagged; the others come."""
    reading = readings([MissingReading(at_cycle=(2,), points=(0,))], 2)[2]
    assert np.isnan(reading.profile[0]).all()
    assert reading.quality[0] & Quality.MISSING
    assert list(reading.usable) == [False, True, True, True, True]


def test_a_frozen_profile_is_the_last_good_one():
    """The profiles of the cycle before come again; flagged only where the machine notices."""
    good = healthy(6)
    seen = readings([FrozenProfile(at_cycle=(4,), for_cycles=2)], 6)
    for cycle in (4, 5):
        assert np.array_equal(seen[cycle].profile, good[3].profile)
        assert (seen[cycle].quality == 0).all()
    assert np.array_equal(seen[6].profile, good[6].profile)
    flagged = readings([FrozenProfile(at_cycle=(4,), flagged=True)], 4)[4]
    assert (flagged.quality == Quality.STALE).all()


def test_nan_slices_are_flagged_and_as_many_as_said():
    """A share of each profile's slices is NaN."""
    reading = readings([NanProfile(at_cycle=(2,), share=0.25)], 2)[2]
    assert (np.isnan(reading.profile).sum(axis=1) == SLICES // 4).all()
    assert (reading.quality == Quality.NOT_FINITE).all()


def test_a_dead_pickup_is_flat():
    """No trace of the bunch is left, and the noise is what was said."""
    good = healthy(2)[2]
    reading = readings([DeadPickup(at_cycle=(2,), noise=0.05, flagged=True)], 2)[2]
    spread = reading.profile.std() / good.profile.max()
    assert spread == pytest.approx(0.05, rel=0.3)
    assert abs(np.corrcoef(reading.profile.ravel(), good.profile.ravel())[0, 1]) < 0.3
    assert (reading.quality == Quality.DEAD).all()
    silent = readings([DeadPickup(at_cycle=(2,), noise=0.0)], 2)[2]
    assert (silent.profile == 0.0).all()


def test_noise_and_polarity():
    """A burst adds what was said on average; a flipped polarity is the negative."""
    good = healthy(2)[2].profile
    burst = readings([NoiseBurst(at_cycle=(2,), noise=0.4)], 2)[2].profile
    assert (burst - good).std() / good.max() == pytest.approx(0.4, rel=0.25)
    assert np.array_equal(readings([FlippedPolarity(at_cycle=(2,))], 2)[2].profile, -good)


def test_an_offset_jump_moves_the_beam_not_the_knob():
    """phi_2 moves back by the jump and stays there; phi_hw and its readback do not move."""
    seen = readings([OffsetJump(at_cycle=(3,), offset_deg=40.0)], 5)
    moved = [np.degrees(seen[c].truth.phi2_rad - seen[1].truth.phi2_rad) for c in range(1, 6)]
    assert np.allclose(moved, np.array([0, 0, -40, -40, -40])[:, None])
    assert all(np.array_equal(r.readback_rad, seen[1].readback_rad) for r in seen.values())


def test_a_trip_takes_the_second_harmonic_away_and_gives_it_back():
    """No phase of phi_2 changes a profile while the cavity is off; recovery goes by equal steps."""
    trip = CavityTrip(at_cycle=(3,), for_cycles=2, recovery_cycles=3)
    ages = np.arange(-1, 6)
    assert np.allclose(trip.v2_factor(ages), [1, 0, 0, 0.25, 0.5, 0.75, 1.0])
    good = healthy(9)
    seen = readings([trip], 9)
    changed = [c for c in seen if not np.array_equal(seen[c].profile, good[c].profile)]
    assert changed == [3, 4, 5, 6, 7]


def test_an_ignored_setpoint_is_asked_for_but_not_played():
    """Setpoint is what was asked for, applied and readback what goes on playing."""
    backend = with_faults(fake(), [SetpointIgnored(at_cycle=(2,), for_cycles=2)])
    first = backend.start()
    wanted = first.applied_rad + 0.2
    for _ in range(2):
        reading = backend.play(wanted)
        assert np.array_equal(reading.setpoint_rad, wanted)
        assert np.array_equal(reading.applied_rad, first.applied_rad)
        assert np.array_equal(reading.readback_rad, first.applied_rad)
    assert np.array_equal(backend.play(wanted).readback_rad, wanted)


def test_an_operator_turns_the_knob_on_top_of_what_is_written():
    """The change adds to what plays, every cycle it lasts, and stays."""
    backend = with_faults(fake(), [Operator(at_cycle=(2,), for_cycles=2, change_deg=10.0)])
    start = backend.start().applied_rad
    ten = math.radians(10.0)
    written = backend.play(start + 0.1)
    assert np.allclose(written.applied_rad, start + 0.1 + ten)
    assert np.allclose(backend.observe().applied_rad, start + 0.1 + 2 * ten)
    assert np.allclose(backend.observe().applied_rad, start + 0.1 + 2 * ten)


def test_an_operator_keeps_within_the_limits():
    """Nobody's hand gets past the machine's limits: the step is cut, not refused."""
    backend = with_faults(fake(), [Operator(at_cycle=(2,), for_cycles=200, change_deg=170.0)])
    limits = backend.description.limits
    last = backend.start()
    for _ in range(20):
        reading = backend.observe()
        limits.check(reading.applied_rad, last.applied_rad, backend.description.ctime_ms)
        last = reading
    assert np.allclose(last.applied_rad, limits.max_rad)


def test_a_late_reading_is_flagged_and_waited_for():
    """Where cycles take their time a reading comes when it should, a late one later, a missing never."""
    clock = [100.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    timing = Timing(period_s=1.2, reading_at_s=0.85, now_s=lambda: clock[0], sleep=sleep)
    faults = [LateReading(at_cycle=(3,), delay_s=0.2), MissingReading(at_cycle=(4,))]
    backend = with_faults(fake(), faults, timing=timing)
    backend.start()
    waits, flags = [], []
    for _ in range(3):
        before = clock[0]
        reading = backend.observe()
        waits.append(round(clock[0] - before, 6))
        flags.append(bool((reading.quality & Quality.LATE).all()))
    assert waits == [0.85, 1.05, 2.05]
    assert flags == [False, True, False]
    assert reading.cycle == 5


def test_a_seed_brings_the_same_again_and_another_does_not():
    """The same scenario and seed: identical readings; random faults and the physics alike."""

    def run(seed: int) -> list[Reading]:
        options = {"points": 4, "n_slices": 64, "offset_jitter_deg": 1.0, "intensity_scatter": 0.02}
        backend = open_backend(scenario="bad-sensors", seed=seed, **options)
        first = backend.start()
        return [first, *(backend.play(first.applied_rad + 0.01 * i) for i in range(25))]

    one, two, other = run(5), run(5), run(6)
    for a, b in zip(one, two, strict=True):
        assert a.cycle == b.cycle
        for name in ARRAYS:
            assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
    assert any((r.quality != 0).any() for r in one)
    assert not np.array_equal(one[-1].profile, other[-1].profile)


def test_start_with_a_seed_repeats_random_faults():
    """An episode is known from its seed."""
    backend = with_faults(fake(related=False), [NoiseBurst(probability=0.3)])

    def episode() -> list[np.ndarray]:
        return [backend.start(seed=9).profile, *(backend.observe().profile for _ in range(12))]

    assert all(np.array_equal(a, b) for a, b in zip(episode(), episode(), strict=True))


def test_rows_fail_each_on_its_own():
    """Unrelated rows count their own cycles and draw their own faults."""
    backend = with_faults(fake(related=False, noise=0.0), [FlippedPolarity(at_cycle=(3,))])
    backend.start()
    backend.observe()
    mask = np.array([False, True, False, False, True])
    backend.start(mask=mask)  # cycle 1 of these rows
    third = backend.observe()
    flipped = third.profile.sum(axis=1) < 0
    assert np.array_equal(flipped, ~mask)
    fourth = backend.observe()
    assert np.array_equal(fourth.profile.sum(axis=1) < 0, mask)
    noisy = with_faults(fake(points=200, related=False, noise=0.0), [NoiseBurst(probability=0.2)])
    clean = fake(points=200, related=False, noise=0.0)
    noisy.start(), clean.start()
    hit = (noisy.observe().profile != clean.observe().profile).any(axis=1)
    assert 15 <= hit.sum() <= 70


@given(probability=st.floats(0.01, 1.0), span=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_random_faults_stay_as_long_as_they_should(probability, span, seed):
    """A random fault lasts its cycles, and begins anew only when it has ended."""
    fault = FlippedPolarity(probability=probability, for_cycles=span)
    backend = with_faults(fake(points=1, related=False, noise=0.0), [fault], seed=seed)
    bad = [bool(backend.start().profile.sum() < 0)]
    bad += [bool(backend.observe().profile.sum() < 0) for _ in range(40)]
    text = "".join("x" if b else "." for b in bad).rstrip("x")
    runs = [len(run) for run in text.split(".") if run]
    assert all(run % span == 0 or run >= span for run in runs)


def test_training_with_faults_goes_on():
    """Environments take the twin as their backend: observations stay finite, rewards too."""
    options = {"backend": "twin", "scenario": "bad-sensors", "seed": 3}
    envs = [
        BeamPhaseVectorEnv(num_envs=16, n_slices=64, **options),
        BeamCycleVectorEnv(num_envs=4, n_slices=64, points=4, **options),
    ]
    for env in envs:
        observation, _ = env.reset(seed=1)
        blank = 0
        for _ in range(40):
            action = np.zeros((env.num_envs, 1), dtype=np.float32)
            observation, reward, *_ = env.step(action)
            assert np.isfinite(observation).all()
            assert np.isfinite(reward).all()
            blank += int((observation[:, :-1] == 0.0).all(axis=1).sum())
        assert blank > 0
        env.close()


def test_a_recording_has_sensor_faults_only(tmp_path):
    """Reading faults happen to a replay; it has no RF that could trip."""
    journal = tmp_path / "run.journal"
    write_sample_journal(journal)
    replay = open_replay(trace=journal)
    backend = with_faults(replay, [FlippedPolarity(at_cycle=(3,))])
    backend.start()
    backend.observe()
    assert backend.observe().profile[1].sum() < 0
    with pytest.raises(UsageError, match=r"fault 1 \(cavity_trip\) is one of the RF, which only a"):
        with_faults(replay, [CavityTrip(at_cycle=(3,))])


def test_cycles_that_nobody_saw_count():
    """On a machine that skips cycles, stated cycles are those of the machine."""

    class Skipping(FakeBackend):
        def observe(self, timeout_s: float | None = None) -> Reading:
            super().observe(timeout_s)
            return replace(super().observe(timeout_s), truth=None)

    backend = with_faults(Skipping(points=2), [FlippedPolarity(at_cycle=(5,))])
    backend.start()
    seen = {r.cycle: r.profile.sum() < 0 for r in (backend.observe(), backend.observe())}
    assert seen == {3: False, 5: True}


def test_a_later_cycle_is_refused_where_the_knob_may_fail():
    """With faults of the RF only the next cycle can be set."""
    backend = with_faults(fake(), [SetpointIgnored(at_cycle=(9,))])
    first = backend.start()
    with pytest.raises(Refused, match="only cycle 2 can be set now") as refused:
        backend.submit(first.applied_rad, 3, 1.0)
    assert refused.value.reason is RefusalReason.INVALID


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "give either at_cycle or a probability above 0"),
        ({"at_cycle": (1,), "probability": 0.1}, "give either at_cycle or a probability above 0"),
        ({"probability": 1.5}, "probability must be between 0 and 1, not 1.5"),
        ({"at_cycle": (0,)}, "at_cycle counts from 1, the first reading; 0 is none"),
        ({"at_cycle": (1,), "for_cycles": 0}, "for_cycles must be at least 1, not 0"),
        ({"probability": 0.1, "every_cycles": 3}, "every_cycles repeats what at_cycle begins"),
        ({"at_cycle": (1,), "for_cycles": 5, "every_cycles": 3}, "every_cycles 3 is shorter than"),
        ({"at_cycle": (1,), "points": ()}, "points must be control points from 0 on"),
    ],
)
@pytest.mark.parametrize("kind", [k for k in KINDS.values() if k is not CavityTrip])
def test_what_never_happens_is_refused(kind, values, said):
    """When and where are checked for every kind."""
    with pytest.raises(UsageError, match=said):
        kind(**values)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            FlippedPolarity(at_cycle=(1,), points=(5,)),
            r"fault 1 \(flipped_polarity\) is at point 5; ",
        ),
        (MissingReading(at_cycle=(1,)), "a run begins with its first reading"),
    ],
)
def test_what_cannot_happen_to_a_backend_is_refused(fault, said):
    """A point that is not there, or a run without a beginning, is one sentence."""
    with pytest.raises(UsageError, match=said):
        with_faults(fake(), [fault])


def test_looking_at_a_machine_takes_no_control():
    """Around a machine `observe` only looks; `start`, which takes control, is left to who asks for it."""

    class Machine:
        def __init__(self) -> None:
            self.inside, self.started = fake(), 0
            self.description = self.inside.description

        def start(self, seed=None, mask=None, options=None) -> Reading:
            self.started += 1
            return replace(self.inside.start(), truth=None)

        def observe(self, timeout_s: float | None = None) -> Reading:
            return replace(self.inside.observe(timeout_s), truth=None)

    machine = Machine()
    backend = with_faults(machine, [FlippedPolarity(at_cycle=(2,))])
    flipped = [bool(backend.observe().profile.sum() < 0) for _ in range(3)]
    assert flipped == [False, True, False]
    assert machine.started == 0
