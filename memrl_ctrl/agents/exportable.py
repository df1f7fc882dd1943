"""Policies as the outside sees them: `(observation, previous_applied, *memory) -> (action, *memory)`.

Training, evaluation and export all use the modules of this file, so that none of them can carry
another memory than the others. Everything a foreign runtime would need is inside `forward`:
normalisation, history, action map and scaling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.filters import FilterMemory
from memrl_ctrl.agents.networks import Actor, build_actor, squash, taken
from memrl_ctrl.agents.ppo_policy import PpoPolicy
from memrl_ctrl.agents.recurrent import (
    MemoryState,
    NoMemory,
    Normaliser,
    SequenceMemory,
    WindowMemory,
)
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LstmTd3Config, to_dict
from memrl_ctrl.policy.manifest import MemorySpec, PolicyManifest, Training


@dataclass(frozen=True, kw_only=True)
class ExportablePolicy:
    """A policy with all that is needed to drive it or to write it to a file."""

    module: nn.Module
    """`forward(observation [batch, n_observation], previous_applied [batch, n_action], *memory_in)`
    returns `(action [batch, n_action], *memory_out)`; float32, in evaluation mode."""
    manifest: PolicyManifest
    """What it is; without digest and parity, which the export adds."""

    def initial_memory(self, rows: int) -> MemoryState:
        """Memory at the start of an episode, for `rows` independent rows."""
        return tuple(
            torch.full((rows, *spec.shape), spec.reset, dtype=getattr(torch, spec.dtype))
            for spec in self.manifest.memory
        )


class PolicyModule(nn.Module):
    """A deterministic recurrent policy around an actor.

    Args:
        task: sizes and units.
        config: the agent's settings.
        actor: its network; shared, not copied.
        normaliser: scales observations; `Identity` for none; shared.
    """

    centre: Tensor
    half_range: Tensor

    def __init__(
        self, task: TaskSpec, config: LstmTd3Config, actor: Actor, normaliser: nn.Module
    ) -> None:
        super().__init__()
        self.actor, self.normaliser = actor, normaliser
        self.config = config
        self.uses_previous = config.history_actions and not isinstance(actor.memory, NoMemory)
        self.register_buffer("centre", torch.from_numpy(task.centre))
        self.register_buffer("half_range", torch.from_numpy(task.half_range))

    def forward(
        self, observation: Tensor, previous_applied: Tensor, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        """Decide once.

        Args:
            observation: [batch, n_observation].
            previous_applied: what was really applied after the last call [batch, n_action], in the
                task's unit (rad for the beam); 0 at the start.
            memory: what the last call returned; the reset values at the start.

        Returns:
            Action [batch, n_action] in the task's unit, and the memory for the next call.
        """
        pre_tanh, after = self.step(observation, self.to_unit(previous_applied), *memory)
        action = self.from_squashed(squash(pre_tanh))
        if not self.uses_previous:
            # Keeps the input in an exported graph, so that every policy is called the same way.
            action = action + 0.0 * previous_applied
        return (action, *after)

    def to_unit(self, applied: Tensor) -> Tensor:
        """From applied actions to unit actions."""
        return (applied - self.centre) / self.half_range

    def from_squashed(self, squashed: Tensor) -> Tensor:
        """From squashed actions to actions in the task's unit."""
        return taken(squashed, self.config) * self.half_range + self.centre

    def step(
        self, observation: Tensor, previous: Tensor, *memory: Tensor
    ) -> tuple[Tensor, MemoryState]:
        """Return the action before tanh, and the memory; `previous` is a unit action."""
        return self.actor.decide(
            torch.zeros(observation.shape[0], 0, device=observation.device),
            self.normaliser(observation),
        ), ()

    def memory_specs(self) -> tuple[MemorySpec, ...]:
        """Return the manifest's part about the memory."""
        return ()


