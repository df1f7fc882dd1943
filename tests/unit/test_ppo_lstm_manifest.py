"""What a policy file says of itself is enough to drive it with onnxruntime alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memrl_ctrl.agents.exportable import exportable
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import PpoLstmConfig, resolve
from memrl_ctrl.policy.manifest import Training
from memrl_ctrl.policy.runner import OnnxPolicy
from memrl_ctrl.training import load_policy, train
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_deploy.exporter import export_policy

EXAMPLE = Path(__file__).parents[2] / "examples" / "drive_exported_policy.py"
SHORT = [
    "environment.num_envs=4", "agent.rollout_steps=16", "agent.lstm=[8]", "steps=128",
    "logging.tensorboard=false", "logging.every_s=0", "evaluation.episodes=2",
    "evaluation.every_steps=0", "evaluation.stop_at_return=null", "overlap=false",
]  # fmt: skip
GRID = ("ppo-lstm-minigrid-memory-s7", ["agent.epochs=1"])
CART = ("ppo-lstm-cartpole-no-vel", list[str]())


def exported(tmp_path: Path, name: str, more: list[str]) -> Path:
    result = train(resolve(name, [*SHORT, *more]), out=tmp_path / "run")
    out = tmp_path / "policy.onnx"
    export_policy(load_policy(result.folder), out, plan=((3, 20),))
    return out


@pytest.mark.parametrize(("name", "more"), [CART, GRID], ids=["cartpole", "minigrid"])
def test_a_plain_script_drives_an_exported_policy(
    name: str, more: list[str], tmp_path: Path
) -> None:
    """The example plays whole episodes in the original environments where memrl_ctrl and torch cannot be
    imported."""
    if name.startswith("ppo-lstm-minigrid"):
        pytest.importorskip("minigrid")
    policy = exported(tmp_path, name, more)
    alone = (
        "import runpy, sys; sys.modules.update(memrl_ctrl=None, torch=None); "
        f"sys.argv = ['x', {str(policy)!r}, '--episodes', '2']; "
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", alone], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "over 2 episodes" in done.stdout
    task = OnnxPolicy.load(policy).manifest
    assert task.action.names == (
        ("push left", "push right") if name == CART[0] else ("left", "right", "forward")
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"direction": True}, {"one_hot": False, "direction": True}, {"view_size": 5}],
    ids=["one-hot", "compass", "numbers", "view of 5"],
)
def test_what_a_manifest_says_of_a_grid_is_what_is_seen(options: dict[str, Any]) -> None:
    """Encoded by the manifest's channels from MiniGrid's own observation, a view is the one of training."""
    pytest.importorskip("minigrid")
    spec = importlib.util.spec_from_file_location("drive", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    name, options = "MiniGrid-DoorKey-6x6-v0", {"view_size": 3, **options}
    vector = make_environment(name, 1, options)
    meaning = task_of(name, vector).observation_spec().meaning
    env, encode = example.minigrid({
        "observation": {"meaning": meaning},
        "training": {"task": name, "configuration": {"environment": {"options": options}}},
    })  # fmt: skip
    seen, _ = vector.reset(seed=[5])
    theirs, _ = env.reset(seed=5)
    np.testing.assert_array_equal(encode(theirs), seen[0])
    rng = np.random.default_rng(0)
    for action in rng.integers(0, 6, 40):
        seen, *_ = vector.step(np.array([action]))
        theirs, *_ = env.step(int(action))
        np.testing.assert_array_equal(encode(theirs), seen[0])
    env.close()
    vector.close()


def test_pictures_and_vectors_say_what_they_are() -> None:
    """Axes and channels of pictures, entries of vectors; nothing where a wrapper changed what is seen."""
    pytest.importorskip("minigrid")
    pictures = make_environment("MiniGrid-Empty-5x5-v0", 1, {"pixels": True})
    meaning = task_of("x", pictures).meaning
    assert (meaning["axes"], len(meaning["channels"])) == (["y", "x", "channel"], 3)
    name = "memrl/CartPoleNoVel-v0"
    carts = make_environment(name, 1, {})
    assert len(task_of(name, carts).meaning["entries"]) == task_of(name, carts).n_observation
    for env in (pictures, carts):
        env.close()


def test_a_memory_that_grows_is_compared_by_its_size(tmp_path: Path) -> None:
    """An LSTM's c that counts into the hundreds holds seven digits of them, not of 1: it is exported."""
    task = TaskSpec(environment="x", kind="task", n_observation=6, choices=(2,))
    agent = PpoLstm(task, PpoLstmConfig(pre_lstm=(), lstm=(16,)), seed=0)
    with torch.no_grad():
        bias = agent.network.trunk.lstm.layers[0].bias_ih_l0
        bias[:32], bias[32:48] = 20.0, 3.0  # input and forget gates open, cells add about 1
    training = Training(algorithm="ppo-lstm")
    policy = exportable(agent.policy(), task, name="x", training=training)
    report = export_policy(policy, tmp_path / "x.onnx", plan=((2, 600),))
    assert 0.0 < report.parity_max_abs_diff <= 1e-5
