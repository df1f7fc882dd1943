"""Partial observability is what its definitions say, in their order, whoever applies it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

from memrl_ctrl.errors import MismatchError, UnknownNameError, UsageError
from memrl_ctrl.tasks import pomdp
from memrl_ctrl.tasks.pomdp import PUBLISHED, Degradation
from memrl_ctrl.tasks.velocities import VELOCITIES
from memrl_ctrl.tasks.wrappers import PomdpVectorWrapper, PomdpWrapper, WindowObservation
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.stepper import Stepper

ROWS = np.random.default_rng(0).uniform(1.0, 2.0, (4000, 5)).astype(np.float32)
PENDULUM = "InvertedPendulumBulletEnv-v0"

ABOUT_PENDULUM = pytest.mark.filterwarnings(
    "ignore:.*(different from the unwrapped|a symmetric and normalized space|value is -?infinity)"
)
"""What the checker says of Pendulum-v1 itself, and of any wrapper."""


def degraded(kind: str, rows: Any = ROWS, seed: int = 1, **parameters: float) -> Any:
    made = Degradation.of(kind, size=rows.shape[1], task=PENDULUM, **parameters)
    return made(rows, np.random.default_rng(seed))


def test_flickering_takes_whole_observations_with_its_probability() -> None:
    """A fifth of the rows is all zero, the others are untouched."""
    seen = degraded("flickering")
    lost = (seen == 0).all(axis=1)
    assert abs(lost.mean() - 0.2) < 0.02
    np.testing.assert_array_equal(seen[~lost], ROWS[~lost])


def test_noise_is_normal_with_its_sigma_on_each_entry() -> None:
    """Mean 0, standard deviation 0.1, independent between entries."""
    noise = degraded("random_noise") - ROWS
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.01)
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.05)
    assert np.abs(np.corrcoef(noise.T) - np.eye(5)).max() < 0.06


def test_sensors_are_missing_one_by_one() -> None:
    """A tenth of the entries is zero, independently; the others are untouched."""
    seen = degraded("random_sensor_missing")
    lost = seen == 0
    np.testing.assert_allclose(lost.mean(axis=0), 0.1, atol=0.02)
    assert abs((lost.sum(axis=1) == 2).mean() - 10 * 0.1**2 * 0.9**3) < 0.02
    np.testing.assert_array_equal(seen[~lost], ROWS[~lost])


def test_noise_comes_after_the_flicker() -> None:
    """A flickered frame is pure noise, not zero."""
    seen = degraded("flickering_and_random_noise")
    lost = (np.abs(seen) < 0.6).all(axis=1)
    assert abs(lost.mean() - 0.2) < 0.02
    np.testing.assert_allclose(seen[lost].std(), 0.1, rtol=0.05)
    assert (seen != 0).all()


def test_noise_first_leaves_missing_sensors_at_zero() -> None:
    """What is missing after the noise is exactly zero."""
    seen = degraded("random_noise_and_random_sensor_missing")
    assert abs((seen == 0).mean() - 0.1) < 0.01


def test_missing_first_gets_noise_too() -> None:
    """What was missing before the noise is noise around zero."""
    seen = degraded("random_sensor_missing_and_random_noise")
    assert (seen != 0).all()
    lost = np.abs(seen) < 0.6
    assert abs(lost.mean() - 0.1) < 0.01
    np.testing.assert_allclose(seen[lost].std(), 0.1, rtol=0.05)


@pytest.mark.parametrize("fault", pomdp.FAULTS)
def test_velocities_are_removed_before_the_fault(fault: str) -> None:
    """With removed velocities the fault happens to what is left."""
    left = ROWS[:, [0, 2, 3]]
    np.testing.assert_array_equal(
        degraded(f"remove_velocity_and_{fault}"), degraded(fault, rows=left)
    )


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_same_generator_gives_the_same_and_leaves_its_input(kind: str) -> None:
    """Randomness is that of the generator; the observation itself stays as it was; float32 stays."""
    before = ROWS.copy()
    one, other = degraded(kind), degraded(kind)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ROWS, before)
    assert one.dtype == np.float32
    if kind != "remove_velocity":
        assert not np.array_equal(one, degraded(kind, seed=2))


def test_parameters_count() -> None:
    """Probabilities 0 and 1 and no noise are the extremes."""
    np.testing.assert_array_equal(degraded("flickering", flicker_probability=0.0), ROWS)
    assert not degraded("flickering", flicker_probability=1.0).any()
    np.testing.assert_array_equal(degraded("random_noise", noise_sigma=0.0), ROWS)
    assert not degraded("random_sensor_missing", missing_probability=1.0).any()


@pytest.mark.parametrize(
    ("kind", "parameters", "sentence"),
    [
        (
            "flickring",
            {},
            "no kind of partial observability 'flickring'.*did you mean 'flickering'",
        ),
        ("flickering_and_remove_velocity", {}, "only as the first"),
        ("random_noise_and_random_noise", {}, "each part once"),
        ("flickering", {"flicker_probability": 1.5}, "flicker_probability must be between 0 and 1"),
        ("flickering", {"flicker_probability": "much"}, "must be between 0 and 1, not 'much'"),
        ("random_noise", {"noise_sigma": -0.1}, "noise_sigma must be 0 or more, not -0.1"),
        ("random_noise", {"noise_sigma": float("nan")}, "noise_sigma must be 0 or more"),
        ("remove_velocity", {"velocity_indices": [5]}, "some of 0 to 4, not \\[5\\]"),
        ("remove_velocity", {"velocity_indices": []}, "some of 0 to 4"),
        ("remove_velocity", {"velocity_indices": "1"}, "must be a list"),
        ("flickering", {"velocity_indices": [1]}, "velocity_indices are for remove_velocity"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    kind: str, parameters: dict[str, Any], sentence: str
) -> None:
    """Unknown kinds, orders and parameters that cannot be are refused with what is allowed."""
    with pytest.raises(UsageError, match=sentence):
        Degradation.of(kind, size=5, task=PENDULUM, **parameters)


def test_an_unknown_task_needs_its_indices() -> None:
    """Where velocities are is never guessed."""
    with pytest.raises(
        UsageError, match=r"'Acrobot-v1' are velocities is not known.*velocity_indices"
    ):
        Degradation.of("remove_velocity", size=6, task="Acrobot-v1")
    with pytest.raises(UsageError, match="has 4 entries, not 3"):
        Degradation.of("remove_velocity", size=4, task="Pendulum-v1")
    made = Degradation.of("remove_velocity", size=6, task="Acrobot-v1", velocity_indices=[4, 5])
    assert made.kept == (0, 1, 2, 3)


@pytest.mark.parametrize("name", VELOCITIES)
def test_positions_and_velocities_are_everything(name: str) -> None:
    """What position_only leaves out is what velocity_only keeps, and nothing else."""
    size = VELOCITIES[name].size
    kept = {kind: set(Degradation.of(kind, size=size, task=name).kept) for kind in pomdp.SELECTIONS}
    assert kept["position_only"] | kept["velocity_only"] == set(range(size))
    assert not kept["position_only"] & kept["velocity_only"]
    assert kept["position_only"] <= kept["remove_velocity"]


# --- wrappers ---------------------------------------------------------------------------------------


@ABOUT_PENDULUM
@pytest.mark.parametrize("kind", [*PUBLISHED, "position_only", "velocity_only"])
def test_a_wrapped_environment_is_one_of_gymnasium(kind: str) -> None:
    """Gymnasium's own checker finds nothing: spaces, seeds, types."""
    check_env(PomdpWrapper(gymnasium.make("Pendulum-v1").unwrapped, kind), skip_render_check=True)


