"""MiniGrid's tasks: the fast way sees what MiniGrid shows, in every form, and options are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from memrl_ctrl.config import resolve
from memrl_ctrl.errors import MissingExtraError, UnknownNameError, UsageError
from memrl_ctrl.tasks import minigrid as grids
from memrl_ctrl.training import train
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.stepper import Stepper

minigrid = pytest.importorskip("minigrid")
wrappers = pytest.importorskip("minigrid.wrappers")

grids.register()

SOME = (
    "MiniGrid-MemoryS7-v0",
    "MiniGrid-MemoryS17Random-v0",
    "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-KeyCorridorS3R3-v0",
    "MiniGrid-ObstructedMaze-2Dlhb-v1",
    "MiniGrid-Dynamic-Obstacles-8x8-v0",
    "MiniGrid-LavaCrossingS9N2-v0",
    "MiniGrid-RedBlueDoors-8x8-v0",
    "MiniGrid-MultiRoom-N4-S5-v1",
    "memrl/MazeObstructed-S12-v0",
)
DOINGS = (0, 1, 2, 2, 2, 3, 4, 5)


def pair(name: str, *, view: int = 7, **options: Any) -> tuple[Any, Any]:
    """MiniGrid's own environment, and the one that is seen in this project's way."""
    own = grids.make_raw(name, agent_view_size=view)
    return own, grids.SeenGrid(task=name, **options)


def together(own: Any, ours: Any, seen: Any, steps: int = 150) -> None:
    """Play both alike; `seen` says what MiniGrid shows."""
    rng = np.random.default_rng(1)
    own.reset(seed=5)
    observation = ours.reset(seed=5)[0]
    for _ in range(steps):
        np.testing.assert_array_equal(observation, seen(own))
        action = int(rng.choice(DOINGS))
        _, reward, terminated, truncated, _ = own.step(action)
        observation, *others = ours.step(action)
        assert others[:3] == [float(reward), terminated, truncated]
        if terminated or truncated:
            own.reset()
            observation = ours.reset()[0]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("view", [3, 7])
def test_the_view_is_minigrids(name: str, view: int) -> None:
    """Whatever is moved, opened, carried or hidden: the compiled view is MiniGrid's own, step by step."""
    own, ours = pair(name, view=view, view_size=view, one_hot=False)
    together(own, ours, lambda env: env.gen_obs()["image"])


@pytest.mark.parametrize("name", SOME)
def test_from_above_it_is_minigrids(name: str) -> None:
    """A view of size 0 is what MiniGrid's FullyObsWrapper shows; the agent has its direction as state."""

    def whole(env: Any) -> Any:
        image = env.grid.encode()
        image[tuple(env.agent_pos)] = (10, 0, env.agent_dir)
        return image

    together(*pair(name, view_size=0, one_hot=False), whole)


def test_one_hot_is_minigrids() -> None:
    """One-hot views are those of MiniGrid's OneHotPartialObsWrapper: 11 objects, 6 colours, 3 states."""
    own, ours = pair("MiniGrid-DoorKey-8x8-v0", view_size=7)
    wrapper = wrappers.OneHotPartialObsWrapper(own)
    together(own, ours, lambda env: wrapper.observation(env.gen_obs())["image"])
    assert ours.observation_space.shape == (7, 7, 20)


def test_pictures_are_minigrids() -> None:
    """Pictures are MiniGrid's, from 0 to 1, also of what is carried."""
    own, ours = pair("MiniGrid-KeyCorridorS3R3-v0", view_size=7, pixels=True, tile_px=8)
    together(own, ours, lambda env: np.float32(env.get_frame(tile_size=8, agent_pov=True)) / 255)


def test_pictures_from_above_are_minigrids() -> None:
    """The picture of the whole world is MiniGrid's without the light of what is seen."""
    own, ours = pair("MiniGrid-DoorKey-8x8-v0", view_size=0, pixels=True, tile_px=8)
    own.highlight = False
    together(own, ours, lambda env: np.float32(env.get_frame(highlight=False, tile_size=8)) / 255)


