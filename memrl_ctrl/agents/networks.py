"""Actor and critic: memory extraction, current-feature extraction, perception integration.

The names are those of Meng et al. 2021 (arXiv 2102.12344), section III.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.batch import Batch
from memrl_ctrl.agents.filters import FilterMemory, log_spread, mixed, surprise, wrap
from memrl_ctrl.agents.recurrent import Memory, NoMemory, SequenceMemory, WindowMemory, mlp
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LayersConfig, LstmTd3Config
from memrl_ctrl.errors import UsageError

OUTCOME_DEG = 0.5
"""Phase error below which the critics' scale is linear, degrees."""
COARSE_RAD = math.radians(10.0)
"""So much of an estimate's error costs 1 more, whatever spread it claims: a likelihood's tails hardly do."""
SHARPEST_RAD = math.radians(0.5)
"""Spread that every estimate is taken to have at least while it learns, or the sharpest would be all."""
LARGEST_SQUASHED = 0.9999
"""Of an action whose size is known: beyond it the tanh has no slope left."""


def build_memory(
    task: TaskSpec, config: LstmTd3Config, layers: LayersConfig, *, acts: bool = False
) -> Memory:
    """Return the kind of memory that the configuration names; `acts` for the policy's.

    Raises:
        UsageError: filters, in a task whose actions are no turns of a phase.
    """
    if config.filters and acts:
        if task.kind != "beam-phase":
            raise UsageError(
                "filters are for memrl/BeamPhase-v0 and memrl/BeamCycle-v0, whose actions are turns of a "
                f"phase, not for {task.environment!r}: leave them empty"
            )
        return FilterMemory(
            task.n_observation, layers, keeps=config.filters, half_range_rad=task.max_step_rad
        )
    sizes = (task.n_observation, task.n_action, layers)
    if config.memory == "sequence":
        return SequenceMemory(
            *sizes, actions=config.history_actions, scale=config.history_scale, acts=acts
        )
    if config.history_length == 0:
        return NoMemory(task.n_observation)
    return WindowMemory(*sizes, actions=config.history_actions, scale=config.history_scale)


def squash(pre_tanh: Tensor) -> Tensor:
    """Bring the actor's output into [-1, 1]."""
    return torch.tanh(pre_tanh)


def map_action(squashed: Tensor, kind: str) -> Tensor:
    """From the squashed output a in [-1, 1] to the unit action: a, or sign(a) a^2."""
    return squashed if kind == "linear" else squashed * squashed.abs()


def taken(squashed: Tensor, config: LstmTd3Config) -> Tensor:
    """Return the unit action that is taken: mapped, and 0 within the dead band."""
    unit = map_action(squashed, config.action_map)
    if config.dead_band == 0.0:
        return unit
    return torch.where(unit.abs() < config.dead_band, torch.zeros_like(unit), unit)


