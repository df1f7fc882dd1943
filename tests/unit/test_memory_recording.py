"""What is recorded is what happened; what is called hidden is what the environment hides."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LstmTd3Config, PpoLstmConfig, resolve
from memrl_ctrl.errors import MismatchError, UnknownNameError, UsageError
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.evaluation import TorchPolicy
from memrl_ctrl.training.memory import recording
from memrl_ctrl.training.memory.gathering import Occasion, cut, gather
from memrl_ctrl.training.memory.insight import PpoInsight, Td3Insight
from memrl_ctrl.training.memory.labels import OwnLabel
from memrl_ctrl.training.memory.recording import Forgetful, Recorder, open_watched, play
from memrl_ctrl.training.memory.secrets import secrets_of, success_of
from memrl_ctrl.training.runs import policy_of
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.watching import Watched


def player(name: str, **options: Any) -> Any:
    """An untrained policy for an environment, with memory."""
    env = make_environment(name, 1, options)
    task = task_of(name, env)
    env.close()
    if task.choices:
        config = resolve("ppo-lstm-cartpole-no-vel")
        agent: Any = PpoLstm(task, PpoLstmConfig(pre_lstm=(8,), lstm=(6,), initial_log_std=0.0))
        return PpoInsight(TorchPolicy(policy_of(agent, task, config, 0)), agent)
    config = resolve("recall")
    agent = LstmTd3(task, LstmTd3Config(memory="sequence"), seed=1)
    return Td3Insight(TorchPolicy(policy_of(agent, task, config, 0)), agent)


def opened(name: str, rows: int, *, pictures: bool = False, **options: Any) -> tuple[Any, ...]:
    insight = player(name, **options)
    stepper, watched = open_watched(insight, name, rows, options, pictures=pictures)
    return insight, stepper, watched


def test_an_episode_is_recorded_as_it_was() -> None:
    """Rewards sum to the return, one moment a step, the secret is the number that was shown; lag counts."""
    insight, stepper, watched = opened("memrl/Recall-v0", 3, length=4, longest=6)
    stepper.reset(5)
    (number,) = secrets_of(watched)
    recorder = Recorder(insight, watched, [number])
    played = play(recorder, stepper, watched, 5)
    moments = recorder.moments()
    assert len(moments.row) == played.lengths.sum()
    for row in range(3):
        one = moments.of(row)
        assert one.step.tolist() == list(range(int(played.lengths[row])))
        np.testing.assert_allclose(one.reward.sum(), played.returns[row], rtol=1e-5)
        np.testing.assert_allclose(one.hidden[:, 0], one.observation[0, 0])
        assert one.lag[:, 0].tolist() == one.step.tolist()
        wanted = -np.square(one.action[:, 0] - one.hidden[:, 0])
        np.testing.assert_allclose(one.reward, wanted, rtol=1e-4)
    assert played.success is None
    stepper.close()


def test_recording_changes_nothing() -> None:
    """The same episodes with and without it."""
    insight, stepper, watched = opened("memrl/Recall-v0", 3)
    recorded = play(Recorder(insight, watched, []), stepper, watched, 7)
    plain = play(insight, stepper, watched, 7)
    np.testing.assert_array_equal(recorded.returns, plain.returns)
    stepper.close()


def test_without_memory_the_past_does_not_matter() -> None:
    """Episodes that show different numbers are acted alike once these are hidden; with memory not."""
    insight, stepper, watched = opened("memrl/Recall-v0", 4)
    actions: list[NDArray[Any]] = []

    class Listening(Forgetful):
        def act(self, observation: Any, previous_applied: Any) -> NDArray[Any]:
            # What was applied is told too: held the same here, so that nothing else differs.
            actions.append(super().act(observation, 0.0 * previous_applied))
            return actions[-1]

    play(Listening(insight), stepper, watched, 3)
    assert np.ptp(actions[0]) > 0.0
    assert all(np.ptp(action) == 0.0 for action in actions[1:])
    recorder = Recorder(insight, watched, [])
    play(recorder, stepper, watched, 3)
    assert np.ptp(recorder.moments().action[-4:]) > 0.0
    stepper.close()


def test_too_much_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows keep other steps each, so that every lag is there; returns are of all steps."""
    monkeypatch.setattr(recording, "MOST_BYTES", 4_000)
    insight, stepper, watched = opened("memrl/CartPoleNoVel-v0", 8)
    recorder = Recorder(insight, watched, [], thin=True)
    played = play(recorder, stepper, watched, 0)
    moments = recorder.moments()
    stride = int(np.diff(moments.of(0).step).min())
    assert stride > 1
    assert np.all((moments.row + moments.step) % stride == 0)
    assert moments.observation.nbytes + moments.state.nbytes <= 4_000
    assert played.returns.sum() > len(moments.row)
    stepper.close()


