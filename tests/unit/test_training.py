"""A training leaves a run that can be judged, exported, resumed, and says what went wrong."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from memrl_ctrl.agents.exportable import untrained_policy
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.cli import main
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import FileError, MismatchError, UnknownNameError, UsageError
from memrl_ctrl.tasks import recall
from memrl_ctrl.training import evaluate, load_policy, train
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.evaluation import TorchPolicy, run_episodes
from memrl_ctrl.training.logs import read_metrics
from memrl_ctrl.training.stepper import Stepper

QUICK = [
    "steps=400",
    "torch_threads=1",
    "environment.num_envs=4",
    "agent.batch_size=8",
    "agent.start_steps=100",
    "agent.update_after=100",
    "agent.updates_per_round=1",
    "agent.actor.lstm=[8]",
    "logging.tensorboard=false",
    "logging.every_s=0",
    "evaluation.episodes=6",
]


def quick(*overrides: str) -> TrainingConfig:
    return resolve("recall", [*QUICK, *overrides])


def test_a_run_folder_holds_everything(tmp_path: Path) -> None:
    """Configuration, metrics, TensorBoard events, checkpoint, picture and result are there."""
    seen = []
    config = quick("logging.tensorboard=true", "logging.checkpoint_every_steps=100")
    result = train(config, out=tmp_path / "run", progress=seen.append)
    assert resolve(result.folder / "config.yaml") == config
    assert result.steps == 400
    assert result.updates > 10
    assert not result.interrupted
    rows = read_metrics(result.folder)
    assert rows[-1]["steps"] == 400
    assert {"seconds", "updates", "steps_per_s", "critic_loss", "return"} <= set().union(*rows)
    assert list((result.folder / "tensorboard").glob("events*"))
    # Rounds are of 16 steps: a checkpoint comes at the end of the round that crosses its step.
    assert [f.name for f in sorted((result.folder / "checkpoints").iterdir())] == [
        f"step-{n:012d}.pt" for n in (112, 208, 304, 400)
    ]
    assert json.loads((result.folder / "result.json").read_text())["evaluation"]["episodes"] == 6
    assert (result.folder / "learning_curve.png").stat().st_size > 1000
    assert seen[-1].fraction == 1.0
    assert seen[-1].steps_per_s > 0


@pytest.mark.parametrize("overlap", ["true", "false"])
@pytest.mark.parametrize("memory", ["window", "sequence"])
def test_a_seed_reproduces_a_run(overlap: str, memory: str, tmp_path: Path) -> None:
    """The same seed gives the same weights, with and without a collecting thread."""
    policies = []
    for index, seed in enumerate((1, 1, 2)):
        config = quick(
            f"overlap={overlap}",
            f"agent.memory={memory}",
            f"seed={seed}",
            "agent.normalise_observations=true",
        )
        folder = train(config, out=tmp_path / str(index)).folder
        module = load_policy(folder).module
        policies.append(torch.cat([v.double().ravel() for v in module.state_dict().values()]))
    assert torch.equal(policies[0], policies[1])
    assert not torch.equal(policies[0], policies[2])


def test_a_loaded_policy_is_the_one_that_was_evaluated(tmp_path: Path) -> None:
    """The run's last evaluation comes out again from its folder, number for number."""
    result = train(quick("agent.actor_average=0.9"), out=tmp_path / "run")
    again = evaluate(result.folder).as_json()
    assert result.evaluation is not None
    assert again == {k: v for k, v in result.evaluation.items() if k != "steps"}
    policy = load_policy(result.folder)
    assert policy.manifest.training.steps == 400
    assert policy.manifest.training.task == "memrl/Recall-v0"
    assert policy.manifest.training.configuration["agent"]["history_length"] == 6


def test_ctrl_c_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    """The first Ctrl-C ends the run in order; the policy can be loaded, the handler is put back."""
    before = signal.getsignal(signal.SIGINT)

    pressed = []

    def stop(now: Any) -> None:
        if now.steps >= 200 and not pressed:
            pressed.append(now.steps)
            os.kill(os.getpid(), signal.SIGINT)

    result = train(quick("steps=1000000"), out=tmp_path / "run", progress=stop)
    assert result.interrupted
    assert 200 <= result.steps < 10_000
    assert load_policy(result.folder).manifest.training.steps == result.steps
    assert signal.getsignal(signal.SIGINT) is before


