"""The Gymnasium environments, over a simulation and over a machine with several control points."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import memrl_ctrl  # noqa: F401 - registers the environments
from memrl_ctrl.env import BeamPhaseEnv, BeamPhaseVectorEnv
from memrl_ctrl.errors import (
    MismatchError,
    RefusalReason,
    Refused,
    UnknownNameError,
    UsageError,
)
from memrl_ctrl.testing import FakeBackend

ENV = "memrl/BeamPhase-v0"


def make(**options):
    return gymnasium.make(ENV, **{"n_slices": 64, "seed": 1, **options})


def test_gymnasium_accepts_the_environment():
    """Gymnasium's own checker passes, with warnings as errors."""
    with make() as env:
        check_env(env.unwrapped)


def test_stable_baselines3_accepts_and_trains_on_it():
    """A foreign library checks the environment and trains on it unchanged."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import TD3
    from stable_baselines3.common.env_checker import check_env as check_foreign

    env = make()
    check_foreign(env.unwrapped)
    model = TD3("MlpPolicy", env, learning_starts=20, batch_size=16, seed=0, device="cpu")
    model.learn(total_timesteps=60)
    assert model.num_timesteps == 60


def test_episode_is_truncated_after_its_length_and_never_terminated():
    """An episode ends in truncation after exactly its length."""
    with make(episode_length=4) as env:
        env.reset()
        ends = [env.step(np.zeros(1, dtype=np.float32))[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_seed_reproduces_an_episode():
    """The same seed gives the same observations and rewards; another seed gives others."""

    def play(seed):
        with make() as env:
            first, _ = env.reset(seed=seed)
            observation, reward, *_ = env.step(np.array([0.3], dtype=np.float32))
            return first, observation, reward

    again, other = play(7), play(8)
    for a, b in zip(play(7), again, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(again[0], other[0])


def test_action_moves_the_true_phase_by_its_share_of_the_largest_step():
    """Action 0.5 at 90 degrees moves phi_2, and with it the phase error, by 45 degrees."""
    with make() as env:
        _, info = env.reset(seed=3)
        before = info["phase_error_rad"]
        *_, info = env.step(np.array([0.5], dtype=np.float32))
    moved = np.angle(np.exp(1j * (info["phase_error_rad"] - before)))
    assert moved == pytest.approx(np.pi / 4)
    assert info["applied"] == pytest.approx(np.pi / 4)


def test_absolute_phase_is_not_observable():
    """Two machines that differ only in their hidden offset, compensated by the knob, look the same."""
    env = BeamPhaseEnv(n_slices=64, noise=0.0, monitor="ideal", seed=0, rows=1)
    backend = env.task.backend
    views = []
    for offset in (0.0, 40.0):
        backend.start(seed=5, options={"offset_deg": offset})
        reading = backend.play(np.radians([offset]))
        env.task.reading = reading
        views.append(env.task.observation())
    assert np.allclose(views[0], views[1], atol=1e-5)


def test_vector_rows_behave_as_single_environments():
    """A row of the vector environment gives what the single one gives for the same conditions."""
    vector = BeamPhaseVectorEnv(num_envs=1, n_slices=64, noise=0.0, seed=0)
    single = BeamPhaseEnv(n_slices=64, noise=0.0, seed=0)
    assert np.array_equal(vector.reset(seed=4)[0][0], single.reset(seed=4)[0])
    action = np.array([[0.2]], dtype=np.float32)
    many, one = vector.step(action), single.step(action[0])
    assert np.array_equal(many[0][0], one[0])
    assert many[1][0] == one[1]


def test_vector_episodes_restart_in_the_step_that_ends_them():
    """At the end the new observation is returned and the old one is in the infos."""
    env = BeamPhaseVectorEnv(num_envs=3, n_slices=64, episode_length=2, seed=0)
    env.reset(seed=0)
    actions = np.full((3, 1), 0.1, dtype=np.float32)
    env.step(actions)
    observation, _, terminated, truncated, infos = env.step(actions)
    assert truncated.all()
    assert not terminated.any()
    assert infos["_final_obs"].all()
    assert infos["final_obs"].shape == observation.shape
    assert not np.array_equal(infos["final_obs"], observation)
    assert np.array_equal(infos["applied"], np.zeros((3, 1)))
    assert infos["final_info"]["applied"][:, 0] == pytest.approx(0.1 * np.pi / 2)


def test_convergence_ends_only_the_rows_that_converged():
    """With `terminate_on_convergence` a row ends within 0.5 degree, and the others go on."""
    env = BeamPhaseVectorEnv(
        num_envs=2, n_slices=64, noise=0.0, terminate_on_convergence=True, seed=0
    )
    _, infos = env.reset(seed=2)
    error = infos["phase_error_rad"]
    wanted = np.array([-error[0], -error[1] - np.sign(error[1]) * 0.5])
    step = np.clip(wanted / env.max_step_rad, -1.0, 1.0)
    for _ in range(2):
        *_, terminated, _, infos = env.step(step[:, None].astype(np.float32))
        if terminated.any():
            break
        error = infos["phase_error_rad"]
        step = np.array([-error[0], 0.0]) / env.max_step_rad
    assert terminated.tolist() == [True, False]


def test_one_point_of_a_machine_moves_and_the_others_hold():
    """Over a machine with several control points the environment acts on one."""
    backend = FakeBackend(points=5, n_slices=64, seed=0)
    env = BeamPhaseEnv(backend=backend, point=2, n_slices=64)
    env.reset()
    before = env.task.reading.applied_rad
    env.step(np.array([0.1], dtype=np.float32))
    moved = env.task.reading.applied_rad - before
    assert moved[2] == pytest.approx(0.1 * np.pi / 2)
    assert np.array_equal(np.delete(moved, 2), np.zeros(4))


def test_filling_preset_of_the_seed_is_a_set_of_five():
    """`filling='seed'` draws from the seed work's five filling factors."""
    env = BeamPhaseVectorEnv(num_envs=64, n_slices=64, filling="seed", seed=0, noise=0.0)
    env.reset()
    assert env.task.reading.truth is not None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reward": "mesured"}, UnknownNameError, "did you mean 'measured'"),
        ({"backend": "blnd"}, UnknownNameError, "did you mean 'blond'"),
        ({"fidelity": "exact"}, UnknownNameError, "no fidelity 'exact'"),
        ({"nois": 0.1}, UnknownNameError, "did you mean 'noise'"),
        ({"n_slices": 3}, UsageError, "n_slices must be 16 to 4096, not 3"),
        ({"max_step_deg": 0.0}, UsageError, "max_step_deg must be above 0"),
        ({"point": 3}, UsageError, "point must be 0 to 0, not 3"),
        ({"noise": -0.1}, UsageError, "noise must be 0 to 10 of a profile's peak, not -0.1"),
        ({"seed": -1}, UsageError, "seed must be 0 or more, not -1"),
        ({"filling": "sed"}, UnknownNameError, "no filling preset 'sed'"),
        ({"intensity": (3.0, 1.0)}, UsageError, "intensity must be finite and in order"),
    ],
)
def test_wrong_options_get_one_clear_sentence(options, error, words):
    """A wrong option is refused with what is allowed."""
    with pytest.raises(error, match=words):
        BeamPhaseEnv(**{"n_slices": 64, "seed": 0, **options})


