"""PPO-LSTM's network: encoder, memory, and the heads for action and value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.distributions import Choices, Distribution, Gaussian
from memrl_ctrl.agents.recurrent import MemoryState, StackedLstm, mlp
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import PpoLstmConfig

SMALLEST_PICTURE = 36
"""Height and width from which a picture is strided through, as in Mnih et al. 2015."""


class Convolutions(nn.Module):
    """Convolutions over an observation [height, width, channels] that arrives flat.

    Small grids keep their size (3x3 kernels); pictures pass the three strided layers of Mnih et al.
    2015 (Nature 518, 529).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width, channels = shape
        self.shape = shape
        layers: list[nn.Module] = []
        if min(height, width) >= SMALLEST_PICTURE:
            plan = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))
        else:
            plan = ((16, 3, 1, 1), (32, 3, 1, 1), (32, 3, 1, 1))
        for out, kernel, stride, padding in plan:
            layers += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU()]
            channels = out
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            self.n_out = int(self.layers(torch.zeros(1, shape[2], height, width)).numel())

    def forward(self, x: Tensor) -> Tensor:
        """From [..., height * width * channels] to [..., n_out]."""
        leading = x.shape[:-1]
        grid = x.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        return torch.as_tensor(self.layers(grid)).reshape(*leading, self.n_out)


class Encoder(nn.Module):
    """What an observation passes before the memory."""

    def __init__(self, task: TaskSpec, config: PpoLstmConfig) -> None:
        super().__init__()
        shape = task.shape
        spatial = len(shape) == 3 and config.encoder != "mlp"
        if config.encoder == "cnn" and len(shape) != 3:
            raise ValueError(f"convolutions need [height, width, channels], not {shape}")
        self.before: nn.Module = Convolutions(shape) if spatial else nn.Identity()
        n_in = self.before.n_out if isinstance(self.before, Convolutions) else task.n_observation
        self.layers = mlp(n_in, config.pre_lstm)
        self.n_out = [n_in, *config.pre_lstm][-1]

    def forward(self, x: Tensor) -> Tensor:
        """From [..., n_observation] to [..., n_out]."""
        return torch.as_tensor(self.layers(self.before(x)))