def test_minutes_are_a_budget_of_their_own(tmp_path: Path) -> None:
    """A time limit ends a run whose steps would never end."""
    result = train(quick("steps=1000000000", "minutes=0.005"), out=tmp_path / "run")
    assert 0 < result.steps < 1_000_000
    assert not result.interrupted


def test_resuming_goes_on_where_the_run_stood(tmp_path: Path) -> None:
    """Steps and updates are counted on; another configuration is refused and nothing is written."""
    first = train(quick(), out=tmp_path / "a")
    second = train(quick("steps=600"), out=tmp_path / "b", resume=first.folder)
    assert second.steps == 600
    assert second.updates > first.updates
    with pytest.raises(
        UsageError, match=r"has another agent than this configuration.*config\.yaml"
    ):
        train(quick("agent.gamma=0.1"), out=tmp_path / "c", resume=first.folder)
    assert not (tmp_path / "c").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder with something in it is refused."""
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="exists and is not empty: choose another folder"):
        train(quick(), out=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_and_missing_checkpoints_are_named(tmp_path: Path) -> None:
    """A checkpoint cut short, absent, or of another step gets one sentence."""
    with pytest.raises(FileError, match="is no run folder"):
        load_policy(tmp_path / "none")
    with pytest.raises(FileError, match="has no checkpoints"):
        load_policy(tmp_path)
    result = train(quick(), out=tmp_path / "run")
    with pytest.raises(UsageError, match="no checkpoint at step 7; there is: 400"):
        load_policy(result.folder, 7)
    whole = result.checkpoint.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"junk" * 100):
        result.checkpoint.write_bytes(content)
        with pytest.raises(FileError, match="is damaged or cut short"):
            load_policy(result.folder)


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("memrl/BeamPhas-v0", UnknownNameError, "no environment 'memrl/BeamPhas-v0'.*did you mean"),
        ("CartPole-v1", UsageError, "lstm-td3 needs continuous actions.*ppo-lstm"),
        ("Blackjack-v1", UsageError, "lstm-td3 needs continuous actions.*ppo-lstm"),
    ],
)
def test_tasks_that_cannot_be_trained_on(
    name: str, error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    """A task that does not exist or has other spaces is refused before a folder is made."""
    with pytest.raises(error, match=sentence):
        train(quick(f"environment.id={name}"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_the_task_cannot_serve(tmp_path: Path) -> None:
    """Privileged critics without privileged features, options and devices that do not exist."""
    with pytest.raises(UsageError, match=r"'memrl/Recall-v0' gives none: set it to false"):
        train(quick("agent.critic_sees_truth=true"), out=tmp_path / "a")
    with pytest.raises(UsageError, match=r"cannot be made so.*colour"):
        train(quick("environment.options.colour=1"), out=tmp_path / "b")
    with pytest.raises(UsageError, match="device 'abacus' cannot be used here"):
        train(quick("device=abacus"), out=tmp_path / "c")


class Count(gymnasium.Env[Any, Any]):
    """Shows the step; ends after 2 steps if the first action is positive, else after 5."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), dtype=np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)
    step_number = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.step_number = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        if not self.step_number > 0:
            self.last = 2 if action[0] > 0 else 5
        self.step_number += 1
        over = self.step_number >= self.last
        seen = np.full(1, self.step_number, dtype=np.float32)
        return seen, 1.0, over and self.last == 2, over and self.last == 5, {}


@pytest.mark.parametrize(
    "mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]
)
def test_the_end_of_an_episode_is_what_really_followed(mode: AutoresetMode) -> None:
    """In each autoreset mode: final observations, terminated against truncated, and restarts, by
    hand."""
    env = gymnasium.vector.SyncVectorEnv([Count, Count], autoreset_mode=mode)
    stepper = Stepper(env, task_of("count", env))
    stepper.reset(0)
    action = np.array([[1.0], [-1.0]], dtype=np.float32)
    followed: list[list[float]] = [[], []]
    for _ in range(12):
        step = stepper.step(action)
        for row in range(2):
            if step.valid[row]:
                followed[row].append(float(step.followed[row, 0]))
            assert step.ended[row] == (step.valid[row] and step.followed[row, 0] == (2, 5)[row])
        assert not step.terminated[1]
        assert step.terminated[0] == step.ended[0]
        assert (step.observation[step.started] == 0.0).all()
    stepper.close()
    assert followed[0][:6] == [1, 2, 1, 2, 1, 2]
    assert followed[1][:10] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]