def test_machine_with_fewer_slices_is_refused():
    """An environment with more slices than its machine measures is refused."""
    with pytest.raises(MismatchError, match="measures 32 slices"):
        BeamPhaseEnv(backend=FakeBackend(points=2, n_slices=32), n_slices=64)


def test_truth_based_reward_is_refused_where_there_is_no_truth():
    """On a machine only the measured reward exists."""
    from dataclasses import replace

    backend = FakeBackend(points=2, n_slices=64, alter=lambda r: replace(r, truth=None))
    with pytest.raises(UsageError, match="use reward='measured'"):
        BeamPhaseEnv(backend=backend, n_slices=64).reset()
    env = BeamPhaseEnv(backend=backend, n_slices=64, reward="measured")
    env.reset()
    assert np.isfinite(env.step(np.array([0.1], dtype=np.float32))[1])


def test_points_of_a_cycle_cannot_end_one_by_one():
    """Early termination is refused where a partial restart would change the whole cycle."""
    backend = FakeBackend(points=4, n_slices=64)
    with pytest.raises(UsageError, match="begin anew one by one"):
        BeamPhaseVectorEnv(num_envs=4, backend=backend, n_slices=64, terminate_on_convergence=True)


def test_a_late_function_is_played_in_a_later_cycle():
    """A machine that began its next cycle meanwhile takes the function for a later one."""

    class Hasty(FakeBackend):
        refusals = 2

        def submit(self, phi_hw_rad, cycle, deadline_s):
            if self.refusals:
                self.refusals -= 1
                raise Refused(RefusalReason.LATE, f"cycle {cycle} has begun")
            return super().submit(phi_hw_rad, cycle, deadline_s)

    env = BeamPhaseEnv(backend=Hasty(points=2, n_slices=64), n_slices=64)
    env.reset()
    *_, info = env.step(np.array([0.1], dtype=np.float32))
    assert info["applied"] == pytest.approx(0.1 * np.pi / 2)
