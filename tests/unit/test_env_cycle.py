"""memrl/BeamCycle-v0: the same bunch along the cycle, what it loses on its way, and what is refused."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import memrl_ctrl  # noqa: F401 - registers the environments
from memrl_backends.blond.along import open_along
from memrl_backends.blond.backend import Matched
from memrl_backends.blond.scenario import Scenario
from memrl_ctrl.angles import wrap
from memrl_ctrl.backend import AlongCycle
from memrl_ctrl.beam import Conditions, matched_profiles, reference_optimum
from memrl_ctrl.config import resolve
from memrl_ctrl.env import BeamCycleEnv, BeamCycleVectorEnv, BeamPhaseEnv
from memrl_ctrl.errors import RefusalReason, Refused, UnknownNameError, UsageError
from memrl_ctrl.program import load_program
from memrl_ctrl.registry import open_backend
from memrl_ctrl.testing import FakeBackend

ENV = "memrl/BeamCycle-v0"
PROGRAM = "psb-2gev"


def make(**options):
    return gymnasium.make(ENV, **{"n_slices": 64, "seed": 1, **options})


def along(**options):
    return open_backend(
        "blond", **{"along_cycle": True, "rows": 4, "n_slices": 64, "seed": 1, **options}
    )


def conditions_at(ctime_ms, truth):
    """The kernel's conditions for a bunch at one ctime of the program, straight from its file."""
    program = load_program(PROGRAM)
    at = program.at(ctime_ms)
    return Conditions(
        b_field_t=at.b_field_t,
        b_dot_t_per_s=at.b_dot_t_per_s,
        v1_v=at.v1_v,
        v2_v=at.v2_v,
        gamma_transition=at.gamma_transition,
        phi2_rad=truth.phi2_rad,
        emittance_evs=truth.emittance_evs,
        intensity=truth.intensity,
        machine=program.machine.ring,
    )


def test_gymnasium_accepts_the_environment():
    """Gymnasium's own checker passes, with warnings as errors."""
    with make() as env:
        check_env(env.unwrapped)


def test_stable_baselines3_accepts_and_trains_on_it():
    """A foreign library checks the environment and trains on it unchanged."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import TD3
    from stable_baselines3.common.env_checker import check_env as check_foreign

    env = make(points=6)
    check_foreign(env.unwrapped)
    model = TD3("MlpPolicy", env, learning_starts=20, batch_size=16, seed=0, device="cpu")
    model.learn(total_timesteps=60)
    assert model.num_timesteps == 60


def test_an_episode_is_one_passage_through_the_control_points():
    """The ctimes of an episode are the program's control points; its end is truncation."""
    with make() as env:
        _, info = env.reset()
        ctimes, ends = [info["ctime_ms"]], []
        while not ends or not any(ends[-1]):
            _, _, *end, info = env.step(np.zeros(1, dtype=np.float32))
            ctimes.append(info["ctime_ms"])
            ends.append(end)
    np.testing.assert_array_equal(ctimes, load_program(PROGRAM).control_points_ms)
    assert ends == [[False, False]] * 28 + [[False, True]]


def test_the_same_bunch_arrives_everywhere_when_nothing_is_lost():
    """Emittance, intensity and offset stay along the passage while the bucket holds the bunch."""
    with make(filling=0.3) as env:
        env.reset(seed=2)
        task = env.unwrapped.task
        first = task.reading.truth
        for _ in range(29):
            error = task.known_error_rad()
            env.step((-error / task.max_step_rad).astype(np.float32))
            truth = task.reading.truth
            for name in ("emittance_evs", "intensity", "offset_rad"):
                assert getattr(truth, name) == getattr(first, name)


def test_without_an_action_phi_hw_is_the_function_plus_the_correction():
    """The correction holds and the program's function goes on; an action adds to the correction."""
    program = load_program(PROGRAM)
    own = program.at().phi_hw_rad
    with make() as env:
        env.reset()
        task = env.unwrapped.task
        assert task.reading.applied_rad[0] == own[0]
        corrections = []
        for action in (0.25, 0.0, 0.0, -0.5, 0.0):
            *_, info = env.step(np.array([action], dtype=np.float32))
            point = len(corrections) + 1
            corrections.append(math.degrees(task.reading.applied_rad[0] - own[point]))
            assert math.degrees(info["applied"][0]) == pytest.approx(90.0 * action, abs=1e-4)
    assert corrections == pytest.approx([22.5, 22.5, 22.5, -22.5, -22.5])
    assert np.ptp(own) > math.radians(10.0)