def in_full(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer with the digits of its weights, whatever the hidden layers compute in."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.as_tensor(layer(x.to(layer.weight.dtype)))


def outcome(error_over_pi: Tensor, change_rad: Tensor) -> Tensor:
    """Return what a phase error becomes by a change, near zero and far from it [..., 2].

    Args:
        error_over_pi: phase error / pi before it [..., 1].
        change_rad: change of phi_2 [..., 1], rad.

    Returns:
        log(1 + |e| / 0.5 deg) with the sign of e, and without it; both divided by its largest value.
    """
    error = math.pi * error_over_pi + change_rad
    degrees = torch.rad2deg(torch.atan2(torch.sin(error), torch.cos(error)))
    size = torch.log1p(degrees.abs() / OUTCOME_DEG) / math.log1p(180.0 / OUTCOME_DEG)
    return torch.cat((torch.sign(degrees) * size, size), dim=-1)


class Actor(nn.Module):
    """From memory and the present observation to the action before tanh."""

    def __init__(self, task: TaskSpec, config: LstmTd3Config) -> None:
        super().__init__()
        layers = config.actor
        self.memory = build_memory(task, config, layers, acts=True)
        self.current = mlp(self.memory.n_features, layers.current)
        n_current = [self.memory.n_features, *layers.current][-1]
        n_joined, n_out = self._ends(task, n_current)
        self.integration = mlp(n_joined, layers.combination)
        self.head = nn.Linear([n_joined, *layers.combination][-1], n_out)

    def _ends(self, task: TaskSpec, n_current: int) -> tuple[int, int]:
        """Length of what is integrated, and of what the head gives."""
        return self.memory.n_memory + n_current, task.n_action

    def decide(self, memory: Tensor, features: Tensor) -> Tensor:
        """Return the action before tanh [..., n_action]."""
        joined = torch.cat((memory, self.current(features)), dim=-1)
        return in_full(self.head, self.integration(joined))

    def forward(self, batch: Batch, *, after: bool = False) -> Tensor:
        """Return the actions before tanh at each decision of a batch [..., n_action]."""
        return self.decide(*self.memory.recall(batch, after=after))


class FilterActor(Actor):
    """From the averages of a bank of filters, and the LSTM's estimate, to the action before tanh: the change
    that is wanted, mixed."""

    memory: FilterMemory

    def __init__(self, task: TaskSpec, config: LstmTd3Config) -> None:
        super().__init__(task, config)
        nn.init.zeros_(self.head.weight)  # at first the filters weigh as they predict
        nn.init.zeros_(self.head.bias)

    def _ends(self, task: TaskSpec, n_current: int) -> tuple[int, int]:
        return self.memory.n_seen, self.memory.n_mixed

    def decide(self, memory: Tensor, features: Tensor) -> Tensor:
        """See `Actor`; what the head gives are corrections to the weights.

        It sees the bank only: with LSTM and encoder too it learns by heart what helps in the conditions that
        it is trained on. What it weighs learns from its own errors (`estimate_error`), not from the action.
        """
        seen, log_weights, averages, *_ = self.memory.parts(memory)
        with torch.autocast(seen.device.type, enabled=False):
            correction = self.head(self.integration(seen))
        unit = mixed(log_weights + correction, averages.detach()) / self.memory.half_range_rad
        unit = unit.clamp(-LARGEST_SQUASHED, LARGEST_SQUASHED)
        return 0.5 * (torch.log1p(unit) - torch.log1p(-unit))  # atanh, which has no export

    def estimate_error(self, memory: Tensor, truth: Tensor) -> Tensor:
        """Return how wrong what each observation says by itself and the LSTM's estimate are [...], summed.

        How unlikely their errors are for what is said of their spread: an estimate that does not know goes to
        the middle of what is likely, not to where the reward would be highest.

        Args:
            memory: [..., n_memory].
            truth: privileged features [..., n_truth].
        """
        *_, estimates, log_weight = self.memory.parts(memory)
        error = wrap(estimates + math.pi * truth[..., :1])
        # How far each is to be trusted is learnt from its errors, and does not change them.
        wrong = surprise(error, log_weight.detach(), SHARPEST_RAD) + error.abs() / COARSE_RAD
        trust = surprise(error.detach(), log_weight) + log_spread(log_weight)
        return (wrong + trust).sum(dim=-1)


def build_actor(task: TaskSpec, config: LstmTd3Config) -> Actor:
    """Return the actor that the configuration names."""
    return FilterActor(task, config) if config.filters else Actor(task, config)


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
        self.sees_outcome = config.critic_sees_outcome
        self.max_step_rad = task.max_step_rad
        if self.sees_outcome:
            if task.kind != "beam-phase" or not task.n_truth:
                raise UsageError(
                    "critic_sees_outcome is for memrl/BeamPhase-v0 and memrl/BeamCycle-v0, not for "
                    f"{task.environment!r}: set it to false"
                )
            n_in += 2
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
        if self.sees_outcome:
            change = self.max_step_rad * map_action(action, self.action_map)
            parts.append(outcome(truth[..., :1], change))
        joined = torch.cat((memory, self.current(torch.cat(parts, dim=-1))), dim=-1)
        return in_full(self.head, self.integration(joined)).squeeze(-1)

    def forward(self, batch: Batch, action: Tensor, *, after: bool = False) -> Tensor:
        """Return the values of squashed actions at each decision of a batch [...]."""
        memory, features = self.memory.recall(batch, after=after)
        truth = batch.next_truth if after else batch.truth
        return self.judge(memory, features, truth, action)
