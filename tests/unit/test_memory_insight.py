"""Looking into a policy changes nothing that it does, and shows the state that it decides with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.recurrent import WindowMemory
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LayersConfig, LstmTd3Config, PpoLstmConfig, TrainingConfig, resolve
from memrl_ctrl.errors import UsageError
from memrl_ctrl.policy.manifest import Training
from memrl_ctrl.training.evaluation import TorchPolicy
from memrl_ctrl.training.memory.insight import Insight, PpoInsight, Td3Insight, open_insight
from memrl_ctrl.training.memory.insight_onnx import NO_CELL, NO_SPREAD, NO_VALUE, OnnxInsight
from memrl_ctrl.training.memory.reading import reader_of
from memrl_ctrl.training.runs import policy_of, save_run

CHOICES = TaskSpec(environment="test/A", kind="task", n_observation=4, choices=(3, 2))
NUMBERS = TaskSpec(
    environment="test/B",
    kind="task",
    n_observation=4,
    action_low=(-2.0, 0.0),
    action_high=(2.0, 1.0),
)
SMALL = LayersConfig(pre_lstm=(8,), lstm=(6, 5), current=(8,), combination=(8,))


def ppo(task: TaskSpec, **changes: Any) -> tuple[TorchPolicy, PpoInsight]:
    config = resolve("ppo-lstm-cartpole-no-vel")
    settings: dict[str, Any] = {"pre_lstm": (8,), "lstm": (6, 5), "history_actions": True}
    agent = PpoLstm(task, PpoLstmConfig(**{**settings, **changes}), seed=3)
    agent.observe(np.random.default_rng(0).normal(size=(50, 4)).astype("f4"))
    policies = [TorchPolicy(policy_of(agent, task, config, 0)) for _ in range(2)]
    return policies[0], PpoInsight(policies[1], agent)


def td3(**changes: Any) -> tuple[TorchPolicy, Td3Insight]:
    config = resolve("recall")
    settings: dict[str, Any] = {"actor": SMALL, "critic": SMALL, "history_length": 3}
    agent = LstmTd3(NUMBERS, LstmTd3Config(**{**settings, **changes}), seed=3)
    policies = [TorchPolicy(policy_of(agent, NUMBERS, config, 0)) for _ in range(2)]
    return policies[0], Td3Insight(policies[1], agent)


def drive(plain: Any, insight: Insight, task: TaskSpec, steps: int = 7) -> None:
    """Both act on the same; what they do must be the same."""
    rng = np.random.default_rng(1)
    shape = task.action_spec().shape
    plain.reset(5)
    insight.reset(5)
    for step in range(steps):
        seen = rng.normal(size=(5, 4)).astype("f4")
        if task.choices:
            applied = rng.integers(0, 3, (5, *shape)).astype("f4")
        else:
            applied = rng.uniform(0.0, 1.0, (5, *shape)).astype("f4")
        if step == 4:
            mask = np.array([True, False, False, True, False])
            plain.reset(5, mask)
            insight.reset(5, mask)
        np.testing.assert_array_equal(plain.act(seen, applied), insight.act(seen, applied))


@pytest.mark.parametrize("shared", [True, False])
def test_ppo_is_seen_as_it_is(shared: bool) -> None:
    """The most probable choices are those that are made, the state is the policy's own memory, and a
    critic with an LSTM of its own adds to it."""
    plain, insight = ppo(CHOICES, shared=shared)
    drive(plain, insight, CHOICES)
    seen = np.ones((5, 4), dtype="f4")
    made = insight.act(seen, np.zeros((5, 2), dtype="f4"))
    glimpse = insight.glimpse
    assert glimpse.probabilities is not None
    assert glimpse.value is not None
    assert glimpse.value.shape == (5,)
    shares = np.split(glimpse.probabilities, [3], axis=1)
    np.testing.assert_array_equal(made, np.stack([s.argmax(axis=1) for s in shares], axis=1))
    np.testing.assert_allclose([s.sum(axis=1) for s in shares], 1.0, rtol=1e-5)
    plain.act(seen, np.zeros((5, 2), dtype="f4"))
    carried = torch.cat(plain.memory, dim=1).numpy()
    np.testing.assert_allclose(glimpse.state[:, : carried.shape[1]], carried, atol=1e-6)
    names = [block.name for block in insight.blocks]
    assert names[:4] == ["actor h1", "actor c1", "actor h2", "actor c2"]
    assert len(names) == (4 if shared else 8)
    assert glimpse.state.shape[1] == sum(block.size for block in insight.blocks)


def test_the_spread_is_in_the_actions_unit() -> None:
    """A deviation of exp(-0.5) of half the range: 2 and 0.5."""
    plain, insight = ppo(NUMBERS, initial_log_std=-0.5)
    drive(plain, insight, NUMBERS)
    assert insight.glimpse.probabilities is None
    assert insight.spread is not None
    np.testing.assert_allclose(insight.spread, np.exp(-0.5) * np.array([2.0, 0.5]), rtol=1e-5)


@pytest.mark.parametrize("memory", ["window", "sequence"])
def test_td3_is_seen_as_it_is(memory: str) -> None:
    """Actions are the policy's; Q is that of its action, at the state of both networks."""
    plain, insight = td3(memory=memory)
    drive(plain, insight, NUMBERS)
    glimpse = insight.glimpse
    assert glimpse.state.shape == (5, 2 * 2 * (6 + 5))
    assert glimpse.value is not None
    assert np.unique(glimpse.value).size == 5
    if memory == "sequence":
        carried = torch.cat(plain.memory, dim=1).numpy()
        np.testing.assert_allclose(glimpse.state[:, :22], carried, atol=1e-6)