def test_what_a_bucket_does_not_hold_is_lost_for_the_rest_of_the_passage():
    """At each point emittance and intensity are those of the point before times what it captured."""
    backend = along(program=PROGRAM, filling=0.9, offset_deg=180.0, rows=1)
    reading = backend.start()
    assert isinstance(backend, AlongCycle)
    lost = 0
    for _ in range(12):
        before, where = reading.truth, backend.row_ctime_ms
        captured = matched_profiles(conditions_at(where, before), 64).captured_fraction
        lost += int(captured[0] < 0.99)
        reading = backend.play(backend.held_rad)
        for name in ("emittance_evs", "intensity"):
            expected = getattr(before, name) * captured
            assert getattr(reading.truth, name) == pytest.approx(expected, rel=1e-9)
    assert lost > 0
    injected = backend.start(seed=1).truth.emittance_evs[0]
    assert reading.truth.emittance_evs[0] < 0.97 * injected


@pytest.mark.parametrize(
    ("converged", "share", "left"), [(True, 0.5, 0.25), (True, 0.0, 0.01), (False, 0.5, 1.0)]
)
def test_losses_end_at_a_hundredth_and_need_a_matched_bunch(converged, share, left):
    """Halved twice is a quarter; what is lost whole stays at 1 %; an unmatched point loses nothing."""

    def capture(conditions, n_slices, _threads, _rng):
        profile = matched_profiles(conditions, n_slices).line_density
        rows = len(conditions)
        return Matched(profile, np.full(rows, converged), np.full(rows, share))

    program = load_program(PROGRAM)
    backend = open_along(
        machine=program.machine,
        programs=[program],
        ctime_ms=[program.control_points_ms],
        scenario=Scenario(filling=(0.5, 0.9)),
        reference=None,
        rows=2,
        n_slices=64,
        fidelity="matched",
        seed=0,
        threads=1,
        profiles=capture,
    )
    first = backend.start().truth
    for _ in range(2):
        last = backend.play(backend.held_rad).truth
    assert last.emittance_evs / first.emittance_evs == pytest.approx(left)
    assert last.intensity / first.intensity == pytest.approx(left)


def test_the_profile_of_what_was_captured_is_the_one_that_was_seen():
    """A bunch that has shed what did not fit makes the same profile at the same point again."""
    backend = along(program=PROGRAM, filling=0.9, offset_deg=180.0, rows=1)
    truth, where = backend.start().truth, backend.row_ctime_ms
    overfull = conditions_at(where, truth)
    first = matched_profiles(overfull, 128)
    share = first.captured_fraction
    assert share[0] < 0.99
    kept = overfull.replace(
        emittance_evs=overfull.emittance_evs * share, intensity=overfull.intensity * share
    )
    second = matched_profiles(kept, 128)
    # At the bucket's very edge the bunch is as long as the last grid point says.
    difference = np.abs(second.line_density - first.line_density).max()
    assert difference < 0.02 * first.line_density.max()


def test_the_reference_is_that_of_what_is_left():
    """At every point the truth's reference optimum is the kernel's, for the bunch as it is there."""
    backend = along(program=PROGRAM, filling=0.9, rows=8)
    reading = backend.start()
    for _ in range(4):
        reading = backend.play(backend.held_rad)
    expected = reference_optimum(conditions_at(backend.row_ctime_ms, reading.truth))
    np.testing.assert_array_equal(reading.truth.reference_rad, expected)


def test_the_error_ahead_is_the_one_that_follows_without_an_action():
    """What a critic is shown before a step is the goal error after it, if the correction stays."""
    env = BeamCycleVectorEnv(num_envs=8, n_slices=64, seed=0)
    env.reset()
    for _ in range(3):
        ahead = env.task.known_error_rad()
        *_, infos = env.step(np.zeros((8, 1), dtype=np.float32))
        np.testing.assert_allclose(wrap(env.task.goal_error_rad() - ahead), 0.0, atol=1e-12)
    known = env.task.known_error_rad()
    assert infos["privileged"][:, 0] == pytest.approx(known / math.pi, abs=1e-6)


