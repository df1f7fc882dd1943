"""The PyBullet tasks: their names, where their velocities are, and episodes that come back exactly."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from memrl_ctrl.config import resolve, shipped
from memrl_ctrl.errors import MissingExtraError, UnknownNameError
from memrl_ctrl.tasks import bullet
from memrl_ctrl.tasks.pomdp import Degradation
from memrl_ctrl.tasks.velocities import VELOCITIES
from memrl_ctrl.training import train
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.stepper import Stepper

pytest.importorskip(
    "pybullet_envs_gymnasium.robot_bases", reason="extra bench", exc_type=ImportError
)

WALKERS = ("HalfCheetah", "Ant", "Hopper", "Walker2D")


def plain(name: str, rows: int = 1, **options: Any) -> Any:
    return make_environment(name, rows, options)


@pytest.mark.parametrize("name", bullet.NAMES)
def test_every_task_is_made_by_its_name_and_its_table_has_its_size(name: str) -> None:
    """The eight names make, reset and step, and the table of velocities speaks of that observation."""
    env = plain(name)
    task = task_of(name, env)
    assert task.n_observation == VELOCITIES[name].size
    env.reset(seed=[1])
    observation, reward, *_ = env.step(env.action_space.sample())
    assert observation.dtype == np.float32
    assert np.isfinite(reward).all()
    env.close()


@pytest.mark.parametrize("name", bullet.NAMES)
def test_entries_called_velocities_are_the_robots_velocities(name: str) -> None:
    """Read from the simulation itself: joint speeds, and for walkers the torso's, stand where the table
    says; with all of them known nothing else follows a velocity."""
    env = plain(name)
    env.reset(seed=[3])
    env.action_space.seed(3)
    for _ in range(8):
        observation, *_ = env.step(env.action_space.sample())
    robot = env.envs[0].unwrapped.robot
    if any(name.startswith(walker) for walker in WALKERS):
        speeds = [joint.current_relative_position()[1] for joint in robot.ordered_joints]
        yaw = robot.body_rpy[2]
        vx, vy, vz = robot.robot_body.speed()
        cos, sin = np.cos(-yaw), np.sin(-yaw)
        torso = 0.3 * np.array([cos * vx - sin * vy, sin * vx + cos * vy, vz])
        wanted = np.clip([*torso, *speeds], -5.0, 5.0)
    elif name.startswith("Reacher"):
        wanted = [robot.theta_dot, robot.gamma_dot]
    else:
        joints = [robot.slider, robot.j1, getattr(robot, "j2", None)]
        wanted = [joint.current_position()[1] for joint in joints if joint is not None]
    kept = Degradation.of("velocity_only", size=VELOCITIES[name].size, task=name)
    seen = kept(observation, np.random.default_rng(0))[0]
    np.testing.assert_allclose(seen, wanted, rtol=1e-5, atol=1e-6)
    env.close()


def test_remove_velocity_is_the_published_table() -> None:
    """Meng et al. 2021: 3 to 5 for the walkers, 1 and 4, 1 and 5 and 8, 6 and 8."""
    torso = (3, 4, 5)
    wanted = {
        **{f"{walker}BulletEnv-v0": torso for walker in WALKERS},
        "InvertedPendulumBulletEnv-v0": (1, 4),
        "InvertedPendulumSwingupBulletEnv-v0": (1, 4),
        "InvertedDoublePendulumBulletEnv-v0": (1, 5, 8),
        "ReacherBulletEnv-v0": (6, 8),
    }
    assert {name: VELOCITIES[name].published for name in bullet.NAMES} == wanted


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("HopperBulletEnv-v0", [0, 1, 2, 6, 7, 8, 10, 12, 14]),
        ("Walker2DBulletEnv-v0", [0, 1, 2, 6, 7, 8, 10, 12, 14, 16, 18, 20, 21]),
        ("AntBulletEnv-v0", [0, 1, 2, *range(6, 9), *range(10, 25, 2), 25, 26, 27]),
        ("HalfCheetahBulletEnv-v0", [0, 1, 2, 6, 7, 8, *range(10, 21, 2), 21, 22, 23, 24, 25]),
    ],
)
def test_position_only_is_that_of_the_recurrent_literature(name: str, positions: list[int]) -> None:
    """The same entries as the `-P` versions of Ni et al. 2022; contacts of feet among them."""
    made = Degradation.of("position_only", size=VELOCITIES[name].size, task=name)
    assert list(made.kept) == positions


@pytest.mark.parametrize("robot", ["Ant", "Hopper", "InvertedPendulum", "Reacher"])
def test_an_episode_depends_on_its_seed_and_actions_alone(robot: str) -> None:
    """The first one after the creation is the same as a later one, to the bit."""
    name = f"{robot}BulletEnv-v0"
    env = plain(name).envs[0]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (30, *env.action_space.shape)).astype("f4")

    def episode() -> Any:
        seen, _ = env.reset(seed=5)
        return np.concatenate([seen, *(env.step(action)[0] for action in actions)])

    first = episode()
    env.reset(seed=9)
    env.step(actions[3])
    np.testing.assert_array_equal(episode(), first)
    env.close()


@pytest.mark.parametrize("robot", ["Ant", "InvertedPendulum"])
@pytest.mark.parametrize("steps", [7, 43])
def test_environments_come_back_to_where_they_were(robot: str, steps: int) -> None:
    """From seeds and actions, in the first episode of a row and in later ones, with noise on what is seen."""
    name = f"{robot}BulletEnv-v0"
    rng = np.random.default_rng(3)

    def make() -> Stepper:
        env = plain(name, 2, pomdp="random_noise")
        return Stepper(env, task_of(name, env))

    first, second = make(), make()
    shape = (2, first.task.n_action)
    first.reset(7)
    for _ in range(steps):
        first.step(rng.uniform(-1, 1, shape).astype("f4"))
    state = first.state()
    assert state is not None
    second.reset(1)
    second.restore(state)
    for _ in range(30):
        action = rng.uniform(-1, 1, shape).astype("f4")
        one, other = first.step(action), second.step(action)
        for part in ("reward", "ended", "observation", "followed"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    for stepper in (first, second):
        stepper.close()


@pytest.mark.parametrize("robot", ["Ant", "InvertedPendulum"])
def test_an_interrupted_run_goes_on_exactly(robot: str, tmp_path: Path) -> None:
    """A run that stopped at half its way and was resumed ends with the numbers of one that did not."""
    settings = [
        f"environment.id={robot}BulletEnv-v0",
        "environment.num_envs=2",  # a round is 10 steps: 60 steps end where a round ends
        "environment.options={pomdp: position_only}",
        "agent.actor={pre_lstm: [8], lstm: [8], current: [8], combination: [8]}",
        "agent.critic={pre_lstm: [8], lstm: [8], current: [8], combination: [8]}",
        "agent.batch_size=8",
        "agent.start_steps=40",
        "agent.update_after=40",
        "agent.update_every=10",
        "agent.updates_per_round=1",
        "logging.tensorboard=false",
        "logging.checkpoint_replay=always",
        "evaluation={episodes: 1, every_steps: 0}",
    ]
    whole = train(
        resolve("lstm-td3-inverted-pendulum", [*settings, "steps=120"]), out=tmp_path / "a"
    )
    train(resolve("lstm-td3-inverted-pendulum", [*settings, "steps=60"]), out=tmp_path / "b")
    second = train(
        resolve("lstm-td3-inverted-pendulum", [*settings, "steps=120"]),
        out=tmp_path / "c",
        resume=tmp_path / "b",
    )
    assert second.resumed == "exactly where it stood"
    assert second.updates == whole.updates > 0
    assert second.evaluation == whole.evaluation


def test_nothing_is_printed(tmp_path: Path) -> None:
    """A process that makes environments and steps them leaves standard output and error empty."""
    code = (
        "from memrl_ctrl.training.environments import make_environment\n"
        "env = make_environment('HopperBulletEnv-v0', 2, {})\n"
        "env.reset(seed=[1, 2]); env.step(env.action_space.sample()); env.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_silence_keeps_what_was_printed_before_and_after(capfd: pytest.CaptureFixture[str]) -> None:
    """Only what C code prints inside is lost."""
    libc = ctypes.CDLL(None)
    sys.stdout.write("before ")
    with bullet.silence():
        libc.puts(b"inside")
    libc.puts(b"after")
    libc.fflush(None)
    assert capfd.readouterr().out == "before after\n"


def test_without_pybullet_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, and nothing but these tasks needs it."""
    monkeypatch.setitem(sys.modules, "pybullet_envs_gymnasium", None)
    for name in bullet.NAMES:
        monkeypatch.delitem(gymnasium.registry, name, raising=False)
    with pytest.raises(
        MissingExtraError, match=r"'HopperBulletEnv-v0' needs .*memrl-ctrl\[bench\]"
    ):
        make_environment("HopperBulletEnv-v0", 1, {})
    make_environment("Pendulum-v1", 1, {}).close()


def test_a_misspelt_task_is_refused_with_the_name_that_was_meant() -> None:
    """Also before PyBullet was ever imported."""
    with pytest.raises(UnknownNameError, match="did you mean 'HopperBulletEnv-v0'"):
        make_environment("HoperBulletEnv-v0", 1, {})


def test_every_shipped_configuration_of_a_bullet_task_can_be_made() -> None:
    """Names and options of the shipped configurations exist."""
    found = [resolve(name).environment for name in shipped()]
    found = [environment for environment in found if bullet.is_bullet(environment.id)]
    assert len(found) >= 4
    for environment in found:
        env = make_environment(environment.id, 1, environment.options)
        assert task_of(environment.id, env).kind == "task"
        env.close()