def test_direction_is_a_compass() -> None:
    """With `direction` four more channels say where the agent looks, or one in plain numbers."""
    env = grids.SeenGrid(task="MiniGrid-Empty-5x5-v0", view_size=3, direction=True)
    observation = env.reset(seed=0)[0]
    assert observation.shape == (3, 3, 24)
    for action, direction in ((1, 1), (1, 2), (0, 1)):
        observation = env.step(action)[0]
        np.testing.assert_array_equal(
            observation[..., 20:], np.broadcast_to(np.eye(4)[direction], (3, 3, 4))
        )
    plain = grids.SeenGrid(task="MiniGrid-Empty-5x5-v0", view_size=3, direction=True, one_hot=False)
    plain.reset(seed=0)
    assert (plain.step(1)[0][..., 3] == 1).all()


@pytest.mark.parametrize(
    "options", [{}, {"view_size": 0}, {"one_hot": False}, {"pixels": True, "view_size": 5}]
)
def test_rows_are_what_one_is(options: dict[str, Any]) -> None:
    """Row by row the vector form is the single one, with the same seeds, through restarts."""
    name = "memrl/MemoryS9-v0"
    many = gymnasium.make_vec(
        name, 3, vectorization_mode="vector_entry_point", autoreset=False, **options
    )
    ones = [gymnasium.make(name, **options) for _ in range(3)]
    many.reset(seed=[4, 5, 6])
    seen = [env.reset(seed=4 + row)[0] for row, env in enumerate(ones)]
    rng, restarts = np.random.default_rng(0), 0
    for _ in range(120):
        actions = rng.integers(3, size=3)
        observation, reward, terminated, truncated, _ = many.step(actions)
        for row, env in enumerate(ones):
            seen[row], one, over, cut, _ = env.step(actions[row])
            assert (one, over, cut) == (reward[row], terminated[row], truncated[row])
        np.testing.assert_array_equal(observation, np.stack(seen))
        ended = terminated | truncated
        restarts += int(ended.sum())
        many.reset(seed=[7, 8, 9], options={"reset_mask": ended})
        for row in np.flatnonzero(ended):
            ones[row].reset(seed=7 + int(row))
    assert restarts > 0


@pytest.mark.parametrize(
    "name", ["memrl/MemoryS7-v0", "memrl/MazeRandom-S9-v0", "memrl/MiniGrid-v0"]
)
def test_gymnasium_takes_it(name: str) -> None:
    """Gymnasium's own checker has nothing to say."""
    options = {"task": "MiniGrid-Empty-5x5-v0"} if name == grids.ID else {}
    check_env(gymnasium.make(name, view_size=3, **options).unwrapped, skip_render_check=True)


def test_the_other_forms_of_restarting_agree() -> None:
    """A vector environment that restarts by itself gives the final observation of what ended."""
    env = grids.GridVector(task="MiniGrid-MemoryS7-v0", num_envs=16, view_size=3, max_steps=6)
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.ones(16, dtype=int))
    seen, _, terminated, truncated, infos = env.step(np.ones(16, dtype=int))
    assert truncated.all()
    assert not terminated.any()
    assert infos["_final_obs"].all()
    assert (infos["final_obs"] != seen).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"view_size": 4},
            "view_size must be an odd number from 3 to 99.*or 0 to see everything; not 4",
        ),
        ({"view_size": 1}, "not 1"),
        ({"view_size": 2.5}, "not 2.5"),
        ({"view_size": True}, "not True"),
        ({"actions": 8}, "actions must be from 1 to 7, not 8"),
        ({"tile_px": 0}, "tile_px must be from 4 to 64, not 0"),
        ({"one_hot": "yes"}, "one_hot must be true or false, not 'yes'"),
        ({"direction": True, "pixels": True}, "direction cannot be had of pictures"),
        ({"direction": True, "view_size": 0}, "direction is seen with view_size: 0 anyway"),
        ({"max_steps": "a"}, "max_steps must be an integer"),
        ({"size": 4}, "cannot be made so: MiniGrid refuses one of its options"),
        ({"veiw_size": 3}, "it has no option 'veiw_size'"),
    ],
)
def test_what_cannot_be_seen_is_said(options: dict[str, Any], sentence: str) -> None:
    """A wrong option is one sentence that names what is allowed."""
    with pytest.raises(UsageError, match=sentence):
        make_environment("MiniGrid-MemoryS7-v0", 2, options)