def test_seed_reproduces_a_passage():
    """The same seed gives the same observations and rewards; another seed gives others."""

    def play(seed):
        with make(points=5) as env:
            seen = [env.reset(seed=seed)[0]]
            for action in (0.3, -0.1, 0.2, 0.0):
                observation, reward, *_ = env.step(np.array([action], dtype=np.float32))
                seen.append(np.append(observation, reward))
            return np.concatenate(seen)

    assert np.array_equal(play(7), play(7))
    assert not np.array_equal(play(7), play(8))


def test_vector_rows_behave_as_single_environments():
    """A row of the vector environment gives what the single one gives for the same conditions."""
    vector = gymnasium.make_vec(ENV, 1, n_slices=64, noise=0.0, seed=0)
    single = BeamCycleEnv(n_slices=64, noise=0.0, seed=0)
    assert np.array_equal(vector.reset(seed=4)[0][0], single.reset(seed=4)[0])
    action = np.array([[0.2]], dtype=np.float32)
    for _ in range(3):
        many, one = vector.step(action), single.step(action[0])
        assert np.array_equal(many[0][0], one[0])
        assert many[1][0] == one[1]


def test_rows_of_different_programs_end_each_at_its_own_last_point():
    """Programs of 3 and 5 control points side by side: each row restarts when its own cycle ends."""
    program = load_program(PROGRAM)
    short = dataclasses.replace(program, name="short", listed_points_ms=(300.0, 500.0, 700.0))
    long = dataclasses.replace(
        program, name="long", listed_points_ms=(310.0, 400.0, 500.0, 600.0, 705.0)
    )
    env = BeamCycleVectorEnv(num_envs=16, n_slices=64, program=[short, long], seed=0)
    _, infos = env.reset(seed=0)
    ends = {300.0: 700.0, 310.0: 705.0}
    begun = infos["ctime_ms"]
    assert set(begun) == set(ends)
    steps = np.zeros(16, dtype=int)
    for _ in range(8):
        *_, terminated, truncated, infos = env.step(np.zeros((16, 1), dtype=np.float32))
        steps += 1
        assert not terminated.any()
        for row in np.flatnonzero(truncated):
            assert infos["final_info"]["ctime_ms"][row] == ends[begun[row]]
            assert steps[row] == {300.0: 2, 310.0: 4}[begun[row]]
            assert infos["ctime_ms"][row] in ends
        begun = np.where(truncated, infos["ctime_ms"], begun)
        steps[truncated] = 0


def test_the_slope_limit_holds_between_close_control_points():
    """With 300 control points the largest action moves phi_hw no faster than the machine allows."""
    backend = along(program=PROGRAM, points=300, rows=1)
    env = BeamCycleEnv(backend=backend, n_slices=64)
    env.reset()
    limits = backend.description.limits
    way, ctime = [env.task.reading.applied_rad[0]], [backend.row_ctime_ms[0]]
    for _ in range(40):
        env.step(np.array([1.0], dtype=np.float32))
        way.append(env.task.reading.applied_rad[0])
        ctime.append(backend.row_ctime_ms[0])
    slope = np.diff(way) / np.diff(ctime)
    assert slope.max() <= limits.slope_rad_per_ms * (1 + 1e-9)
    assert slope.min() > 0.5 * limits.slope_rad_per_ms


def test_after_the_last_point_comes_the_next_cycle():
    """The next cycle begins at the first point with the bunch as injected; offsets drift then only."""
    backend = along(
        program=PROGRAM,
        points=3,
        filling=0.9,
        offset_deg=170.0,
        offset_jitter_deg=5.0,
        offset_drift_deg=5.0,
    )
    first = backend.start()
    cycles = [[first.truth]]
    for _ in range(5):
        reading = backend.play(backend.held_rad)
        if backend.points_left[0] == 2:
            cycles.append([])
        cycles[-1].append(reading.truth)
    assert [len(cycle) for cycle in cycles] == [3, 3]
    for cycle in cycles:
        for truth in cycle:
            np.testing.assert_array_equal(truth.offset_rad, cycle[0].offset_rad)
    again = cycles[1][0]
    np.testing.assert_array_equal(again.emittance_evs, first.truth.emittance_evs)
    assert (cycles[0][-1].emittance_evs < first.truth.emittance_evs).any()
    assert not np.isclose(again.offset_rad, first.truth.offset_rad).any()


