"""What a training configuration holds: frozen dataclasses, each field with its meaning and unit.

Combinations that cannot work are refused at construction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from memrl_ctrl.config.checks import require, require_between
from memrl_ctrl.config.lstm_td3 import LstmTd3Config
from memrl_ctrl.config.ppo_lstm import PpoLstmConfig
from memrl_ctrl.env.task import EPISODE_SHOTS


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Which task is trained on."""

    id: str = "memrl/BeamPhase-v0"
    """Gymnasium's name of the environment."""
    num_envs: int = 1
    """Environments that step together; 0: one for each core."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment's constructor."""

    def __post_init__(self) -> None:
        """Refuse an impossible number of environments."""
        require(bool(self.id), "environment.id is empty; give a Gymnasium environment's name")
        require_between(self, 0, 65536, "num_envs")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Where experience is kept."""

    capacity: int = 1_000_000
    """Environment steps kept, over all environments."""
    prioritised: bool = False
    """Whether what is learnt from is drawn by priority (Schaul et al. 2016, arXiv 1511.05952): its
    absolute TD error; for sequences nine tenths of the largest and one tenth of the mean of its steps
    (Kapturowski et al. 2019)."""
    alpha: float = 0.6
    """Exponent of the priorities, above 0."""
    beta: float = 0.4
    """Exponent of the importance weights at the start of the run; it grows to 1 at the end."""
    epsilon: float = 1e-6
    """Added to each TD error, so that nothing is never drawn again; above 0."""
    layout: Literal["unified", "separate"] = "unified"
    """With priorities: one buffer for all environments, or one for each, of which equally many
    decisions are drawn."""

    def __post_init__(self) -> None:
        """Refuse a buffer that holds nothing, and priorities that are none."""
        require_between(self, 1, 10**10, "capacity")
        require_between(self, 0.0, 1.0, "alpha", "beta")
        require_between(self, 0.0, 1e6, "epsilon")
        require(
            not self.prioritised or self.alpha > 0.0,
            "replay.alpha is 0, which draws uniformly; set replay.prioritised: false, or alpha above 0",
        )
        require(
            not self.prioritised or self.epsilon > 0.0,
            "replay.epsilon is 0, so that what has no error is never drawn again; give a small number",
        )
        require(
            self.prioritised or self.layout == "unified",
            "replay.layout: separate is for priorities; set replay.prioritised: true too",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a policy is judged: whole episodes, deterministic, on seeds that training never uses."""

    episodes: int = 10
    """Episodes of an evaluation."""
    every_steps: int = 0
    """Environment steps between evaluations while training; 0: only at the end."""
    seed: int = 1_000_003
    """Seed of the held-out episodes."""
    environment: str = ""
    """Gymnasium's name of another environment that is judged on; empty: that of the training."""
    options: dict[str, Any] = field(default_factory=dict)
    """Environment options that differ from those of the training; of another environment all of them."""
    stop_at_return: float | None = None
    """Mean return of an evaluation that ends the run before its budget is spent; null: none does."""

    def __post_init__(self) -> None:
        """Refuse an evaluation without episodes."""
        require(
            self.stop_at_return is None or self.every_steps > 0,
            "evaluation.stop_at_return needs evaluations on the way: give evaluation.every_steps, or "
            "stop_at_return null",
        )
        require_between(self, 1, 10**7, "episodes")
        require_between(self, 0, 10**12, "every_steps")
        require_between(self, 0, 2**31 - 1, "seed")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What a run writes, and how often."""

    every_s: float = 1.0
    """Time between lines of metrics, s."""
    tensorboard: bool = True
    """Whether TensorBoard events are written."""
    histograms_every_s: float = 60.0
    """Time between histograms of actions, memory and priorities, s; 0: none."""
    watch_model: bool = False
    """Whether the histograms hold every weight and its gradient too."""
    return_decay: float = 0.99
    """Decay, per step that ends episodes, of the moving average of returns (the figure `return_ema`)."""
    wandb: bool = False
    """Whether figures go to Weights & Biases too (extra `wandb`); without a login they stay offline."""
    wandb_project: str = "memrl-ctrl"
    """Project of Weights & Biases."""
    wandb_name: str = ""
    """Name of the run there; empty: that of the run folder."""
    wandb_group: str = ""
    """Group that the run belongs to there; empty: none."""
    checkpoint_every_steps: int = 0
    """Environment steps between checkpoints that are all kept; 0: none."""
    checkpoint_every_s: float = 60.0
    """Time between checkpoints that save a run that is killed, s; 0: none. They do not count as
    those of `checkpoint_every_steps`: of these only the last `checkpoint_keep` are kept."""
    checkpoint_keep: int = 3
    """Checkpoints of `checkpoint_every_s` that are kept; 0: all."""
    checkpoint_replay: Literal["interrupted", "always", "never"] = "interrupted"
    """Which checkpoints hold the replay buffer and where the environments stand, so that a resumed run
    goes on exactly: the last one of a run that was interrupted, all, or none."""

    def __post_init__(self) -> None:
        """Refuse negative intervals."""
        require_between(self, 0.0, 1.0, "return_decay")
        require_between(self, 0.0, 1e6, "every_s", "checkpoint_every_s", "histograms_every_s")
        require_between(self, 0, 10**12, "checkpoint_every_steps", "checkpoint_keep")


AgentConfig = LstmTd3Config | PpoLstmConfig
AGENT_CONFIGS: dict[str, type[AgentConfig]] = {"lstm-td3": LstmTd3Config, "ppo-lstm": PpoLstmConfig}
"""Settings of each algorithm; `agent` is read as those of the one that `algorithm` names."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole training run."""

    name: str = "run"
    """Name of the run folder, followed by a time stamp."""
    algorithm: Literal["lstm-td3", "ppo-lstm"] = "lstm-td3"
    """Which agent is trained; `agent` holds its settings."""
    seed: int = 0
    """Seed of weights, environments, exploration and sampling."""
    steps: int = 1_000_000
    """Environment steps of the run, over all environments."""
    minutes: float = 0.0
    """Wall time after which the run ends, minutes; 0: no limit."""
    device: str = "cpu"
    """torch's name of the device that trains."""
    torch_threads: int = 1
    """Threads of torch on the CPU; 0: one a core. More than one stall each other on a busy machine."""
    torch_deterministic: bool = False
    """Whether torch takes only algorithms that give the same numbers each time: on a GPU a seed then
    repeats a run, more slowly; on the CPU it does anyway."""
    overlap: bool = False
    """Whether a thread of its own collects the next steps while the agent learns from those before;
    it acts with the weights of the beginning of the round."""
    environment: EnvironmentConfig = EnvironmentConfig()
    """The task."""
    agent: AgentConfig = field(default_factory=LstmTd3Config)
    """The algorithm's settings."""
    replay: ReplayConfig = ReplayConfig()
    """The replay buffer."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the policy is judged."""
    logging: LoggingConfig = LoggingConfig()
    """What is written."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        require(
            bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)),
            f"name {self.name!r} is no folder name; use letters, digits, '.', '_' and '-'",
        )
        require_between(self, 0, 2**31 - 1, "seed")
        require_between(self, 1, 10**13, "steps")
        require_between(self, 0.0, 1e7, "minutes")
        require_between(self, 0, 1024, "torch_threads")
        expected = AGENT_CONFIGS[self.algorithm]
        require(
            isinstance(self.agent, expected),
            f"agent holds the settings of another algorithm than {self.algorithm}",
        )
        if isinstance(self.agent, LstmTd3Config):
            self._check_replay(self.agent, max(1, self.environment.num_envs))

    def _check_replay(self, agent: LstmTd3Config, count: int) -> None:
        """Refuse a replay buffer that the agent cannot learn from."""
        require(
            self.replay.capacity >= 2 * count,
            f"replay.capacity {self.replay.capacity} is too small for {count} environments; "
            f"at least {2 * count}",
        )
        require(
            agent.memory == "sequence" or agent.batch_size <= self.replay.capacity,
            f"agent.batch_size {agent.batch_size} is larger than "
            f"replay.capacity {self.replay.capacity}",
        )
        require(
            agent.memory == "sequence" or agent.history_length + 2 <= self.replay.capacity // count,
            f"agent.history_length {agent.history_length} does not fit the "
            f"{self.replay.capacity // count} steps that replay.capacity leaves an environment",
        )
        part = agent.sequence_length + agent.burn_in
        require(
            not agent.sequence_length or part + 2 <= self.replay.capacity // count,
            f"agent.sequence_length and burn_in are {part} steps together; they do not fit the "
            f"{self.replay.capacity // count} steps that replay.capacity leaves an environment",
        )
        given = EPISODE_SHOTS if self.environment.id == "memrl/BeamPhase-v0" else None
        longest = self.environment.options.get("episode_length", given)
        require(
            not isinstance(longest, int) or agent.sequence_length <= longest,
            f"agent.sequence_length {agent.sequence_length} is longer than an episode of {longest} "
            "steps; give at most that, or 0 for whole episodes",
        )
        require(
            self.replay.layout == "unified" or not self.learns_whole_episodes,
            "replay.layout: separate is for windows and parts of episodes; give "
            "agent.sequence_length, or replay.layout: unified",
        )

    @property
    def judged_on(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the environment that a policy is judged on."""
        if self.evaluation.environment in {"", self.environment.id}:
            return self.environment.id, {**self.environment.options, **self.evaluation.options}
        return self.evaluation.environment, dict(self.evaluation.options)

    @property
    def lstm_td3(self) -> LstmTd3Config:
        """Settings of LSTM-TD3.

        Raises:
            TypeError: another algorithm is trained.
        """
        if not isinstance(self.agent, LstmTd3Config):
            raise TypeError(f"these are settings of {self.algorithm}, not of lstm-td3")
        return self.agent

    @property
    def ppo_lstm(self) -> PpoLstmConfig:
        """Settings of PPO-LSTM.

        Raises:
            TypeError: another algorithm is trained.
        """
        if not isinstance(self.agent, PpoLstmConfig):
            raise TypeError(f"these are settings of {self.algorithm}, not of ppo-lstm")
        return self.agent

    @property
    def learns_whole_episodes(self) -> bool:
        """Whether a batch is of whole episodes."""
        agent = self.agent
        return (
            isinstance(agent, LstmTd3Config)
            and agent.memory == "sequence"
            and agent.sequence_length == 0
        )
