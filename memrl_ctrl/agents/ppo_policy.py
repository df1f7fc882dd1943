"""PPO-LSTM's policy as the outside sees it; see `memrl_ctrl.agents.exportable`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.networks import map_action
from memrl_ctrl.agents.ppo_networks import PpoNetwork
from memrl_ctrl.agents.recurrent import MemoryState
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.policy.manifest import MemorySpec


class PpoPolicy(nn.Module):
    """The most likely action of the actor; its memory is (h, c) of every LSTM layer.

    Args:
        task: sizes and units.
        network: used, not copied; the critic is not.
        normaliser: scales observations; `Identity` for none.
        action_map: what a continuous action is of the actor's output (`PpoLstmConfig.action_map`).
    """

    centre: Tensor
    half_range: Tensor

    def __init__(
        self,
        task: TaskSpec,
        network: PpoNetwork,
        normaliser: nn.Module,
        *,
        action_map: str = "linear",
    ) -> None:
        super().__init__()
        self.action_map = action_map
        self.trunk, self.actor, self.normaliser = network.trunk, network.actor, normaliser
        self.choices, self.masked = task.choices, task.masked
        self.register_buffer("centre", torch.from_numpy(task.centre))
        self.register_buffer("half_range", torch.from_numpy(task.half_range))

    def forward(
        self, observation: Tensor, previous_applied: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """Decide once.

        Args:
            observation: [batch, ...], of the task's shape.
            previous_applied: what was really applied after the last call, in the task's unit; 0 at the
                start. For choices [batch, actions]: 1 + the choice that was made.
            rest: what the last call returned, zeros at the start; for a task that says which choices may
                be made, before it a 1 for those [batch, sum of choices].

        Returns:
            Action: [batch, n_action] in the task's unit, or the choices as int64 [batch, actions]; and
            the memory for the next call.
        """
        allowed, memory = (rest[0], rest[1:]) if self.masked else (None, rest)
        raw, after = self.step(observation.flatten(1), self.to_unit(previous_applied), *memory)
        if not self.choices:
            unit = map_action(raw.clamp(-1.0, 1.0), self.action_map)
            action = unit * self.half_range + self.centre
            if not self.trunk.actions:
                # Keeps the input in an exported graph, so that every policy is called the same way.
                action = action + 0.0 * previous_applied
            return (action, *after)
        if allowed is not None:
            raw = raw.masked_fill(allowed == 0, -1e9)
        parts = torch.split(raw, list(self.choices), dim=-1)
        chosen = torch.stack([part.argmax(dim=-1) for part in parts], dim=-1)
        if not self.trunk.actions:
            chosen = chosen + (0.0 * previous_applied).to(chosen.dtype)
        return (chosen, *after)

    def to_unit(self, applied: Tensor) -> Tensor:
        """From applied actions to unit actions."""
        if not self.choices:
            return (applied - self.centre) / self.half_range
        parts = []
        for number, count in enumerate(self.choices):
            place = torch.arange(1, count + 1, device=applied.device, dtype=applied.dtype)
            parts.append((applied[:, number : number + 1] == place).to(applied.dtype))
        return torch.cat(parts, dim=-1)

    def step(
        self, observation: Tensor, previous: Tensor, *memory: Tensor
    ) -> tuple[Tensor, MemoryState]:
        """Return the actor's output, and the memory; `previous` is a unit action."""
        # Through the same LSTM as over sequences: exporters know it, unlike single cells.
        seen = self.trunk.seen(self.normaliser(observation), previous)
        out, after = self.trunk.lstm(seen.unsqueeze(0), memory)
        return self.actor(out.squeeze(0)), after

    def memory_specs(self) -> tuple[MemorySpec, ...]:
        """Return the manifest's part about the memory."""
        return tuple(
            MemorySpec(name_in=f"{part}{i}_in", name_out=f"{part}{i}_out", shape=(size,))
            for i, size in enumerate(self.trunk.lstm.sizes)
            for part in ("h", "c")
        )
