"""A plain window LSTM-TD3, as one would write it down from the paper, to compare speeds with.

Meng, Gorbet, Kulic 2021 (arXiv 2102.12344), algorithm 1 and figure 1, with nothing done for speed:
transitions in a list and histories assembled one by one, batch-first LSTMs, Adam as it comes, gradients
through the critic for the actor's loss. It is not used for training.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a comparison."""

    observation: int
    """Length of the observation."""
    action: int
    """Length of the action."""
    batch: int
    """Decisions in a batch."""
    history: int
    """Steps of a history."""
    layers: tuple[int, int, int]
    """Units of the pre-LSTM layer, of the LSTM, and of the layer after the combination; the
    current-feature layer has those of the last."""


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Fully connected layers with ReLU."""
    parts: list[nn.Module] = []
    for below, above in pairwise(sizes):
        parts += [nn.Linear(below, above), nn.ReLU()]
    return nn.Sequential(*parts)


class Network(nn.Module):
    """Memory extraction, current features, perception integration."""

    def __init__(self, sizes: Sizes, n_current: int, n_out: int) -> None:
        super().__init__()
        before, hidden, combined = sizes.layers
        self.before = layers([sizes.observation + sizes.action, before])
        self.lstm = nn.LSTM(before, hidden, batch_first=True)
        self.current = layers([n_current, combined])
        self.combination = nn.Sequential(
            layers([hidden + combined, combined]), nn.Linear(combined, n_out)
        )

    def forward(
        self, observations: Tensor, actions: Tensor, count: Tensor, current: Tensor
    ) -> Tensor:
        """Histories [batch, length, ...] with their valid lengths, and the current input."""
        out, _ = self.lstm(self.before(torch.cat([observations, actions], dim=-1)))
        last = (count - 1).clamp(min=0).long().view(-1, 1, 1).expand(-1, 1, out.shape[-1])
        memory = out.gather(1, last).squeeze(1) * (count > 0).unsqueeze(-1)
        joined = torch.cat([memory, self.current(current)], dim=-1)
        return torch.as_tensor(self.combination(joined))


@dataclass
class Transition:
    """One step."""

    observation: Array
    action: Array
    reward: float
    following: Array
    done: bool
    first: bool


class PlainLstmTd3:
    """The algorithm over a list of transitions."""

    def __init__(self, sizes: Sizes, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.sizes = sizes
        self.rng = np.random.default_rng(seed)
        self.memory: list[Transition] = []
        n_both = sizes.observation + sizes.action
        self.actor = Network(sizes, sizes.observation, sizes.action)
        self.critics = [Network(sizes, n_both, 1) for _ in range(2)]
        self.target_actor = copy.deepcopy(self.actor)
        self.target_critics = copy.deepcopy(self.critics)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        both = [p for critic in self.critics for p in critic.parameters()]
        self.critic_optimiser = torch.optim.Adam(both, lr=1e-3)
        self.updates = 0

    def sample(self) -> dict[str, Tensor]:
        """Draw transitions, each with its history, one after the other."""
        sizes, rows = self.sizes, []
        for index in self.rng.integers(sizes.history, len(self.memory), sizes.batch):
            begin = index
            while begin > index - sizes.history and not self.memory[begin].first:
                begin -= 1
            steps = self.memory[begin:index]
            now = self.memory[index]
            padded = np.zeros((2, sizes.history, sizes.observation), dtype=np.float32)
            acted = np.zeros((2, sizes.history, sizes.action), dtype=np.float32)
            for which, history in enumerate((steps, [*steps, now][-sizes.history :])):
                for place, step in enumerate(history):
                    padded[which, place], acted[which, place] = step.observation, step.action
            rows.append(
                (
                    padded[0], acted[0], len(steps), padded[1], acted[1],
                    min(len(steps) + 1, sizes.history), now.observation, now.action,
                    now.reward, now.following, float(now.done),
                )
            )  # fmt: skip
        names = (
            "history", "acted", "count", "next_history", "next_acted", "next_count",
            "observation", "action", "reward", "following", "done",
        )  # fmt: skip
        columns = zip(*rows, strict=True)
        return {
            name: torch.as_tensor(np.array(column, dtype=np.float32))
            for name, column in zip(names, columns, strict=True)
        }

    def update(self) -> None:
        """One critic update; every second time the actor and the targets."""
        b = self.sample()
        now = b["history"], b["acted"], b["count"]
        after = b["next_history"], b["next_acted"], b["next_count"]
        with torch.no_grad():
            action = torch.tanh(self.target_actor(*after, b["following"]))
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            action = (action + noise).clamp(-1.0, 1.0)
            current = torch.cat([b["following"], action], dim=-1)
            values = [critic(*after, current).squeeze(-1) for critic in self.target_critics]
            target = b["reward"] + 0.99 * (1.0 - b["done"]) * torch.min(*values)
        current = torch.cat([b["observation"], b["action"]], dim=-1)
        losses = [
            ((critic(*now, current).squeeze(-1) - target) ** 2).mean() for critic in self.critics
        ]
        self.critic_optimiser.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        self.critic_optimiser.step()
        self.updates += 1
        if self.updates % 2:
            return
        action = torch.tanh(self.actor(*now, b["observation"]))
        current = torch.cat([b["observation"], action], dim=-1)
        loss = -self.critics[0](*now, current).mean()
        self.actor_optimiser.zero_grad()
        loss.backward()
        self.actor_optimiser.step()
        with torch.no_grad():
            pairs = [(self.target_actor, self.actor)]
            pairs += list(zip(self.target_critics, self.critics, strict=True))
            for slow, fast in pairs:
                for mine, other in zip(slow.parameters(), fast.parameters(), strict=True):
                    mine.mul_(0.995).add_(0.005 * other)
