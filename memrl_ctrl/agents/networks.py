"""Actor and critic: memory extraction, current-feature extraction, perception integration.

The names are those of Meng et al. 2021 (arXiv 2102.12344), section III.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.batch import Batch
from memrl_ctrl.agents.recurrent import Memory, NoMemory, SequenceMemory, WindowMemory, mlp
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LayersConfig, LstmTd3Config


def build_memory(
    task: TaskSpec, config: LstmTd3Config, layers: LayersConfig, *, acts: bool = False
) -> Memory:
    """Return the kind of memory that the configuration names; `acts` for the policy's."""
    sizes = (task.n_observation, task.n_action, layers)
    if config.memory == "sequence":
        return SequenceMemory(*sizes, actions=config.history_actions, acts=acts)
    if config.history_length == 0:
        return NoMemory(task.n_observation)
    return WindowMemory(*sizes, actions=config.history_actions)


def squash(pre_tanh: Tensor) -> Tensor:
    """Bring the actor's output into [-1, 1]."""
    return torch.tanh(pre_tanh)


def map_action(squashed: Tensor, kind: str) -> Tensor:
    """From the squashed output a in [-1, 1] to the unit action: a, or sign(a) a^2."""
    return squashed if kind == "linear" else squashed * squashed.abs()


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer in float32 whatever the hidden layers compute in: a value needs its digits."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.as_tensor(layer(x.float()))


class Actor(nn.Module):
    """From memory and the present observation to the action before tanh."""

    def __init__(self, task: TaskSpec, config: LstmTd3Config) -> None:
        super().__init__()
        layers = config.actor
        self.memory = build_memory(task, config, layers, acts=True)
        self.current = mlp(self.memory.n_features, layers.current)
        n_joined = self.memory.n_memory + [self.memory.n_features, *layers.current][-1]
        self.integration = mlp(n_joined, layers.combination)
        self.head = nn.Linear([n_joined, *layers.combination][-1], task.n_action)

    def decide(self, memory: Tensor, features: Tensor) -> Tensor:
        """Return the action before tanh [..., n_action]."""
        joined = torch.cat((memory, self.current(features)), dim=-1)
        return in_float32(self.head, self.integration(joined))

    def forward(self, batch: Batch, *, after: bool = False) -> Tensor:
        """Return the actions before tanh at each decision of a batch [..., n_action]."""
        return self.decide(*self.memory.recall(batch, after=after))


class Critic(nn.Module):
    """From memory, observation, privileged features and action to the value [...]."""

    def __init__(self, task: TaskSpec, config: LstmTd3Config) -> None:
        super().__init__()
        layers = config.critic
        self.action_map = config.action_map
        self.sees_truth = config.critic_sees_truth
        self.memory = (
            build_memory(task, config, layers)
            if config.critic_memory
            else NoMemory(task.n_observation, sees_observation=config.critic_sees_observation)
        )
        n_action = task.n_action * (1 if config.action_map == "linear" else 2)
        n_in = self.memory.n_features + n_action + (task.n_truth if self.sees_truth else 0)
        self.current = mlp(n_in, layers.current)
        n_joined = self.memory.n_memory + [n_in, *layers.current][-1]
        self.integration = mlp(n_joined, layers.combination)
        self.head = nn.Linear([n_joined, *layers.combination][-1], 1)

    def judge(self, memory: Tensor, features: Tensor, truth: Tensor, action: Tensor) -> Tensor:
        """Return the value of squashed actions [..., n_action] as [...]."""
        parts = [features, action]
        if self.action_map != "linear":
            parts.append(map_action(action, self.action_map))
        if self.sees_truth:
            parts.append(truth)
        joined = torch.cat((memory, self.current(torch.cat(parts, dim=-1))), dim=-1)
        return in_float32(self.head, self.integration(joined)).squeeze(-1)

    def forward(self, batch: Batch, action: Tensor, *, after: bool = False) -> Tensor:
        """Return the values of squashed actions at each decision of a batch [...]."""
        memory, features = self.memory.recall(batch, after=after)
        truth = batch.next_truth if after else batch.truth
        return self.judge(memory, features, truth, action)