@pytest.mark.parametrize(
    "options", [{"offset_kinds": ["still", "jitter"]}, {"offset_step_deg": 5.0}]
)
def test_kinds_of_offsets_are_for_shots(options):
    """What is drawn for each shot is refused along a cycle, with what is there instead."""
    with pytest.raises(UsageError, match="not along a cycle; give offset_jitter_deg"):
        along(**options)


def test_only_the_next_control_point_can_be_set():
    """A function for the point after the next is refused: what happens there is not known yet."""
    backend = along()
    reading = backend.start()
    with pytest.raises(Refused, match="only the next control point") as refused:
        backend.submit(backend.held_rad, reading.cycle + 2, 1.0)
    assert refused.value.reason is RefusalReason.INVALID


@pytest.mark.parametrize("name", ["zmq", "replay"])
def test_backends_that_play_whole_cycles_are_refused(name):
    """Over a machine and a recording the environment says why not, and what to use."""
    with pytest.raises(UsageError, match=r"takes and shows whole cycles only: .*BeamPhase-v0"):
        BeamCycleEnv(backend=name)


def test_an_open_backend_without_control_inside_the_cycle_is_refused():
    """The same sentence for a backend that is open already."""
    with pytest.raises(UsageError, match="backend 'fake' takes and shows whole cycles only"):
        BeamCycleEnv(backend=FakeBackend(points=1, n_slices=64), n_slices=64)


def test_beam_phase_over_a_moving_backend_is_refused():
    """One shot a step at one control point cannot be played along the cycle."""
    with pytest.raises(UsageError, match=r"use memrl/BeamCycle-v0"):
        BeamPhaseEnv(n_slices=64, along_cycle=True)


def _steep():
    """A program whose own phi_hw moves by 6 degrees a ms."""
    program = load_program(PROGRAM)
    ctime_ms = program.phi_hw_deg.ctime_ms
    steep = dataclasses.replace(program.phi_hw_deg, value=6.0 * (ctime_ms - ctime_ms[0]))
    return dataclasses.replace(program, name="steep", phi_hw_deg=steep)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"episode_length": 5}, UnknownNameError, "no option .*'episode_length'"),
        ({"machine": "psb"}, UsageError, "along_cycle needs a program"),
        ({"points": 1}, UsageError, "a passage along the cycle needs at least 2"),
        ({"program": []}, UsageError, "program is an empty list"),
        (
            {"program": ["psb-2gev", "psb-seed-2gev"]},
            UsageError,
            "played by one machine; 'psb-2gev' is of 'psb', 'psb-seed-2gev' of 'psb-seed'",
        ),
        (
            {"program": ["psb-2gev", "psb-2gev"], "reference": "mine.csv"},
            UsageError,
            "reference phases belong to one program",
        ),
        ({"rows": 2}, UsageError, "num_envs=1, but the backend has 2"),
        ({"render_mode": "human"}, UsageError, "render_mode must be None or 'rgb_array'"),
        ({"program": _steep}, UsageError, "no correction fits in between"),
    ],
)
def test_wrong_options_get_one_clear_sentence(options, error, words):
    """A wrong option is refused with what is allowed."""
    made = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises(error, match=words):
        BeamCycleEnv(**{"n_slices": 64, "seed": 0, **made})


def test_several_programs_are_refused_outside_the_cycle():
    """Several programs need along_cycle."""
    with pytest.raises(UsageError, match="with along_cycle only"):
        open_backend("blond", program=["psb-2gev", "psb-2gev"], rows=2)


def test_the_shipped_configuration_names_what_exists():
    """`psb-cycle` resolves, and its environment can be made for training and for evaluation."""
    config = resolve("psb-cycle")
    assert config.environment.id == ENV
    for extra in ({}, config.evaluation.options):
        options = {**config.environment.options, **extra}
        env = gymnasium.make_vec(ENV, 2, **options)
        assert env.reset(seed=0)[0].shape == (2, 129)