def test_an_empty_window_holds_nothing() -> None:
    """Before the first step there is none that could be remembered."""
    _, insight = td3()
    insight.reset(2)
    insight.act(np.ones((2, 4), dtype="f4"), np.zeros((2, 2), dtype="f4"))
    assert not insight.glimpse.state.any()


def test_a_window_is_read_as_the_network_reads_it() -> None:
    """Features at every length are those of `WindowMemory.forward`, also with rows of other lengths."""
    memory = WindowMemory(4, 2, SMALL, actions=True)
    rng = torch.Generator().manual_seed(0)
    seen, acted = torch.randn(4, 5, 4, generator=rng), torch.randn(4, 5, 2, generator=rng)
    count = torch.tensor([0, 1, 2, 4, 5])[:4].float().unsqueeze(1)
    previous = torch.randn(4, 2, generator=rng)
    present = torch.zeros(4, 4)
    with torch.no_grad():
        (features, _), state = reader_of(memory).read(
            present, previous, (seen, acted, count), torch.nn.Identity()
        )
        newest = acted.clone()
        for row, n in enumerate(count[:, 0].int().tolist()):
            if n:
                newest[row, n - 1] = previous[row]
        wanted = memory(seen.transpose(0, 1), newest.transpose(0, 1), count[:, 0].long())
    torch.testing.assert_close(features, wanted)
    assert [part.shape[1] for part in state] == [6, 6, 5, 5]


@pytest.mark.parametrize("kind", ["choices", "numbers", "window", "sequence"])
def test_a_policy_file_shows_what_its_run_shows(kind: str, tmp_path: Path) -> None:
    """State and probabilities come out of the graph; what a file does not hold is said."""
    exporter = pytest.importorskip("memrl_deploy.exporter")
    task = CHOICES if kind == "choices" else NUMBERS
    plain, insight = ppo(task) if kind in {"choices", "numbers"} else td3(memory=kind)
    path = tmp_path / "p.onnx"
    exporter.export_policy(plain._policy, path, plan=((2, 9),))
    file = OnnxInsight(path)
    assert NO_VALUE in file.notes
    assert (NO_CELL in file.notes) is (kind == "window")
    rng = np.random.default_rng(2)
    insight.reset(3)
    file.reset(3)
    shape = task.action_spec().shape
    for _ in range(6):
        seen = rng.normal(size=(3, 4)).astype("f4")
        applied = np.ones((3, *shape), dtype="f4")
        insight.act(seen, applied)
        file.act(seen, applied)
        ours, theirs = insight.glimpse, file.glimpse
        # Of a window's file h of both layers is shown.
        units = np.r_[0:6, 12:17] if kind == "window" else np.arange(theirs.state.shape[1])
        np.testing.assert_allclose(theirs.state, ours.state[:, units], atol=1e-5)
        assert theirs.value is None
        if kind == "choices":
            assert theirs.probabilities is not None
            assert ours.probabilities is not None
            np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)


def test_a_file_of_ppo_names_the_missing_spread(tmp_path: Path) -> None:
    """The deviation of continuous actions is not part of a policy file."""
    exporter = pytest.importorskip("memrl_deploy.exporter")
    import msgspec

    plain, _ = ppo(NUMBERS)
    policy = plain._policy
    training = Training(algorithm="ppo-lstm", task="test/B")
    manifest = msgspec.structs.replace(policy.manifest, training=training)
    import dataclasses

    exporter.export_policy(
        dataclasses.replace(policy, manifest=manifest), tmp_path / "p.onnx", plan=((2, 5),)
    )
    assert NO_SPREAD in OnnxInsight(tmp_path / "p.onnx").notes


def _saved(tmp_path: Path, agent: Any, config: TrainingConfig) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_run(folder, config=config, task=agent.task, agent=agent, steps=5, seconds=1.0, rest={})
    return folder


def test_a_policy_without_memory_is_refused(tmp_path: Path) -> None:
    """The sentence says what shows such a policy."""
    config = resolve("recall", ["agent.history_length=0"])
    assert isinstance(config.agent, LstmTd3Config)
    agent = LstmTd3(NUMBERS, config.agent, seed=0)
    with pytest.raises(UsageError, match="has no memory, so that there is nothing to see"):
        open_insight(_saved(tmp_path, agent, config))


def test_a_run_is_opened_by_its_checkpoint(tmp_path: Path) -> None:
    """The critic's LSTM is there too."""
    config = resolve("recall")
    assert isinstance(config.agent, LstmTd3Config)
    agent = LstmTd3(NUMBERS, config.agent, seed=0)
    insight = open_insight(_saved(tmp_path, agent, config), 5)
    assert [b.name for b in insight.blocks] == ["actor h1", "actor c1", "critic h1", "critic c1"]
    with pytest.raises(UsageError, match="no checkpoint at step 6"):
        open_insight(tmp_path / "run", 6)


def test_a_checkpoint_of_a_policy_file_is_refused(tmp_path: Path) -> None:
    """A file holds one policy."""
    with pytest.raises(UsageError, match="--checkpoint belongs to a run folder"):
        open_insight(tmp_path / "p.onnx", 5)