def test_an_unknown_task_is_said_with_a_suggestion() -> None:
    """A fixed S17 does not exist in MiniGrid; its random form is suggested."""
    with pytest.raises(UnknownNameError, match=r"there is:.* MiniGrid-MemoryS17Random-v0"):
        make_environment("MiniGrid-MemoryS17-v0", 1, {})


def test_without_minigrid_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library one sentence has the line that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "minigrid", None)
    with pytest.raises(
        MissingExtraError, match=r'needs MiniGrid: pip install "memrl-ctrl\[bench\]"'
    ):
        make_environment("MiniGrid-MemoryS7-v0", 1, {})


@pytest.mark.parametrize(
    ("name", "actions"),
    [("memrl/Maze-S8-v0", 3), ("memrl/MazeObstructed-S8-v0", 6), ("MiniGrid-CustomMazeRandomS15", 3),
     ("MiniGrid-CustomMaze-S8-v0", 3), ("MiniGrid-Empty-5x5-v0", 7)],
)  # fmt: skip
def test_names_of_mazes_and_their_actions(name: str, actions: int) -> None:
    """Mazes go by their own and their older names; where nothing is in the way there are three actions."""
    env = make_environment(name, 2, {"view_size": 3})
    task = task_of(name, env)
    assert task.choices == (actions,)
    assert task.observation_shape == (3, 3, 20)
    env.close()


def test_environments_come_back_exactly() -> None:
    """Seeds and actions bring worlds back: what follows is what would have followed."""
    name, options = "memrl/MazeObstructed-S8-v0", {"view_size": 5, "max_steps": 25}
    env = make_environment(name, 4, options)
    stepper = Stepper(env, task_of(name, env))
    stepper.reset(3)
    rng = np.random.default_rng(0)
    units = np.eye(6, dtype=np.float32)[rng.integers(6, size=(120, 4))]
    for unit in units[:70]:
        stepper.step(unit)
    kept = stepper.state()
    assert kept is not None
    going_on = [stepper.step(unit) for unit in units[70:]]
    other = make_environment(name, 4, options)
    again = Stepper(other, task_of(name, other))
    again.reset(99)
    again.restore(kept)
    for unit, expected in zip(units[70:], going_on, strict=True):
        step = again.step(unit)
        np.testing.assert_array_equal(step.observation, expected.observation)
        np.testing.assert_array_equal(step.reward, expected.reward)
        np.testing.assert_array_equal(step.ended, expected.ended)
    assert any(step.ended.any() for step in going_on)


def test_training_is_resumed_exactly(tmp_path: Path) -> None:
    """PPO-LSTM in a maze that is interrupted and resumed ends with the weights of one that was not."""
    from memrl_ctrl.training import checkpoint

    settings = [
        "environment.num_envs=4", "agent.rollout_steps=16", "agent.pre_lstm=[8]", "agent.lstm=[8]",
        "agent.lr_schedule=constant", "agent.entropy_final=1.0", "agent.actor=[]", "agent.critic=[]",
        "environment.options.max_steps=20",
        "evaluation.episodes=2", "evaluation.every_steps=0", "evaluation.stop_at_return=null",
        "logging.tensorboard=false",
        "logging.checkpoint_replay=always",
    ]  # fmt: skip

    def run(steps: int, name: str, resume: Path | None = None) -> dict[str, Any]:
        config = resolve("ppo-lstm-minigrid-memory-s7", [*settings, f"steps={steps}"])
        result = train(config, out=tmp_path / name, resume=resume)
        return checkpoint.load(result.checkpoint)["agent"]["network"]

    run(320, "first")
    resumed, whole = run(640, "second", tmp_path / "first"), run(640, "whole")
    for key, weights in whole.items():
        np.testing.assert_array_equal(resumed[key].numpy(), weights.numpy())
