"""Learning from what the policy itself has just done: what the loop does in a round, for PPO-LSTM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memrl_ctrl.agents.ppo_lstm import Decided, PpoLstm
from memrl_ctrl.agents.rollout import RewardScale, Rollout
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.training.collect import Acted, Acting
from memrl_ctrl.training.stepper import Start, Step, Stepper

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Played:
    """One step of all environments; arrays [rows, ...]."""

    step: Step
    raw: Array
    """What was seen, not scaled."""
    previous: Array
    """Unit action that was applied before it."""
    truth: Array | None
    """Privileged features that belong to it."""
    allowed: Array | None
    """1 where a choice could be made."""
    decided: Decided
    """What the policy decided."""
    bootstrap: Array
    """Value of what followed, where a time limit ended the episode; elsewhere 0."""
    following: Array | None = None
    """Value of what comes next; known behind the last step of a round."""


class RolloutCollector(Acting):
    """Collects rounds of experience.

    Args:
        stepper: the environments, already reset.
        start: what the reset brought.
        agent: whose policy acts.
    """

    def __init__(self, stepper: Stepper, start: Start, agent: PpoLstm) -> None:
        super().__init__(stepper, start, agent.initial_memory(stepper.env.num_envs), agent.device)
        self._agent = agent
        self._allowed = start.allowed

    def collect(self, calls: int, *, random: bool) -> list[Played]:
        """Step the environments.

        Args:
            calls: steps of all environments together.
            random: not used; what is random is in the policy.
        """
        played = [self._once() for _ in range(calls - 1)]
        last = self._once()
        following = self._agent.value(
            self._observation, self._previous, self._memory, self._shown(self._truth)
        )
        return [*played, Played(**{**vars(last), "following": following})]

    def state(self) -> dict[str, Any]:
        """See `Acting`."""
        return {**super().state(), "allowed": self._allowed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Acting`."""
        super().restore(state)
        self._allowed = state["allowed"]

    def _once(self) -> Played:
        seen, previous, truth = self._observation, self._previous, self._truth
        decided, unit, memory = self._agent.act(
            seen, previous, self._memory, truth=self._shown(truth), allowed=self._allowed
        )
        parts = self._agent.behaviour.memory_parts
        self.acted = Acted(previous, parts(self._memory[0]), parts(memory[0]), decided.action)
        step = self._stepper.step(unit)
        applied = self._stepper.task.to_unit(step.applied)
        bootstrap = np.zeros(len(seen), dtype=np.float32)
        cut = step.ended & ~step.terminated
        if cut.any():
            later = self._agent.value(
                step.followed[cut],
                applied[cut],
                tuple(m[cut] for m in memory),
                None if step.followed_truth is None else self._shown(step.followed_truth[cut]),
            )
            bootstrap[cut] = later
        result = Played(
            step=step,
            raw=seen,
            previous=previous,
            truth=truth,
            allowed=self._allowed,
            decided=decided,
            bootstrap=bootstrap,
        )
        self._go_on(step, applied, memory)
        self._allowed = step.allowed
        return result

    def _shown(self, truth: Array | None) -> Array | None:
        return truth if self._agent.config.critic_sees_truth else None


class OnPolicy:
    """An agent that learns from rounds of its own experience.

    Args:
        config: the resolved configuration.
        task: sizes and units.
        agent: the agent; without one a new one is made.
        device: torch's name of the device that learns.
    """

    def __init__(
        self, config: TrainingConfig, task: TaskSpec, agent: PpoLstm | None, device: str
    ) -> None:
        self.config = config
        self.agent = agent or PpoLstm(task, config.ppo_lstm, seed=config.seed, device=device)
        self.calls = config.ppo_lstm.rollout_steps
        """Steps of all environments in a round."""
        self._rewards = RewardScale(
            config.environment.num_envs, config.ppo_lstm.gamma, self.agent.reward_statistics
        )
        self._pending: Rollout | None = None

    def collector(self, stepper: Stepper, start: Start) -> RolloutCollector:
        """Return what steps the environments with this agent's policy."""
        return RolloutCollector(stepper, start, self.agent)

    def is_random(self, steps: int) -> bool:
        """Whether acting is random: never, what is random is in the policy."""
        return False

    def take(self, collected: list[Played]) -> None:
        """Keep a round for the next call of `learn`."""
        self._pending = self._rollout(collected)
        for one in collected:
            self.agent.observe(one.raw[one.step.valid])

    def learn(self, steps: int, fraction: Callable[[], float]) -> dict[str, Tensor]:
        """Learn from the round that was taken; nothing where it was learnt from already.

        Args:
            steps: environment steps so far.
            fraction: returns the share of the run that is done.

        Returns:
            What is worth logging.
        """
        rollout, self._pending = self._pending, None
        if rollout is None:
            return {}
        return self.agent.learn(rollout, progress=min(fraction(), 1.0))

    def state(self) -> dict[str, Any]:
        """Return what is not learnt from yet, and the rewards' scale, for a checkpoint."""
        pending = None if self._pending is None else dict(vars(self._pending))
        return {"pending": pending, "rewards": self._rewards.state()}

    def go_on(self, steps: int, state: Mapping[str, Any] | None, *, exactly: bool) -> None:
        """Take over where another run stood.

        Args:
            steps: environment steps of it.
            state: what `state` returned; None where it was not kept.
            exactly: whether the environments stand where they stood.
        """
        if state is None:
            return
        self._rewards.restore(state["rewards"])
        if exactly and state["pending"] is not None:
            self._pending = Rollout(**state["pending"])

    def _rollout(self, collected: list[Played]) -> Rollout:
        """Put a round's steps together."""

        def stacked(of: Callable[[Played], Any]) -> Any:
            return np.stack([of(one) for one in collected])

        reward = stacked(lambda one: one.step.reward)
        ended, valid = stacked(lambda one: one.step.ended), stacked(lambda one: one.step.valid)
        if self.config.ppo_lstm.normalise_rewards:
            reward = self._rewards.scale(reward, ended, valid)
        shape = reward.shape
        shows = self.config.ppo_lstm.critic_sees_truth
        no_truth = np.zeros((*shape, 0), dtype=np.float32)
        last = collected[-1].following
        return Rollout(
            observation=stacked(lambda one: one.decided.observation),
            previous=stacked(lambda one: one.previous),
            memory=stacked(lambda one: one.decided.memory),
            truth=stacked(lambda one: one.truth) if shows else no_truth,
            action=stacked(lambda one: one.decided.action),
            allowed=None if collected[0].allowed is None else stacked(lambda one: one.allowed),
            log_prob=stacked(lambda one: one.decided.log_prob),
            value=stacked(lambda one: one.decided.value),
            reward=reward,
            terminated=stacked(lambda one: one.step.terminated),
            ended=ended,
            valid=valid,
            bootstrap=stacked(lambda one: one.bootstrap),
            following=np.zeros(shape[1], dtype=np.float32) if last is None else last,
        )