def test_the_wrapper_draws_from_the_environments_generator() -> None:
    """A seed at reset repeats what is seen; another one does not."""
    env = PomdpWrapper(gymnasium.make("Pendulum-v1"), "random_noise")
    seen = []
    for seed in (3, 3, 4):
        first, _ = env.reset(seed=seed)
        seen.append(np.concatenate([first, *(env.step(np.zeros(1, "f4"))[0] for _ in range(5))]))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


@ABOUT_PENDULUM
def test_a_window_holds_the_last_steps_and_nothing_of_an_old_episode() -> None:
    """Oldest first, the present last, zeros before the beginning, actions in [-1, 1]."""
    env = WindowObservation(gymnasium.make("Pendulum-v1"), length=2)
    check_env(WindowObservation(gymnasium.make("Pendulum-v1").unwrapped, 2), skip_render_check=True)
    o0, _ = env.reset(seed=1)
    np.testing.assert_array_equal(o0[:8], 0.0)
    o1 = env.step(np.array([2.0], dtype="f4"))[0]
    np.testing.assert_array_equal(o1[4:8], [*o0[8:], 1.0])
    np.testing.assert_array_equal(o1[:4], 0.0)
    o2 = env.step(np.array([-1.0], dtype="f4"))[0]
    np.testing.assert_array_equal(o2[:8], [*o0[8:], 1.0, *o1[8:], -0.5])
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again, o0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: WindowObservation(gymnasium.make("Pendulum-v1"), 0), "must be 1 to 10000 steps, not 0"),
        (lambda: WindowObservation(gymnasium.make("CartPole-v1"), 2), "actions with finite limits"),
        (lambda: PomdpWrapper(gymnasium.make("FrozenLake-v1"), "flickering"), "a Box with one dimension"),
    ],
)  # fmt: skip
def test_an_environment_that_does_not_suit_is_refused(make: Any, sentence: str) -> None:
    """Actions without limits and observations that are no vector: one sentence."""
    with pytest.raises(UsageError, match=sentence):
        make()


# --- options of any environment ---------------------------------------------------------------------


def test_the_option_works_for_any_environment() -> None:
    """`pomdp` and its parameters, and a window around it, for a task of Gymnasium's."""
    options = {"pomdp": "remove_velocity_and_flickering", "flicker_probability": 1.0}
    env = make_environment("Pendulum-v1", 3, {**options, "window_observation": 2})
    assert task_of("Pendulum-v1", env).n_observation == 2 * (2 + 1) + 2
    observation, _ = env.reset(seed=1)
    assert not observation.any()
    env.close()


