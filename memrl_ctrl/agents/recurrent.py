"""The recurrent core: stacked LSTMs, the two kinds of memory, the observation normaliser.

Sequences are time-major, [time, batch, features]: torch's LSTM takes them without a copy.

A memory turns a `Batch` from the replay into a feature vector for every decision in it, and can do the
same one step at a time while acting. That both give the same numbers is tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.batch import Batch
from memrl_ctrl.config import LayersConfig

MemoryState = tuple[Tensor, ...]
"""Arrays [batch, ...] that a policy carries from one call to the next."""


def mlp(n_in: int, sizes: Sequence[int]) -> nn.Sequential:
    """Fully connected layers with ReLU after each; the identity for no sizes."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(n_in, size), nn.ReLU()]
        n_in = size
    return nn.Sequential(*layers)


class StackedLstm(nn.Module):
    """LSTM layers one above the other, each of its own size."""

    def __init__(self, n_in: int, sizes: Sequence[int]) -> None:
        super().__init__()
        widths = [n_in, *sizes]
        self.sizes = tuple(sizes)
        self.layers = nn.ModuleList(nn.LSTM(below, above) for below, above in pairwise(widths))

    def forward(self, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Run over a sequence.

        Args:
            x: [time, batch, n_in].
            state: (h, c) of each layer, [batch, size] each; None is zero.

        Returns:
            Output of the last layer [time, batch, size], and the state after the last step.
        """
        out: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            before = None
            if state is not None:
                before = (state[2 * i].unsqueeze(0), state[2 * i + 1].unsqueeze(0))
            x, (h, c) = layer(x, before)
            out += [h.squeeze(0), c.squeeze(0)]
        return x, tuple(out)


class Normaliser(nn.Module):
    """Scales observations by their running mean and standard deviation.

    The statistics are buffers: saved with the weights, and constants of an exported graph.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    LIMIT = 10.0
    """Scaled observations are clipped to this many standard deviations."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("variance", torch.ones(n))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Scale observations [..., n]."""
        scaled = (x - self.mean) * torch.rsqrt(self.variance + 1e-8)
        return scaled.clamp(-self.LIMIT, self.LIMIT)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take observations [batch, n] into the statistics (Chan, Golub, LeVeque 1983)."""
        n = float(x.shape[0])
        mean = x.mean(dim=0)
        variance = x.var(dim=0, correction=0)
        total = self.count + n
        difference = mean - self.mean
        squares = self.variance * self.count + variance * n
        squares += difference.square() * self.count * n / total
        self.mean += difference * n / total
        self.variance.copy_(squares / total)
        self.count.copy_(total)


class Memory(Protocol):
    """What an actor or critic asks of its memory."""

    n_memory: int
    n_features: int

    def recall(self, batch: Batch, *, after: bool) -> tuple[Tensor, Tensor]:
        """Memory [..., n_memory] and features [..., n_features] at each decision of a batch.

        Args:
            batch: what the replay gave, with observations already scaled.
            after: at the next decision instead of at this one.
        """
        ...


FINEST = 360.0
"""1 over the size of an action, as a share of the range, up to which the logarithmic scale is linear."""


class PastActions(nn.Module):
    """Unit actions [..., n] as a memory sees them [..., n_out].

    `linear` leaves them as they are; `logarithmic` adds sign(a) log(1 + 360 |a|), divided by its largest
    value: of an action range of 90 degrees it shows a quarter of a degree as a ninth of the whole.
    """

    def __init__(self, n: int, scale: str) -> None:
        super().__init__()
        self.fine = scale == "logarithmic"
        self.n_out = 2 * n if self.fine else n

    def forward(self, actions: Tensor) -> Tensor:
        """Return the actions [..., n] on every scale."""
        if not self.fine:
            return actions
        size = torch.log1p(FINEST * actions.abs()) / math.log1p(FINEST)
        return torch.cat((actions, torch.sign(actions) * size), dim=-1)


class NoMemory(nn.Module):
    """Sees the present only."""

    def __init__(self, n_observation: int, *, sees_observation: bool = True) -> None:
        super().__init__()
        self.n_memory = 0
        self.n_features = n_observation if sees_observation else 0

    def recall(self, batch: Batch, *, after: bool) -> tuple[Tensor, Tensor]:
        """See `Memory`."""
        observation = batch.next_observation if after else batch.observation
        return observation[..., :0], observation[..., : self.n_features]


class WindowMemory(nn.Module):
    """Memory extraction of Meng et al. 2021: an LSTM from a zero state over the last steps.

    A step is an observation and the action that was applied after it. Windows are left-aligned: what
    is behind `count` is never looked at, because an LSTM looks back only. An empty window gives zero.
    """

    def __init__(
        self,
        n_observation: int,
        n_action: int,
        layers: LayersConfig,
        *,
        actions: bool,
        scale: str = "linear",
    ) -> None:
        super().__init__()
        self.actions, self.past = actions, PastActions(n_action, scale)
        n_in = n_observation + (self.past.n_out if actions else 0)
        self.before = mlp(n_in, layers.pre_lstm)
        self.lstm = StackedLstm([n_in, *layers.pre_lstm][-1], layers.lstm)
        self.behind = mlp(layers.lstm[-1], layers.post_lstm)
        self.n_memory = [layers.lstm[-1], *layers.post_lstm][-1]
        self.n_features = n_observation

    def steps(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return what the layers before the LSTM get: scaled observations and unit actions, joined."""
        if not self.actions:
            return observations
        return torch.cat((observations, self.past(actions)), dim=-1)

    def forward(self, observations: Tensor, actions: Tensor, count: Tensor) -> Tensor:
        """Read a window.

        Args:
            observations: [length, batch, n_observation], scaled.
            actions: unit actions that were applied after them [length, batch, n_action].
            count: valid steps of each window [batch], int64.

        Returns:
            Memory [batch, n_memory].
        """
        out, _ = self.lstm(self.before(self.steps(observations, actions)))
        last = (count - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, out.shape[-1])
        read = out.gather(0, last).squeeze(0)
        return torch.as_tensor(self.behind(read * (count > 0).unsqueeze(-1)))

    def recall(self, batch: Batch, *, after: bool) -> tuple[Tensor, Tensor]:
        """See `Memory`."""
        if after:
            window, observation = batch.next_window, batch.next_observation
        else:
            window, observation = batch.window, batch.observation
        if window is None:
            raise ValueError("the batch holds no windows")
        return self(window.observation, window.action, window.count), observation


class SequenceMemory(nn.Module):
    """An LSTM over the whole episode, the present observation included.

    Its input is the encoded observation and the action that was applied before it. Over a part of an
    episode the policy's own (`acts`) begins with what it was when it acted; others with zero.
    """

    def __init__(
        self,
        n_observation: int,
        n_action: int,
        layers: LayersConfig,
        *,
        actions: bool,
        scale: str = "linear",
        acts: bool = False,
        n_beside: int = 0,
    ) -> None:
        super().__init__()
        self.actions, self.acts = actions, acts
        self.past = PastActions(n_action, scale)
        self.encoder = mlp(n_observation, layers.pre_lstm)
        n_encoded = [n_observation, *layers.pre_lstm][-1]
        n_in = n_encoded + (self.past.n_out if actions else 0) + n_beside
        self.lstm = StackedLstm(n_in, layers.lstm)
        self.behind = mlp(layers.lstm[-1], layers.post_lstm)
        self.n_memory = [layers.lstm[-1], *layers.post_lstm][-1]
        self.shares_encoder = not layers.current
        self.n_features = n_encoded if self.shares_encoder else n_observation

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of the LSTM's layers."""
        return self.lstm.sizes

    @property
    def carried(self) -> dict[str, int]:
        """Name and width of every array that is carried; h and c of each layer come first."""
        return {f"{part}{i}": size for i, size in enumerate(self.sizes) for part in ("h", "c")}

    def forward(
        self, observations: Tensor, previous: Tensor, state: MemoryState | None = None
    ) -> tuple[Tensor, Tensor, MemoryState]:
        """Run over a sequence.

        Args:
            observations: [time, batch, n_observation], scaled.
            previous: unit actions applied before them [time, batch, n_action].
            state: arrays of `carried` [batch, width]; None at the start of episodes.

        Returns:
            Memory [time, batch, n_memory], features [time, batch, n_features], state.
        """
        encoded = self.encoder(observations)
        x = torch.cat((encoded, self.past(previous)), dim=-1) if self.actions else encoded
        out, state = self.lstm(x, state)
        return self.behind(out), encoded if self.shares_encoder else observations, state

    def recall(self, batch: Batch, *, after: bool) -> tuple[Tensor, Tensor]:
        """See `Memory`."""
        if batch.sequence is None:
            raise ValueError("the batch holds no sequences")
        rows, state = (batch.sequence.observation, batch.sequence.previous), None
        if self.acts and batch.sequence.state is not None:
            state = torch.split(batch.sequence.state, list(self.carried.values()), dim=-1)
        if after:
            memory, features, _ = self(*rows, state)
            return memory[1:], features[1:]
        memory, features, _ = self(rows[0][:-1], rows[1][:-1], state)
        return memory, features