class Trunk(nn.Module):
    """Encoder and LSTM."""

    def __init__(self, task: TaskSpec, config: PpoLstmConfig) -> None:
        super().__init__()
        self.encoder = Encoder(task, config)
        self.actions = config.history_actions
        n_in = self.encoder.n_out + (task.n_action if self.actions else 0)
        self.lstm = StackedLstm(n_in, config.lstm)
        self.n_out = [n_in, *config.lstm][-1]
        self.n_state = 2 * sum(config.lstm)

    def forward(self, observation: Tensor, previous: Tensor, state: Tensor) -> Tensor:
        """Run over sequences.

        Args:
            observation: [time, batch, n_observation], scaled.
            previous: unit actions before them [time, batch, n_action].
            state: memory at their first steps [batch, n_state].

        Returns:
            [time, batch, n_out].
        """
        out, _ = self.lstm(self.seen(observation, previous), self.parts(state))
        return torch.as_tensor(out)

    def step(self, observation: Tensor, previous: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one step: [batch, n_out] and the memory behind it [batch, n_state]."""
        x, after = self.seen(observation, previous), []
        for layer, (h, c) in zip(self.lstm.layers, _pairs(self.parts(state)), strict=True):
            # Over one step a cell is several times quicker than a layer.
            weights = [getattr(layer, f"{name}_l0") for name in _WEIGHTS]
            x, cell = torch.lstm_cell(x, [h, c], *weights)
            after += [x, cell]
        return x, torch.cat(after, dim=-1) if after else state

    def seen(self, observation: Tensor, previous: Tensor) -> Tensor:
        """Return the LSTM's input."""
        encoded = self.encoder(observation)
        return torch.cat((encoded, previous), dim=-1) if self.actions else encoded

    def parts(self, state: Tensor) -> MemoryState:
        """Return h and c of each layer, from a memory [batch, n_state]."""
        widths = [size for size in self.lstm.sizes for _ in ("h", "c")]
        return tuple(torch.split(state, widths, dim=-1)) if widths else ()


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _pairs(parts: MemoryState) -> list[tuple[Tensor, Tensor]]:
    return [(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]


class PpoNetwork(nn.Module):
    """Actor and critic, with one trunk or two.

    The memory is the actor's (h, c), behind it the critic's where it has a trunk of its own; flat,
    [batch, n_state].
    """

    def __init__(self, task: TaskSpec, config: PpoLstmConfig) -> None:
        super().__init__()
        self.choices = task.choices
        self.random = config.random_epsilon if config.random_in_policy else 0.0
        self.trunk = Trunk(task, config)
        self.own = None if config.shared else Trunk(task, config)
        n_value = (self.own or self.trunk).n_out
        self.sees_truth = config.critic_sees_truth
        self.actor = _head(self.trunk.n_out, config.actor, task.n_action, gain=0.01)
        n_value += task.n_truth if self.sees_truth else 0
        self.critic = _head(n_value, config.critic, 1, gain=1.0)
        self.log_std = nn.Parameter(torch.full((task.n_action,), config.initial_log_std))
        if task.choices or config.log_std_schedule != "learned":
            self.log_std.requires_grad_(False)
        self.n_state = self.trunk.n_state + (self.own.n_state if self.own else 0)
        for trunk in (self.trunk, self.own):
            if trunk is not None:
                _orthogonal(trunk)
                _remembering(trunk, config)

    def distribution(self, raw: Tensor, allowed: Tensor | None) -> Distribution:
        """Return what actions are drawn from, from the actor's output [..., n_action]."""
        if self.choices:
            return Choices(raw, self.choices, allowed, random=self.random)
        return Gaussian(raw, self.log_std)

    def forward(
        self, observation: Tensor, previous: Tensor, state: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the actor's output [time, batch, n_action] and the value [time, batch]."""
        mine, others = state[..., : self.trunk.n_state], state[..., self.trunk.n_state :]
        features = self.trunk(observation, previous, mine)
        judged = features if self.own is None else self.own(observation, previous, others)
        return self.actor(features), self._value(judged, truth)

    def step(
        self, observation: Tensor, previous: Tensor, state: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the actor's output, the value and the memory after one step."""
        mine, others = state[..., : self.trunk.n_state], state[..., self.trunk.n_state :]
        features, mine = self.trunk.step(observation, previous, mine)
        judged = features
        if self.own is not None:
            judged, others = self.own.step(observation, previous, others)
        after = torch.cat((mine, others), dim=-1) if self.own is not None else mine
        return self.actor(features), self._value(judged, truth), after

    def memory_parts(self, state: Tensor) -> MemoryState:
        """Return (h, c) of the actor's LSTM layers, from a memory [batch, n_state]."""
        return self.trunk.parts(state[..., : self.trunk.n_state])

    def _value(self, features: Tensor, truth: Tensor) -> Tensor:
        if self.sees_truth:
            features = torch.cat((features, truth), dim=-1)
        return torch.as_tensor(self.critic(features)).squeeze(-1)


def _head(n_in: int, sizes: Sequence[int], n_out: int, *, gain: float) -> nn.Sequential:
    layers = mlp(n_in, sizes)
    _orthogonal(layers)
    last = nn.Linear([n_in, *sizes][-1], n_out)
    nn.init.orthogonal_(last.weight, gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _orthogonal(module: nn.Module) -> None:
    """Orthogonal weights (Saxe et al. 2014, arXiv 1312.6120), sqrt 2 before ReLU; biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(part.weight, math.sqrt(2.0))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LSTM):
            for name, parameter in part.named_parameters():
                if "bias" in name:
                    nn.init.zeros_(parameter)
                else:
                    nn.init.orthogonal_(parameter)


def _remembering(module: nn.Module, config: PpoLstmConfig) -> None:
    """Set the biases of gates; those of torch's LSTM are input, forget, cell, output."""
    for part in module.modules():
        if isinstance(part, nn.LSTM):
            let_in, keep, _, _ = part.get_parameter("bias_ih_l0").detach().chunk(4)
            let_in.fill_(config.input_bias)
            keep.fill_(config.forget_bias)