@pytest.mark.parametrize(
    ("environment", "options", "sentence"),
    [
        ("Pendulum-v1", {"noise_sigma": 0.2}, "noise_sigma given without pomdp"),
        ("Pendulum-v1", {"pomdp": "nothing"}, "no kind of partial observability 'nothing'"),
        ("Pendulum-v1", {"pomdp": 3}, "no kind of partial observability '3'"),
        ("memrl/BeamPhase-v0", {"window_observation": 3}, "agent.memory=window"),
        ("memrl/BeamPhase-v0", {"pomdp": "remove_velocity"}, "velocities is not known"),
        (
            "memrl/BeamPhase-v0",
            {"pomdp": "remove_velocity", "velocity_indices": [1]},
            "would leave out entries of 'memrl/BeamPhase-v0', a profile",
        ),
    ],
)
def test_options_that_cannot_be_are_one_sentence(
    environment: str, options: dict[str, Any], sentence: str
) -> None:
    """What is missing or does not suit the task is said before anything begins."""
    with pytest.raises((UsageError, UnknownNameError), match=sentence):
        make_environment(environment, 2, options)


def test_no_kind_is_the_task_itself() -> None:
    """`pomdp: null` turns the option off, whatever parameters stand beside it."""
    env = make_environment("Pendulum-v1", 1, {"pomdp": None, "noise_sigma": 0.2})
    assert env.single_observation_space == Box(
        np.array([-1, -1, -8], dtype="f4"), np.array([1, 1, 8], dtype="f4")
    )
    env.close()


def beam(kind: str, **options: Any) -> Any:
    return make_environment(
        "memrl/BeamPhase-v0", 6, {"n_slices": 32, "episode_length": 4, "pomdp": kind, **options}
    )


def test_the_beam_takes_the_same_faults() -> None:
    """Rows of the beam flicker each on its own; what training knows beside the observation stays."""
    env = beam("flickering", flicker_probability=0.5)
    assert task_of("memrl/BeamPhase-v0", env).kind == "beam-phase"
    env.reset(seed=1)
    lost = []
    for _ in range(20):
        observation, _, _, truncated, infos = env.step(np.zeros((6, 1), dtype="f4"))
        lost.append(~observation.any(axis=1))
        assert {"applied", "privileged", "phase_error_rad"} <= infos.keys()
        if truncated.any():
            env.reset(options={"reset_mask": truncated})
    assert 0.3 < np.mean(lost) < 0.7
    assert any(row.any() and not row.all() for row in lost)
    env.close()


def test_rows_that_go_on_see_what_they_saw() -> None:
    """Beginning again in some rows draws no new noise for the others."""
    env = beam("random_noise")
    before, _ = env.reset(seed=1)
    mask = np.array([True, False, False, True, False, False])
    after, _ = env.reset(seed=2, options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any(axis=1).all()
    env.close()


def test_the_last_observation_of_an_episode_is_degraded_too() -> None:
    """Where the environment restarts by itself, `final_obs` shows what the sensors showed."""
    plain = gymnasium.make_vec("memrl/BeamPhase-v0", 2, n_slices=32, episode_length=2)
    env = PomdpVectorWrapper(plain, Degradation.of("flickering", size=33, flicker_probability=1.0))
    env.reset(seed=1)
    for _ in range(2):
        observation, _, _, _, infos = env.step(np.zeros((2, 1), dtype="f4"))
    assert infos["final_obs"].shape == (2, 33)
    assert not infos["final_obs"].any()
    assert not observation.any()
    env.close()


def test_rows_with_generators_of_their_own_are_wrapped_one_by_one() -> None:
    """Gymnasium's vector of environments is refused, with what to do instead."""
    env = gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    with pytest.raises(UsageError, match="put a PomdpWrapper around each"):
        PomdpVectorWrapper(env, Degradation.of("flickering", size=3))
    env.close()


@pytest.mark.parametrize("environment", ["memrl/BeamPhase-v0", "Pendulum-v1"])
def test_faulty_environments_come_back_exactly(environment: str) -> None:
    """Noise is part of what seeds and actions bring back, with restarts in between."""
    options: dict[str, Any] = {"pomdp": "random_noise_and_random_sensor_missing"}
    if environment.startswith("memrl"):
        options |= {"n_slices": 32, "terminate_on_convergence": True}
    rng = np.random.default_rng(3)

    def make() -> Stepper:
        env = make_environment(environment, 3, options)
        return Stepper(env, task_of(environment, env))

    first, second = make(), make()
    first.reset(7)
    for _ in range(35):
        first.step(rng.uniform(-1, 1, (3, 1)).astype("f4"))
    state = first.state()
    assert state is not None
    second.reset(1)
    second.restore(state)
    for _ in range(35):
        action = rng.uniform(-1, 1, (3, 1)).astype("f4")
        one, other = first.step(action), second.step(action)
        for name in ("reward", "ended", "observation", "followed"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    with pytest.raises(MismatchError):
        second.restore({})
    for stepper in (first, second):
        stepper.close()
