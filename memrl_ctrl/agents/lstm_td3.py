"""LSTM-TD3: memory-based deep reinforcement learning for POMDPs.

Meng, Gorbet, Kulic, IROS 2021 (arXiv 2102.12344), algorithm 1, read from top to bottom: act with
exploration noise and remember; then, for a batch of decisions with their histories, the clipped double
Q target with target policy smoothing; every `policy_delay`-th time the actor and the targets.

Additions, all off by default: whole episodes or parts of them instead of windows, prioritised replay,
critics that see the truth, an action map that is fine near zero, an averaged actor, a penalty against
saturation, a delayed start of the actor, decaying learning rates, and a memory that averages.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memrl_ctrl.agents.batch import Batch
from memrl_ctrl.agents.exportable import PolicyModule, policy_module
from memrl_ctrl.agents.networks import Critic, FilterActor, build_actor, squash, taken
from memrl_ctrl.agents.recurrent import MemoryState, Normaliser
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LstmTd3Config

Array = NDArray[np.float32]


class LstmTd3:
    """The agent: networks, optimisers, and its own random generators.

    Args:
        task: sizes and units.
        config: settings.
        seed: of weights, exploration and sampling.
        device: torch's name of the device.
    """

    def __init__(
        self, task: TaskSpec, config: LstmTd3Config, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.task, self.config, self.device = task, config, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = build_actor(task, config).to(device)
            critics = [Critic(task, config) for _ in range(2 if config.double_critic else 1)]
            self.critics = nn.ModuleList(critics).to(device)
            self.critic = critics[0]
        self.target_actor = frozen_copy(self.actor)
        self.target_critics = frozen_copy(self.critics)
        self.averaged_actor = frozen_copy(self.actor) if config.actor_average else self.actor
        self.normaliser: nn.Module = (
            Normaliser(task.n_observation).to(device)
            if config.normalise_observations
            else nn.Identity()
        )
        # What acts is a copy: it may act in another thread while the actor learns.
        self.behaviour = policy_module(
            task, config, frozen_copy(self.actor), copy.deepcopy(self.normaliser)
        )
        # A list, not a generator: it is walked again when the critics are frozen.
        self.critic_parameters = list(self.critics.parameters())
        rates = (config.actor_lr, config.actor_lstm_lr), (config.critic_lr, config.critic_lstm_lr)
        self.actor_optimiser = adam(self.actor, *rates[0], config)
        self.critic_optimiser = adam(self.critics, *rates[1], config)
        self.rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        self.noise = torch.Generator(device=self.device).manual_seed(seed + 1)
        self.exploration = torch.Generator(device=self.device).manual_seed(seed + 2)
        self.updates = 0
        self.actor_updates = 0

    # --- acting -------------------------------------------------------------------------------------

    def initial_memory(self, rows: int) -> MemoryState:
        """Memory at the start of an episode."""
        specs = self.behaviour.memory_specs()
        return tuple(torch.zeros(rows, *spec.shape, device=self.device) for spec in specs)

    @property
    def keeps_memory(self) -> bool:
        """Whether the replay keeps the policy's memory of each step, for parts of episodes."""
        return self.config.memory == "sequence" and self.config.sequence_length > 0

    @property
    def n_state(self) -> int:
        """Length of what is kept of the memory; 0 where nothing is."""
        specs = self.behaviour.memory_specs() if self.keeps_memory else ()
        return sum(math.prod(spec.shape) for spec in specs)

    def refresh_behaviour(self) -> None:
        """Give what acts the actor's weights and the observations' statistics of now."""
        self.behaviour.actor.load_state_dict(self.actor.state_dict())
        self.behaviour.normaliser.load_state_dict(self.normaliser.state_dict())

    def observe(self, observation: Array) -> None:
        """Take observations [rows, n_observation] into the normaliser's statistics."""
        if isinstance(self.normaliser, Normaliser) and len(observation):
            self.normaliser.update(torch.from_numpy(observation).to(self.device))

    @torch.no_grad()
    def act(
        self, observation: Array, previous: Array, memory: MemoryState, *, random: bool = False
    ) -> tuple[Array, Array, MemoryState]:
        """Decide with exploration noise.

        Args:
            observation: [rows, n_observation].
            previous: unit actions that were applied before it [rows, n_action].
            memory: as the last call returned it.
            random: act uniformly at random; the memory goes on all the same.

        Returns:
            Squashed actions [rows, n_action] for the replay, unit actions for the environment, memory.
        """
        seen = torch.from_numpy(observation).to(self.device)
        before = torch.from_numpy(previous).to(self.device)
        pre_tanh, memory = self.behaviour.step(seen, before, *memory)
        if random:
            squashed = torch.empty_like(pre_tanh).uniform_(-1.0, 1.0, generator=self.exploration)
        else:
            noise = torch.empty_like(pre_tanh).normal_(generator=self.exploration)
            noise[math.ceil(self.config.exploration_share * len(noise)) :] = 0.0
            squashed = squash(pre_tanh) + self.config.exploration_noise * noise
            squashed = squashed.clamp(-1.0, 1.0)
        unit = taken(squashed, self.config)
        return squashed.cpu().numpy(), unit.cpu().numpy(), memory

    def policy(self) -> PolicyModule:
        """Return a copy of the policy that is evaluated and exported: averaged, without noise."""
        actor = copy.deepcopy(self.averaged_actor).cpu()
        normaliser = copy.deepcopy(self.normaliser).cpu()
        return policy_module(self.task, self.config, actor, normaliser)

    # --- learning -----------------------------------------------------------------------------------

    def sample(self, replay: Replay, *, beta: float = 0.0) -> Batch:
        """Draw a batch with the kind of history that the configuration names."""
        config, size = self.config, self.config.batch_size
        if config.memory == "window":
            batch = replay.sample_windows(size, config.history_length, self.rng, beta=beta)
        elif config.sequence_length == 0:
            batch = replay.sample_sequences(size, self.rng, beta=beta)
        else:
            batch = replay.sample_parts(
                size, config.sequence_length, config.burn_in, self.rng, beta=beta
            )
        with torch.no_grad():
            return batch.scaled(self.normaliser)

    def update(
        self, replay: Replay, *, progress: float = 0.0, beta: float = 0.0
    ) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            replay: where to draw from.
            progress: share of the run that is done, for the learning rates' schedule.
            beta: exponent of the importance weights, where the replay has priorities.

        Returns:
            What is worth logging, as scalars that are still on the device.
        """
        self._schedule(progress)
        batch = self.sample(replay, beta=beta)
        seen, error = self.update_critics(batch)
        if batch.drawn is not None:
            replay.update_priorities(batch.drawn, error.cpu().numpy().astype(np.float64))
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            # The critics' targets move also while the actor still waits.
            if self.updates > self.config.actor_start_updates:
                seen |= self.update_actor(batch)
            self.update_targets()
        return seen

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """Value that the critics should give: reward, and the discounted value of what follows.

        A time limit is not an end: only where the task terminated nothing follows.
        """
        if self.config.gamma == 0.0:
            return batch.reward
        with self._precision():
            action = squash(self.target_actor(batch, after=True))
        if self.config.target_smoothing:
            noise = torch.empty_like(action).normal_(generator=self.noise)
            noise = self.config.target_noise * noise
            limit = self.config.noise_clip
            action = (action + noise.clamp(-limit, limit)).clamp(-1.0, 1.0)
        with self._precision():
            values = [critic(batch, action, after=True) for critic in self.target_critics]
        value = torch.stack(values).amin(dim=0)
        return batch.reward + self.config.gamma * (1.0 - batch.terminated) * value

    def update_critics(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One step of the critics towards the target.

        Returns:
            What is worth logging, and the error of each item of the batch [batch] for its priority.
        """
        target = self.target(batch)
        with self._precision():
            values = torch.stack([critic(batch, batch.action) for critic in self.critics])
        difference = values - target
        squares = torch.square(difference) * batch.weight
        loss = torch.stack([mean(square, batch.valid) for square in squares]).sum()
        self._descend(self.critic_optimiser, loss, self.critic_parameters)
        error = difference.detach().abs().mean(dim=0)
        seen = {
            "critic_loss": loss.detach(),
            "q": mean(values[0].detach(), batch.valid),
            "target": mean(target, batch.valid),
            "td_error": mean(error, batch.valid),
        }
        return seen, priority_error(error, batch.valid)

    def update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor up the first critic, which stays as it is."""
        for parameter in self.critic_parameters:
            parameter.requires_grad_(False)
        critic = self.critic
        with self._precision():
            with torch.no_grad():  # the critic's memory does not depend on the action now
                memory, features = critic.memory.recall(batch, after=False)
            recalled = self.actor.memory.recall(batch, after=False)
            pre_tanh = self.actor.decide(*recalled)
            value = critic.judge(memory, features, batch.truth, squash(pre_tanh))
        loss = -mean(value, batch.valid)
        if self.config.pre_tanh_penalty > 0.0:
            beyond = torch.relu(pre_tanh.abs() - self.config.pre_tanh_limit).square().sum(dim=-1)
            loss = loss + self.config.pre_tanh_penalty * mean(beyond, batch.valid)
        if isinstance(self.actor, FilterActor) and self.config.estimate_weight > 0.0:
            wrong = self.actor.estimate_error(recalled[0], batch.truth)
            loss = loss + self.config.estimate_weight * mean(wrong, batch.valid)
        self._descend(self.actor_optimiser, loss, list(self.actor.parameters()))
        for parameter in self.critic_parameters:
            parameter.requires_grad_(True)
        self.actor_updates += 1
        if self.averaged_actor is not self.actor:
            # The average of few updates is over few: it must not hold on to the first weights.
            keep = min(
                self.config.actor_average, (1 + self.actor_updates) / (10 + self.actor_updates)
            )
            blend(self.averaged_actor, self.actor, keep)
        return {"actor_loss": loss.detach(), "pre_tanh": pre_tanh.detach().abs().mean()}

    def update_targets(self) -> None:
        """Move the target networks a little."""
        if self.config.gamma > 0.0:
            blend(self.target_actor, self.actor, self.config.polyak)
            blend(self.target_critics, self.critics, self.config.polyak)

    # --- keeping ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that the agent's future depends on, for a checkpoint."""
        return {
            **{name: getattr(self, name).state_dict() for name in self._parts()},
            "noise": self.noise.get_state(),
            "exploration": self.exploration.get_state(),
            "rng": repr(self.rng.bit_generator.state),
            "updates": self.updates,
            "actor_updates": self.actor_updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError, RuntimeError: it is from another configuration.
        """
        import ast

        for name in self._parts():
            getattr(self, name).load_state_dict(state[name])
        self.noise.set_state(state["noise"])
        self.exploration.set_state(state["exploration"])
        self.refresh_behaviour()
        self.rng.bit_generator.state = ast.literal_eval(state["rng"])
        self.updates = int(state["updates"])
        self.actor_updates = int(state["actor_updates"])

    def _parts(self) -> Iterable[str]:
        networks = ("actor", "critics", "target_actor", "target_critics", "averaged_actor")
        return (*networks, "normaliser", "actor_optimiser", "critic_optimiser")

    # --- small helpers ------------------------------------------------------------------------------

    def _precision(self) -> torch.autocast:
        """Within it hidden layers compute in the configuration's precision; weights stay float32."""
        half = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def _descend(
        self, optimiser: torch.optim.Optimizer, loss: Tensor, of: list[nn.Parameter]
    ) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.gradient_clip > 0.0:
            torch.nn.utils.clip_grad_norm_(of, self.config.gradient_clip)
        optimiser.step()

    def _schedule(self, progress: float) -> None:
        if self.config.lr_schedule == "constant":
            return
        share = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        share = self.config.lr_final + (1.0 - self.config.lr_final) * share
        for optimiser in (self.actor_optimiser, self.critic_optimiser):
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * share


def adam(network: nn.Module, lr: float, lstm_lr: float, config: LstmTd3Config) -> torch.optim.Adam:
    """Return Adam in the implementation that the configuration names.

    Args:
        network: what it moves.
        lr: learning rate.
        lstm_lr: learning rate of the network's LSTM; 0: the same.
        config: settings.
    """
    recurrent = [p for name, p in network.named_parameters() if ".lstm." in name]
    others = [p for name, p in network.named_parameters() if ".lstm." not in name]
    groups = [{"params": others, "lr": lr, "initial_lr": lr}]
    if recurrent:
        rate = lstm_lr or lr
        groups.append({"params": recurrent, "lr": rate, "initial_lr": rate})
    return torch.optim.Adam(
        groups,
        fused=config.optimiser == "fused",
        foreach=config.optimiser == "foreach",
    )


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over what is valid."""
    return (values * valid).sum() / valid.sum()


def priority_error(error: Tensor, valid: Tensor) -> Tensor:
    """Error of each item of a batch [batch], from the errors of its decisions [batch] or [time, batch].

    Of a sequence nine tenths of the largest and one tenth of the mean (Kapturowski et al., Recurrent
    experience replay in distributed reinforcement learning, ICLR 2019).
    """
    if error.ndim == 1:
        return error
    present = error * valid
    average = present.sum(dim=0) / valid.sum(dim=0).clamp(min=1.0)
    return 0.9 * present.amax(dim=0) + 0.1 * average


def frozen_copy(module: nn.Module) -> Any:
    """Return a copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def blend(slow: nn.Module, fast: nn.Module, keep: float) -> None:
    """Move the weights of `slow` towards those of `fast`, keeping a share of its own."""
    mine: list[Tensor] = list(slow.parameters())
    others: list[Tensor] = list(fast.parameters())
    torch._foreach_lerp_(mine, others, 1.0 - keep)
