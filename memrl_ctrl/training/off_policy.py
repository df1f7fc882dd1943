"""Learning from a replay buffer: what the loop does between two rounds of steps, for LSTM-TD3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.priorities import PrioritySettings
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.errors import UsageError
from memrl_ctrl.training.collect import Collected, Collector
from memrl_ctrl.training.stepper import Start, Stepper


class OffPolicy:
    """An agent with its replay buffer.

    Args:
        config: the resolved configuration.
        task: sizes and units.
        agent: the agent; without one a new one is made.
        device: torch's name of the device that learns.

    Raises:
        UsageError: the task has choices.
    """

    def __init__(
        self, config: TrainingConfig, task: TaskSpec, agent: LstmTd3 | None, device: str
    ) -> None:
        self.config = config
        if task.choices:
            raise UsageError(
                f"lstm-td3 needs continuous actions, and {task.environment!r} has choices: train it "
                "with algorithm: ppo-lstm"
            )
        self.agent = agent or LstmTd3(task, config.lstm_td3, seed=config.seed, device=device)
        self.replay = Replay(
            capacity=config.replay.capacity,
            columns=config.environment.num_envs,
            n_observation=task.n_observation,
            n_action=task.n_action,
            n_truth=task.n_truth if config.lstm_td3.critic_sees_truth else 0,
            n_state=self.agent.n_state,
            priorities=priorities_of(config),
            device=device,
        )
        self.calls = max(1, config.lstm_td3.update_every // config.environment.num_envs)
        """Steps of all environments in a round."""
        self.learnt_to = 0
        """Environment steps that updates were made for."""
        self.learn_from = config.lstm_td3.update_after
        """Environment steps before the first update."""

    def collector(self, stepper: Stepper, start: Start) -> Collector:
        """Return what steps the environments with this agent's policy."""
        return Collector(stepper, start, self.agent)

    def is_random(self, steps: int) -> bool:
        """Whether acting is still random after `steps` environment steps."""
        return steps < self.config.lstm_td3.start_steps

    def take(self, collected: list[Collected]) -> None:
        """Store what was collected."""
        for one in collected:
            self.agent.observe(one.observation[one.step.valid])
            one.store(self.replay, truth=self.config.lstm_td3.critic_sees_truth)

    def learn(self, steps: int, fraction: Callable[[], float]) -> dict[str, Tensor]:
        """Do the updates that are due.

        Args:
            steps: environment steps so far.
            fraction: returns the share of the run that is done.

        Returns:
            What is worth logging.
        """
        agent, seen = self.config.lstm_td3, dict[str, Tensor]()
        if self.config.learns_whole_episodes:
            ready = self.replay.episodes > 0
        else:
            ready = self.replay.steps > 2 * self.replay.columns
        if steps < self.learn_from or not ready:
            self.learnt_to = steps
            return seen
        rounds = (steps - self.learnt_to) // agent.update_every
        self.learnt_to += rounds * agent.update_every
        for _ in range(rounds * agent.updates_per_round):
            done = min(fraction(), 1.0)
            beta = self.config.replay.beta + (1.0 - self.config.replay.beta) * done
            seen |= self.agent.update(self.replay, progress=done, beta=beta)
        return seen

    def state(self) -> dict[str, Any]:
        """Return what was experienced and how far it was learnt from, for a checkpoint."""
        return {
            **self.replay.state(),
            "learnt_to": self.learnt_to,
            "learn_from": self.learn_from,
        }

    def go_on(self, steps: int, state: Mapping[str, Any] | None, *, exactly: bool) -> None:
        """Take over where another run stood.

        Args:
            steps: environment steps of it.
            state: what `state` returned; None where it was not kept.
            exactly: whether the environments stand where they stood.

        Raises:
            UsageError: its buffer does not fit this configuration.
        """
        self.learnt_to = steps
        if state is None:
            # The buffer fills first, as at the start of a run.
            self.learn_from = steps + self.config.lstm_td3.update_after
            return
        try:
            self.replay.restore(state)
        except ValueError as error:
            raise UsageError(
                f"the replay buffer of the run to resume does not fit this configuration ({error}); "
                "keep its replay settings, environment.num_envs and environment.options"
            ) from error
        self.learn_from = int(state["learn_from"])
        if exactly:
            self.learnt_to = int(state["learnt_to"])
        else:
            self.replay.break_off()


def priorities_of(config: TrainingConfig) -> PrioritySettings | None:
    """Return how the replay draws by priority; None where it draws uniformly."""
    replay, agent = config.replay, config.lstm_td3
    if not replay.prioritised:
        return None
    return PrioritySettings(
        of="episodes" if config.learns_whole_episodes else "rows",
        alpha=replay.alpha,
        epsilon=replay.epsilon,
        separate=replay.layout == "separate",
        history=agent.history_length if agent.memory == "window" else agent.burn_in,
    )