def test_what_is_not_finite_stops_a_training() -> None:
    """A NaN from the environment ends in a sentence instead of weights that are NaN."""
    env = gymnasium.vector.SyncVectorEnv([Count], autoreset_mode=AutoresetMode.SAME_STEP)
    stepper = Stepper(env, task_of("count", env))
    stepper.reset(0)
    env.envs[0].unwrapped.step_number = np.nan  # type: ignore[attr-defined]
    with pytest.raises(MismatchError, match="'count' gave a reward or an observation that is not"):
        stepper.step(np.zeros((1, 1), dtype=np.float32))


def test_evaluation_counts_every_episode_once() -> None:
    """Short episodes are not counted more often, and each runs to its own end."""
    gymnasium.register("memrl-test/Ragged-v0", recall.RecallEnv)
    task = TaskSpec(
        environment="memrl-test/Ragged-v0",
        kind="task",
        n_observation=3,
        action_low=(-1.0,),
        action_high=(1.0,),
    )
    try:
        result = run_episodes(
            TorchPolicy(untrained_policy(task)),
            environment="memrl-test/Ragged-v0",
            options={"length": 1, "longest": 20},
            episodes=300,
        )
    finally:
        del gymnasium.registry["memrl-test/Ragged-v0"]
    assert result.returns.shape == result.lengths.shape == (300,)
    assert result.lengths.min() == 1
    assert result.lengths.max() == 20
    assert result.lengths.mean() == pytest.approx(10.5, abs=1.5)
    assert (result.returns <= 0).all()


def test_evaluation_begins_every_episode_without_memory() -> None:
    """A policy that is judged twice on the same seeds does the same: nothing is carried over."""
    task = task_of(recall.ID, make_environment(recall.ID, 1, {}))
    policy = TorchPolicy(untrained_policy(task, gain=20.0))
    results = [run_episodes(policy, environment=recall.ID, episodes=5, seed=3) for _ in range(2)]
    np.testing.assert_array_equal(results[0].returns, results[1].returns)
    other = replace(task, n_observation=4)
    with pytest.raises(MismatchError, match=r"the policy sees \(4,\) and acts \(1,\)"):
        run_episodes(TorchPolicy(untrained_policy(other)), environment=recall.ID)


BEAM = [
    *QUICK,
    "agent.memory=sequence",
    "agent.critic_sees_truth=true",
    "environment.id=memrl/BeamPhase-v0",
    "environment.options={n_slices: 64, episode_length: 3, program: psb-2gev}",
    "steps=120",
    "agent.start_steps=24",
    "agent.update_after=24",
    "agent.update_every=12",
]


def test_the_beam_is_judged_by_phase_error_and_shot(tmp_path: Path) -> None:
    """Training on the beam gives phase errors before the first and after each shot, in degrees; the
    exported action is in radians."""
    result = train(resolve("recall", BEAM), out=tmp_path / "run")
    assert result.evaluation is not None
    shots = result.evaluation["shots"]
    assert [row["shot"] for row in shots] == [0, 1, 2, 3]
    assert all(0 <= row["median_deg"] <= row["p95_deg"] <= 180 for row in shots)
    manifest = load_policy(result.folder).manifest
    assert manifest.action.kind == "delta-phi-rad"
    assert manifest.observation.n_slices == 64
    assert manifest.max_step_rad == pytest.approx(np.pi / 2)
    assert result.updates > 0


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`train` says where everything is; `evaluate` writes figures; mistakes end in a sentence."""
    run = tmp_path / "run"
    options = [text for change in QUICK for text in ("--set", change)]
    assert main(["train", "recall", *options, "--steps", "200", "--out", str(run)]) == 0
    text = capsys.readouterr().err
    assert "Trained after 200 steps" in text
    assert str(run) in text.replace("\n", "")
    file = tmp_path / "figures.json"
    assert main(["evaluate", str(run), "--episodes", "3", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["episodes"] == 3
    capsys.readouterr()
    for arguments, code, sentence in (
        (["train", "recal"], 2, "did you mean 'recall'?"),
        (["train", "recall", "--minutes", "-1"], 2, "--minutes must be above 0"),
        (["train", "recall", "--program", "psb-2gev"], 2, "are for beam tasks"),
        (["evaluate", str(tmp_path / "none")], 3, "no such file"),
        (["evaluate", str(run), "--set", "x"], 2, "not of the form option=value"),
        (["evaluate", str(run), "--env", "Nope-v0"], 2, "no environment 'Nope-v0'"),
    ):
        assert main(arguments) == code
        assert sentence in capsys.readouterr().err.replace("\n", " ")
