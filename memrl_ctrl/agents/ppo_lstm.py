"""PPO-LSTM: proximal policy optimisation with a recurrent network, read from top to bottom.

Schulman et al. 2017 (arXiv 1707.06347): act and remember for some steps; estimate advantages; then pass
over the round several times in minibatches of sequences, each beginning with the memory that acting
had there, and descend the clipped objective.
"""

from __future__ import annotations

import ast
import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memrl_ctrl.agents.ppo_networks import PpoNetwork
from memrl_ctrl.agents.ppo_policy import PpoPolicy
from memrl_ctrl.agents.recurrent import MemoryState, Normaliser
from memrl_ctrl.agents.rollout import Rollout, Sequences, advantages, places, sequences
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import PpoLstmConfig

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What acting must keep for learning. Arrays [rows, ...]."""

    observation: Array
    """What was seen, scaled."""
    action: Array
    """What was drawn, before it was clipped [rows, n_action]."""
    log_prob: Array
    """Logarithm of its probability [rows]."""
    value: Array
    """Value of what was seen [rows]."""
    memory: Array
    """Memory when it was seen [rows, n_state]."""


class PpoLstm:
    """The agent: network, optimiser, and its own random generators.

    Args:
        task: sizes and units.
        config: settings.
        seed: of weights, exploration and minibatches.
        device: torch's name of the device.
    """

    def __init__(
        self, task: TaskSpec, config: PpoLstmConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.task, self.config, self.device = task, config, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PpoNetwork(task, config).to(device)
        self.normaliser: nn.Module = (
            Normaliser(task.n_observation).to(device)
            if config.normalise_observations
            else nn.Identity()
        )
        self.averaged = copy.deepcopy(self.network) if config.actor_average else self.network
        # What acts is a copy: it may act in another thread while the network learns.
        self.behaviour = copy.deepcopy(self.network).requires_grad_(False)
        self.behaviour_normaliser = copy.deepcopy(self.normaliser)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.adam_betas,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=config.optimiser == "fused",
            foreach=config.optimiser == "foreach",
        )
        self.rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        self.exploration = torch.Generator(device=self.device).manual_seed(seed + 2)
        self.reward_statistics = np.zeros(3)
        """Of the returns that rewards are scaled by (`RewardScale`)."""
        self.updates = 0

    # --- acting -------------------------------------------------------------------------------------

    def initial_memory(self, rows: int) -> MemoryState:
        """Memory at the start of an episode."""
        return (torch.zeros(rows, self.network.n_state, device=self.device),)

    def refresh_behaviour(self) -> None:
        """Give what acts the weights and the observations' statistics of now."""
        self.behaviour.load_state_dict(self.network.state_dict())
        self.behaviour_normaliser.load_state_dict(self.normaliser.state_dict())

    def observe(self, observation: Array) -> None:
        """Take observations [rows, n_observation] into the normaliser's statistics."""
        if isinstance(self.normaliser, Normaliser) and len(observation):
            self.normaliser.update(torch.from_numpy(observation).to(self.device))

    @torch.inference_mode()
    def act(
        self,
        observation: Array,
        previous: Array,
        memory: MemoryState,
        *,
        truth: Array | None = None,
        allowed: Array | None = None,
    ) -> tuple[Decided, Array, MemoryState]:
        """Draw actions.

        Args:
            observation: [rows, n_observation].
            previous: unit actions that were applied before it [rows, n_action].
            memory: as the last call returned it.
            truth: privileged features [rows, n_truth].
            allowed: 1 where a choice may be made [rows, n_action].

        Returns:
            What learning needs, unit actions for the environment, memory.
        """
        seen = self.behaviour_normaliser(torch.from_numpy(observation).to(self.device))
        raw, value, after = self.behaviour.step(
            seen, torch.from_numpy(previous).to(self.device), memory[0], self._truth(truth, seen)
        )
        possible = None if allowed is None else torch.from_numpy(allowed).to(self.device)
        policy = self.behaviour.distribution(raw, possible)
        action = policy.sample(self.exploration)
        if self.task.choices and self.config.random_epsilon and not self.config.random_in_policy:
            action = self._sometimes_random(action, possible)
        decided = Decided(
            observation=seen.cpu().numpy(),
            action=action.cpu().numpy(),
            log_prob=policy.log_prob(action).cpu().numpy(),
            value=value.cpu().numpy(),
            memory=memory[0].cpu().numpy(),
        )
        unit = decided.action
        if not self.task.choices:
            unit = unit.clip(-1.0, 1.0)
            if self.config.action_map == "signed-square":
                unit = unit * np.abs(unit)
        return decided, unit, (after,)

    @torch.inference_mode()
    def value(
        self, observation: Array, previous: Array, memory: MemoryState, truth: Array | None
    ) -> Array:
        """Return the value of observations [rows], for what follows the last step."""
        seen = self.behaviour_normaliser(torch.from_numpy(observation).to(self.device))
        before = torch.from_numpy(previous).to(self.device)
        _, value, _ = self.behaviour.step(seen, before, memory[0], self._truth(truth, seen))
        return np.asarray(value.cpu().numpy())

    def policy(self) -> PpoPolicy:
        """Return a copy of the policy that is evaluated and exported: the most likely action."""
        network = copy.deepcopy(self.averaged).cpu()
        normaliser = copy.deepcopy(self.normaliser).cpu()
        return PpoPolicy(self.task, network, normaliser, action_map=self.config.action_map).eval()

    # --- learning -----------------------------------------------------------------------------------

    def learn(self, rollout: Rollout, *, progress: float = 0.0) -> dict[str, Tensor]:
        """Learn from a round of experience.

        Args:
            rollout: what was collected.
            progress: share of the run that is done, for the schedules.

        Returns:
            What is worth logging, as scalars that are still on the device.
        """
        config = self.config
        self._schedule(progress)
        advantage, target = advantages(rollout, config.gamma, config.gae_lambda)
        cut = sequences(rollout.ended, rollout.valid, config.sequence_length)
        parts = {**_arrays(rollout), "advantage": advantage, "target": target}
        seen: dict[str, Tensor] = {}
        moved = False
        for _ in range(config.epochs):
            order = self.rng.permutation(len(cut))
            for pick in np.array_split(order, min(config.minibatches, len(cut))):
                batch = self._batch(parts, rollout, cut, pick)
                seen = self._update(batch, progress)
                moved = bool(config.target_kl) and float(seen["kl"]) > config.target_kl
                if moved:
                    break
            if moved:
                break
        spread = np.var(target[rollout.valid])
        unexplained = np.var((target - rollout.value)[rollout.valid])
        explained = 1.0 - unexplained / spread if spread > 0.0 else math.nan
        return {**seen, "explained_variance": torch.tensor(float(explained))}

    def _update(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """One step down the clipped objective (equations 7 and 9 of the paper)."""
        config, valid = self.config, batch["valid"]
        raw, value = self.network(
            batch["observation"], batch["previous"], batch["memory"], batch["truth"]
        )
        policy = self.network.distribution(raw, batch.get("allowed"))
        log_ratio = policy.log_prob(batch["action"]) - batch["log_prob"]
        ratio = log_ratio.exp()
        advantage = batch["advantage"]
        if config.normalise_advantages:
            advantage = _standardised(advantage, valid)
        reach = config.clip_range
        if config.clip_schedule == "linear":
            reach *= max(1.0 - progress, 1e-3)
        clipped = ratio.clamp(1.0 - reach, 1.0 + reach)
        gain = torch.minimum(ratio * advantage, clipped * advantage)
        error = torch.square(value - batch["target"])
        if config.clip_value > 0.0:
            near = (value - batch["value"]).clamp(-config.clip_value, config.clip_value)
            error = torch.maximum(error, torch.square(batch["value"] + near - batch["target"]))
        entropy = _mean(policy.entropy(), valid)
        weight = config.entropy_weight * (1.0 + (config.entropy_final - 1.0) * progress)
        policy_loss, value_loss = -_mean(gain, valid), 0.5 * _mean(error, valid)
        loss = policy_loss + config.value_weight * value_loss - weight * entropy
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.gradient_clip > 0.0:
            nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        self.optimiser.step()
        self.updates += 1
        if self.averaged is not self.network:
            keep = min(config.actor_average, (1 + self.updates) / (10 + self.updates))
            with torch.no_grad():
                mine: list[Tensor] = list(self.averaged.parameters())
                torch._foreach_lerp_(mine, list(self.network.parameters()), 1.0 - keep)
        with torch.no_grad():
            # http://joschu.net/blog/kl-approx.html, the estimator of low variance
            kl = _mean(ratio - 1.0 - log_ratio, valid)
            beyond = _mean((torch.abs(ratio - 1.0) > reach).float(), valid)
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "kl": kl,
            "clipped": beyond,
        }

    def _batch(
        self, parts: dict[str, Array], rollout: Rollout, cut: Sequences, pick: NDArray[np.int64]
    ) -> dict[str, Tensor]:
        """Return some sequences as tensors [time, batch, ...]."""
        longest = int(cut.length[pick].max())
        time, row, valid = places(cut, pick, longest)
        batch = {name: self._tensor(array[time, row]) for name, array in parts.items()}
        batch["memory"] = self._tensor(rollout.memory[cut.start[pick], cut.row[pick]])
        batch["valid"] = self._tensor(valid)
        return batch

    # --- keeping ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that the agent's future depends on, for a checkpoint."""
        return {
            **{name: getattr(self, name).state_dict() for name in self._parts()},
            "exploration": self.exploration.get_state(),
            "rng": repr(self.rng.bit_generator.state),
            "rewards": torch.from_numpy(self.reward_statistics.copy()),
            "updates": self.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError, RuntimeError: it is from another configuration.
        """
        for name in self._parts():
            getattr(self, name).load_state_dict(state[name])
        self.exploration.set_state(state["exploration"])
        self.refresh_behaviour()
        self.rng.bit_generator.state = ast.literal_eval(state["rng"])
        if "rewards" in state:
            self.reward_statistics[:] = state["rewards"].numpy()
        self.updates = int(state["updates"])

    def _parts(self) -> tuple[str, ...]:
        return ("network", "averaged", "normaliser", "optimiser")

    # --- small helpers ------------------------------------------------------------------------------

    def _schedule(self, progress: float) -> None:
        done = min(max(progress, 0.0), 1.0)
        share = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        }[self.config.lr_schedule]
        if self.config.lr_schedule != "constant":
            share = self.config.lr_final + (1.0 - self.config.lr_final) * share
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * share
        if self.config.log_std_schedule == "linear":
            first, last = self.config.initial_log_std, self.config.final_log_std
            self.network.log_std.data.fill_(first + (last - first) * done)

    def _sometimes_random(self, action: Tensor, possible: Tensor | None) -> Tensor:
        """Replace some actions by random ones, among those that may be made."""
        level = torch.zeros_like(action)
        free = self.behaviour.distribution(level, possible).sample(self.exploration)
        draw = torch.empty(action.shape[0], 1, device=self.device)
        chance = draw.uniform_(generator=self.exploration)
        return torch.where(chance < self.config.random_epsilon, free, action)

    def _truth(self, truth: Array | None, seen: Tensor) -> Tensor:
        if truth is None:
            return seen[..., :0]
        return torch.from_numpy(truth).to(self.device)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _arrays(rollout: Rollout) -> dict[str, Array]:
    names = ["observation", "previous", "truth", "action", "log_prob", "value"]
    if rollout.allowed is not None:
        names.append("allowed")
    return {name: getattr(rollout, name) for name in names}


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum() / valid.sum()


def _standardised(values: Tensor, valid: Tensor) -> Tensor:
    middle = _mean(values, valid)
    spread = _mean(torch.square(values - middle), valid).sqrt()
    return (values - middle) / (spread + 1e-8)
