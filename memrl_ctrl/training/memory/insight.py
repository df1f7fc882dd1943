"""Policies that can be looked into while they act: LSTM state, probabilities, value.

They act exactly as in evaluation; what is looked at is computed beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.errors import UsageError
from memrl_ctrl.policy.catalogue import locate
from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.training import checkpoint as checkpoints
from memrl_ctrl.training.evaluation import TorchPolicy
from memrl_ctrl.training.runs import policy_of, restore_agent

if TYPE_CHECKING:
    from memrl_ctrl.policy.runner import OnnxPolicy

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Units of the state that belong together."""

    name: str
    """For example `actor h1`: what is given out (h) or kept (c) by the actor's first layer."""
    size: int
    """How many there are."""


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """What was inside a policy at a decision; arrays [rows, ...]."""

    state: Array
    """h and c of the LSTM layers with which it decided [rows, units], block after block."""
    probabilities: Array | None
    """Of each choice [rows, sum of choices]; None for continuous actions, or where they are not known."""
    value: Array | None
    """Expected return [rows]; None where it is not known."""


class Insight(Protocol):
    """A policy as `memrl_ctrl.training.evaluation.Policy` has it, that can be looked into."""

    notes: tuple[str, ...]
    """What cannot be seen of it, in words."""
    value_words: str
    """What `value` is."""
    spread: Array | None
    """Deviation of what it draws while it learns [n_action], in the action's unit; None where it is not
    known or has none."""

    @property
    def manifest(self) -> PolicyManifest:
        """What it is."""
        ...

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The parts of its state."""
        ...

    @property
    def glimpse(self) -> Glimpse:
        """What was inside at the last decision."""
        ...

    def reset(self, rows: int, mask: Mask | None = None) -> None:
        """Begin episodes, in all rows or those in `mask` [rows]."""
        ...

    def act(
        self, observation: Array, previous_applied: Array, truth: Array | None = None
    ) -> NDArray[Any]:
        """Return actions and carry the memory on; `truth` [rows, n_truth] is for the critic only."""
        ...


def open_insight(path: Path, checkpoint: int | None = None) -> Insight:
    """Open a run folder, an ONNX file or a shipped policy.

    Args:
        path: of it, or its name.
        checkpoint: environment steps of a run's checkpoint; without it the last.

    Raises:
        FileError: it is neither, or damaged.
        UsageError: the policy has no memory; there is no such checkpoint.
    """
    found: Insight
    path = locate(path)
    if path.is_dir():
        file = checkpoints.find(path, checkpoint)
        content = checkpoints.load(file)
        agent, task, config = restore_agent(file, content)
        policy = TorchPolicy(policy_of(agent, task, config, int(content["steps"])))
        found = (
            PpoInsight(policy, agent) if isinstance(agent, PpoLstm) else Td3Insight(policy, agent)
        )
    else:
        if checkpoint is not None:
            raise UsageError("--checkpoint belongs to a run folder; a policy file holds one policy")
        from memrl_ctrl.training.memory.insight_onnx import OnnxInsight

        found = OnnxInsight(path)
    if not found.manifest.memory or not found.blocks:
        raise UsageError(
            f"the policy of {path} has no memory, so that there is nothing to see of it; "
            "`memrl-ctrl evaluate --render FILE.mp4` films what it does"
        )
    return found


class Looked:
    """What insights share; those that know no more have no notes, and no spread."""

    _policy: TorchPolicy | OnnxPolicy
    _blocks: tuple[Block, ...]
    _glimpse: Glimpse

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        self.value_words = "value"
        self.spread: Array | None = None

    @property
    def manifest(self) -> PolicyManifest:
        """See `Insight`."""
        return self._policy.manifest

    @property
    def blocks(self) -> tuple[Block, ...]:
        """See `Insight`."""
        return self._blocks

    @property
    def glimpse(self) -> Glimpse:
        """See `Insight`."""
        return self._glimpse

    def reset(self, rows: int, mask: Mask | None = None) -> None:
        """See `Insight`."""
        self._policy.reset(rows, mask)


class _FromTorch(Looked):
    """What insights of torch's policies share."""

    def __init__(self, policy: TorchPolicy) -> None:
        super().__init__()
        self._policy: TorchPolicy = policy
        self.module: Any = policy.module

    def reset(self, rows: int, mask: Mask | None = None) -> None:
        """See `Insight`."""
        super().reset(rows, mask)
        self._begin(rows, mask)

    def _begin(self, rows: int, mask: Mask | None) -> None:
        raise NotImplementedError

    def _truth(self, truth: Array | None, wanted: int, rows: int) -> Tensor | None:
        """Return what the critic sees beside the rest; None where it is missing."""
        if not wanted:
            return torch.zeros(rows, 0)
        if truth is None or truth.shape[1] != wanted:
            return None
        return torch.from_numpy(np.ascontiguousarray(truth))