class WindowPolicy(PolicyModule):
    """Carries the last steps: observations, applied actions, and how many of them are valid.

    The action behind the newest observation is not known until the next call brings it.
    """

    def __init__(
        self, task: TaskSpec, config: LstmTd3Config, actor: Actor, normaliser: nn.Module
    ) -> None:
        super().__init__(task, config, actor, normaliser)
        self.length = config.history_length
        self.shapes = (task.n_observation, task.n_action)

    def step(
        self, observation: Tensor, previous: Tensor, *memory: Tensor
    ) -> tuple[Tensor, MemoryState]:
        """See `PolicyModule`; memory is observations [batch, length, n_observation], unit actions
        [batch, length, n_action] and count [batch, 1]."""
        observations, actions, count = memory
        place = torch.arange(self.length, device=observation.device).view(1, -1, 1)
        newest = place == (count.unsqueeze(-1) - 1)
        actions = torch.where(newest, previous.unsqueeze(1), actions)
        window = self.actor.memory
        if not isinstance(window, WindowMemory):
            raise TypeError("a window policy needs an actor with a window")
        recalled = window(
            self.normaliser(observations).transpose(0, 1),
            actions.transpose(0, 1),
            count.squeeze(-1).to(torch.int64),
        )
        pre_tanh = self.actor.decide(recalled, self.normaliser(observation))
        # Append what was seen now: behind the valid steps, or at the end of the shifted window.
        full = (count >= self.length).unsqueeze(-1)
        count = torch.clamp(count + 1, max=float(self.length))
        here = place == (count.unsqueeze(-1) - 1)
        shifted = torch.cat((observations[:, 1:], observations[:, :1]), dim=1)
        observations = torch.where(full, shifted, observations)
        observations = torch.where(here, observation.unsqueeze(1), observations)
        shifted = torch.cat((actions[:, 1:], actions[:, :1]), dim=1)
        actions = torch.where(full, shifted, actions)
        return pre_tanh, (observations, actions, count)

    def memory_specs(self) -> tuple[MemorySpec, ...]:
        """See `PolicyModule`."""
        shapes = {
            "window_observation": (self.length, self.shapes[0]),
            "window_action": (self.length, self.shapes[1]),
            "window_count": (1,),
        }
        return tuple(
            MemorySpec(name_in=f"{name}_in", name_out=f"{name}_out", shape=shape)
            for name, shape in shapes.items()
        )


class SequencePolicy(PolicyModule):
    """Carries what the actor's memory carries: (h, c) of every LSTM layer, and its filters."""

    def step(
        self, observation: Tensor, previous: Tensor, *memory: Tensor
    ) -> tuple[Tensor, MemoryState]:
        """See `PolicyModule`; memory is the arrays of `SequenceMemory.carried` [batch, width]."""
        recurrent = self.actor.memory
        if not isinstance(recurrent, SequenceMemory):
            raise TypeError("a sequence policy needs an actor with a sequence memory")
        recalled, features, state = recurrent(
            self.normaliser(observation).unsqueeze(0), previous.unsqueeze(0), memory
        )
        return self.actor.decide(recalled.squeeze(0), features.squeeze(0)), state

    def memory_specs(self) -> tuple[MemorySpec, ...]:
        """See `PolicyModule`."""
        recurrent = self.actor.memory
        if not isinstance(recurrent, SequenceMemory):
            raise TypeError("a sequence policy needs an actor with a sequence memory")
        return tuple(
            MemorySpec(name_in=f"{name}_in", name_out=f"{name}_out", shape=(width,))
            for name, width in recurrent.carried.items()
        )


def policy_module(
    task: TaskSpec, config: LstmTd3Config, actor: Actor, normaliser: nn.Module
) -> PolicyModule:
    """Return the policy that carries the memory of the actor."""
    kind: type[PolicyModule] = {
        SequenceMemory: SequencePolicy,
        FilterMemory: SequencePolicy,
        WindowMemory: WindowPolicy,
        NoMemory: PolicyModule,
    }[type(actor.memory)]
    return kind(task, config, actor, normaliser).eval()


def exportable(
    module: PolicyModule | PpoPolicy, task: TaskSpec, *, name: str, training: Training
) -> ExportablePolicy:
    """Put a policy and its manifest together.

    Args:
        module: the policy; used, not copied.
        task: sizes and units.
        name: name for people.
        training: where the weights come from.
    """
    manifest = PolicyManifest(
        name=name,
        observation=task.observation_spec(),
        action=task.action_spec(),
        memory=module.memory_specs(),
        max_step_rad=task.max_step_rad,
        training=training,
    )
    return ExportablePolicy(module=module.eval().requires_grad_(False), manifest=manifest)


def untrained_policy(
    task: TaskSpec, agent: LstmTd3Config | None = None, *, seed: int = 0, gain: float = 1.0
) -> ExportablePolicy:
    """Return a policy with random weights, for tests of everything around a policy.

    Args:
        task: sizes and units, for example `beam_task(n_slices=128)`.
        agent: its settings; the paper's without it.
        seed: of the weights; torch's global generator is left alone.
        gain: factor on the last layer, for actions of a wanted size.
    """
    config = agent or LstmTd3Config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = build_actor(task, config)
        normaliser: nn.Module = nn.Identity()
        if config.normalise_observations:
            normaliser = Normaliser(task.n_observation)
            normaliser.update(torch.rand(64, task.n_observation))
    with torch.no_grad():
        actor.head.weight.mul_(gain)
    module = policy_module(task, config, actor, normaliser)
    training = Training(
        algorithm="none", task=task.environment, seed=seed, configuration=to_dict(config)
    )
    return exportable(module, task, name=f"untrained-{config.memory}", training=training)