def test_the_comparison_is_of_the_same_episodes() -> None:
    """Of a policy that does not use its memory's output the difference is exactly zero."""
    import torch

    insight = player("memrl/CartPoleNoVel-v0")
    with torch.no_grad():
        for network in (insight._network, insight.module):
            network.actor[-1].weight.zero_()
            network.actor[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    occasion = Occasion(environment="memrl/CartPoleNoVel-v0", options={}, episodes=70, seed=4)
    assert (occasion.rounds, occasion.rows) == (2, 35)
    played, moments, secrets = gather(insight, occasion, secrets_of)
    assert np.unique(moments.row).size == 70
    assert [s.name for s in secrets] == ["speed of the cart", "turning of the pole"]
    assert np.unique(moments.of(0).hidden[0] - moments.of(35).hidden[0]).size == 2  # another seed
    compared = cut(insight, occasion, played)
    np.testing.assert_array_equal(compared.remembering.returns, compared.forgetting.returns)
    assert compared.difference == 0.0
    assert compared.interval == (0.0, 0.0)
    assert played.success is not None
    assert not played.success.any()


def test_a_difference_has_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the mean difference, and is narrower with less spread."""
    insight = player("memrl/Recall-v0")
    occasion = Occasion(environment="memrl/Recall-v0", options={}, episodes=30, seed=4)
    played, _, _ = gather(insight, occasion, secrets_of)
    compared = cut(insight, occasion, played)
    low, high = compared.interval
    assert low < compared.difference < high
    json = compared.as_json()
    assert json["with_memory"]["episodes"] == 30
    assert json["without_memory"]["success_rate"] is None


# --- secrets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view_size", [3, 7, 0])
def test_the_object_of_minigrid_memory_is_seen_where_minigrid_shows_it(view_size: int) -> None:
    """Class and sight against MiniGrid's own grid and its own view, over random walks of four rows."""
    pytest.importorskip("minigrid")
    from minigrid.core.world_object import Ball

    env = make_environment("MiniGrid-MemoryS9-v0", 4, {"view_size": view_size, "actions": 3})
    watched = Watched(env)
    rng = np.random.default_rng(0)
    watched.reset(seed=[3, 4, 5, 6])
    (secret,) = secrets_of(watched)
    assert secret.classes == ("key", "ball")
    assert secret.shown is not None
    seen = 0
    for _ in range(60):
        plain: Any = watched.unwrapped
        worlds = plain.worlds
        for row, raw in enumerate(worlds.envs):
            place = (1, raw.height // 2 - 1)
            assert secret.read()[row] == float(isinstance(raw.grid.get(*place), Ball))
            if view_size:
                raw.agent_view_size = view_size
                shown = raw.in_view(*place)
                if shown:
                    x, y = raw.relative_coords(*place)
                    _, visible = raw.gen_obs_grid()
                    shown = bool(visible[x, y])
                assert bool(secret.shown()[row]) is shown
                seen += shown
            else:
                assert secret.shown()[row]
        watched.step(rng.integers(3, size=4))
        if not watched.going.all():
            watched.reset(seed=[7, 8, 9, 10])
    assert seen or not view_size
    watched.close()


def test_the_goal_of_a_maze_is_where_the_agent_would_look() -> None:
    """Straight ahead is 0, to the right 90 degrees; places are the agent's."""
    pytest.importorskip("minigrid")
    env = make_environment("memrl/Maze-S8-v0", 1, {"goal": [3, 3], "start": [3, 5]})
    watched = Watched(env)
    watched.reset(seed=[0])
    direction, x, y = secrets_of(watched)
    plain: Any = watched.unwrapped
    worlds = plain.worlds
    worlds.pose[0] = 1, 3, 0  # looks to the right, the goal two cells ahead
    assert direction.read()[0] == pytest.approx(0.0)
    worlds.pose[0] = 3, 1, 0  # the goal below, at its right hand
    assert direction.read()[0] == pytest.approx(np.pi / 2)
    worlds.pose[0] = 5, 3, 0
    assert abs(direction.read()[0]) == pytest.approx(np.pi)
    assert (x.read()[0], y.read()[0]) == (5.0, 3.0)
    watched.close()


@pytest.mark.parametrize("pictures", [False, True])
def test_velocities_of_the_cart_are_those_of_its_state(pictures: bool) -> None:
    """In the vector form and in the one that draws."""
    if pictures:
        pytest.importorskip("pygame")
    env = make_environment("memrl/CartPoleNoVel-v0", 1, {}, pictures=pictures)
    watched = Watched(env)
    watched.reset(seed=3)
    speed, turning = secrets_of(watched)
    before = watched.seen[0]
    for _ in range(3):
        x_speed, spin = speed.read()[0], turning.read()[0]
        before = watched.seen[0]
        watched.step(np.array([1]))
        # Euler's step: the positions move on with the velocities of before.
        np.testing.assert_allclose(
            watched.seen[0] - before, [0.02 * x_speed, 0.02 * spin], atol=1e-6
        )
    watched.close()


def test_the_beam_knows_its_truth() -> None:
    """Phase error, offset, emittance and intensity of the simulation, alone and together."""
    for pictures, rows in ((False, 3), (True, 1)):
        env = make_environment("memrl/BeamPhase-v0", rows, {"n_slices": 32}, pictures=pictures)
        watched = Watched(env)
        watched.reset(seed=3)
        secrets = {secret.name: secret for secret in secrets_of(watched)}
        assert set(secrets) == {"phase error", "offset of the hardware", "emittance", "intensity"}
        np.testing.assert_allclose(
            secrets["phase error"].read(), np.ravel(watched.infos["phase_error_rad"])
        )
        assert secrets["intensity"].read().shape == (rows,)
        watched.close()


def test_entries_that_a_pomdp_leaves_out_are_secrets() -> None:
    """The pendulum's speed, entry 2, as it was before it was taken away."""
    env = make_environment("Pendulum-v1", 2, {"pomdp": "remove_velocity"})
    watched = Watched(env)
    watched.reset(seed=[0, 1])
    (secret,) = secrets_of(watched)
    assert secret.name == "entry 2 of the observation, left out"
    watched.step(np.ones((2, 1), dtype="f4"))
    plain: Any = watched.unwrapped
    assert isinstance(plain, SyncVectorEnv)
    speeds = [inside.unwrapped.state[1] for inside in watched.singles()]
    np.testing.assert_allclose(secret.read(), speeds, rtol=1e-6)
    watched.close()


def test_the_probe_for_memory_has_its_cue() -> None:
    """Seen in the first step only; the other probes without a cue hide nothing."""
    watched = Watched(make_environment("memrl/Probe-memory-v0", 5, {}))
    watched.reset(seed=[1, 2, 3, 4, 5])
    (cue,) = secrets_of(watched)
    first = watched.seen[:, 0]
    assert cue.shown is not None
    assert cue.shown().all()
    watched.step(np.zeros(5, dtype=np.int64))
    np.testing.assert_array_equal(cue.read(), first > 0)
    assert not cue.shown().any()
    watched.close()
    nothing = Watched(make_environment("memrl/Probe-discounting-v0", 2, {}))
    nothing.reset(seed=[1, 2])
    assert secrets_of(nothing) == ()
    nothing.close()


def test_success_is_what_the_task_says() -> None:
    """Lasting in CartPole; the reward in MiniGrid; nowhere else."""
    watched = Watched(make_environment("memrl/CartPoleNoVel-v0", 2, {"episode_length": 5}))
    watched.reset(seed=[1, 2])
    for _ in range(5):
        watched.step(np.array([1, 0]))
    assert not watched.going.any()
    assert success_of(watched, np.full(2, 5.0)) is not None
    np.testing.assert_array_equal(success_of(watched, np.full(2, 5.0)), [True, True])
    watched.close()


# --- a label of one's own -----------------------------------------------------------------------------


class Town(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Says after each step where it is, in several ways."""

    metadata = {"render_modes": []}  # noqa: RUF012 - typed so by the base class
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self._step, self._which = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._step, self._which = 0, int(self.np_random.integers(2))
        return np.zeros(2, dtype=np.float32), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._step += 1
        infos = {
            "town": ("Bern", "Genf")[self._which],
            "number": self._which,
            "far": 12.5 + self._which,
            "open": bool(self._which),
            "map": np.zeros(3),
            "is_success": self._which == 1,
        }
        return np.zeros(2, dtype=np.float32), 1.0, self._step == 4, False, infos


@pytest.fixture
def town() -> Any:
    entry: Any = Town
    gymnasium.register("test/Town-v0", entry, max_episode_steps=9)
    yield "test/Town-v0"
    del gymnasium.registry["test/Town-v0"]


@pytest.mark.parametrize(
    ("key", "kind", "classes"),
    [
        ("town", "class", {"Bern", "Genf"}),
        ("number", "class", {"0", "1"}),
        ("open", "class", {"no", "yes"}),
        ("far", "number", set()),
    ],
)
def test_an_info_can_be_the_label(key: str, kind: str, classes: set[str], town: str) -> None:
    """Words, truth values and small numbers have classes; before it is said first it is not known."""
    insight = player(town)
    label = OwnLabel(key, town)
    occasion = Occasion(environment=town, options={}, episodes=12, seed=0)
    played, moments, secrets = gather(insight, occasion, label)
    resolved = label.resolved(secrets[0], moments.hidden[:, 0])
    assert resolved.kind == kind
    assert set(resolved.classes) == classes
    assert np.isnan(moments.hidden[moments.step == 0]).all()
    assert np.isfinite(moments.hidden[moments.step > 0]).all()
    assert played.success is not None
    assert 0 < played.success.sum() < 12


@pytest.mark.parametrize(
    ("key", "error", "said"),
    [
        (
            "twon",
            UnknownNameError,
            "no info of environment 'test/Town-v0' 'twon'.*did you mean 'town'",
        ),
        ("map", UsageError, r"info 'map' .* has the shape \(3,\); a label is one value"),
    ],
)
def test_a_label_that_is_none_is_refused(key: str, error: Any, said: str, town: str) -> None:
    """The sentence names what there is."""
    stepper, watched = open_watched(player(town), town, 1, {}, pictures=False)
    stepper.reset(0)
    with pytest.raises(error, match=said):
        OwnLabel(key, town).check(stepper, watched)
    stepper.close()


def test_another_observation_is_refused_with_both_shapes() -> None:
    """What the policy sees, and what the environment shows."""
    with pytest.raises(MismatchError, match=r"the policy sees \(3,\) .* shows \(2,\)"):
        open_watched(player("memrl/Recall-v0"), "memrl/CartPoleNoVel-v0", 1, {}, pictures=False)


def test_a_stepper_does_not_notice_who_watches() -> None:
    """The same steps through `Watched` and without."""
    name = "memrl/CartPoleNoVel-v0"
    rewards = []
    for watches in (False, True):
        env = make_environment(name, 3, {})
        task: TaskSpec = task_of(name, env)
        stepper = Stepper(env, task)
        if watches:
            stepper.env = Watched(env)
        stepper.reset(1)
        unit = np.tile(np.array([[0.0, 1.0]], dtype="f4"), (3, 1))
        rewards.append([stepper.step(unit).observation.tolist() for _ in range(25)])
        stepper.close()
    assert rewards[0] == rewards[1]