class PpoInsight(_FromTorch):
    """Looks into PPO-LSTM: the actor's LSTM and, where the critic has its own, that too.

    Args:
        policy: what acts.
        agent: whose policy it is.
    """

    def __init__(self, policy: TorchPolicy, agent: PpoLstm) -> None:
        super().__init__(policy)
        self._network, self._normaliser = agent.averaged, agent.normaliser
        self._n_truth = agent.task.n_truth if agent.network.sees_truth else 0
        self._task = agent.task
        trunks = [("actor", agent.network.trunk)]
        if agent.network.own is not None:
            trunks.append(("critic", agent.network.own))
        self._blocks = tuple(block for n, trunk in trunks for block in _blocks(n, trunk.lstm.sizes))
        if manifest_config(policy.manifest, "agent", "normalise_rewards"):
            self.value_words = "value (of scaled rewards)"
        if not agent.task.choices:
            deviation = agent.averaged.log_std.detach().exp().numpy()
            self.spread = (deviation * agent.task.half_range).astype(np.float32)
        self._state = torch.zeros(0, agent.network.n_state)

    def _begin(self, rows: int, mask: Mask | None) -> None:
        fresh = torch.zeros(rows, self._network.n_state)
        if mask is not None:
            keeps = torch.from_numpy(~mask)
            fresh[keeps] = self._state[keeps]
        self._state = fresh

    @torch.no_grad()
    def act(
        self, observation: Array, previous_applied: Array, truth: Array | None = None
    ) -> NDArray[Any]:
        """See `Insight`."""
        action = self._policy.act(observation, previous_applied)
        seen = self._normaliser(torch.from_numpy(observation).flatten(1))
        previous = self.module.to_unit(torch.from_numpy(previous_applied))
        known = self._truth(truth, self._n_truth, len(observation))
        judged = torch.zeros(len(observation), self._n_truth) if known is None else known
        raw, value, self._state = self._network.step(seen, previous, self._state, judged)
        choices = self._task.choices
        self._glimpse = Glimpse(
            state=self._state.numpy().copy(),
            probabilities=shares(raw.numpy(), choices) if choices else None,
            value=None if known is None else value.numpy(),
        )
        return action


class Td3Insight(_FromTorch):
    """Looks into LSTM-TD3: the actor's LSTM, and the first critic's where it has one.

    Of a policy with a window the state is that at the window's end: the steps before the present one,
    read from zero.

    Args:
        policy: what acts.
        agent: whose policy it is.
    """

    def __init__(self, policy: TorchPolicy, agent: LstmTd3) -> None:
        super().__init__(policy)
        from memrl_ctrl.training.memory.reading import reader_of

        self._critic, self._normaliser = agent.critic, agent.normaliser
        self._n_truth = agent.task.n_truth if agent.critic.sees_truth else 0
        self._readers = {
            "actor": reader_of(self.module.actor.memory),
            "critic": reader_of(agent.critic.memory),
        }
        self._blocks = tuple(
            block for name, reader in self._readers.items() for block in _blocks(name, reader.sizes)
        )
        self.value_words = "Q of the action"

    def _begin(self, rows: int, mask: Mask | None) -> None:
        for reader in self._readers.values():
            reader.reset(rows, mask)

    @torch.no_grad()
    def act(
        self, observation: Array, previous_applied: Array, truth: Array | None = None
    ) -> NDArray[Any]:
        """See `Insight`."""
        before = self._policy.memory
        seen = torch.from_numpy(observation)
        previous = self.module.to_unit(torch.from_numpy(previous_applied))
        pre_tanh, _ = self.module.step(seen, previous, *before)
        action = self._policy.act(observation, previous_applied)
        scaled = self._normaliser(seen)
        states, features = [], {}
        for name, reader in self._readers.items():
            features[name], state = reader.read(scaled, previous, before, self._normaliser)
            states += state
        known = self._truth(truth, self._n_truth, len(observation))
        value = None
        if known is not None:
            value = self._critic.judge(*features["critic"], known, torch.tanh(pre_tanh)).numpy()
        self._glimpse = Glimpse(
            state=torch.cat(states, dim=-1).numpy() if states else np.zeros((len(seen), 0), "f4"),
            probabilities=None,
            value=value,
        )
        return action


def _blocks(name: str, sizes: tuple[int, ...]) -> tuple[Block, ...]:
    """Return the blocks of the layers of an LSTM."""
    return tuple(
        Block(name=f"{name} {part}{layer}", size=size)
        for layer, size in enumerate(sizes, start=1)
        for part in ("h", "c")
    )


def shares(raw: Array, choices: tuple[int, ...]) -> Array:
    """Return the probabilities of each choice, from an actor's output [rows, sum of choices]."""
    parts = np.split(raw, np.cumsum(choices)[:-1], axis=1)
    powers = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
    return np.concatenate([p / p.sum(axis=1, keepdims=True) for p in powers], axis=1)


def manifest_config(manifest: PolicyManifest, *names: str) -> Any:
    """Return an entry of the configuration that a policy was trained with; None where it has none."""
    found: Any = manifest.training.configuration
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
