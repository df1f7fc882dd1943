"""What a training configuration holds: frozen dataclasses, each field with its meaning and unit.

Combinations that cannot work are refused at construction.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from memrl_ctrl.errors import UsageError

Sizes = tuple[int, ...]


class ConfigError(UsageError, ValueError):
    """A configuration that cannot work: the key, what it is, what is allowed."""


def require(holds: bool, sentence: str) -> None:
    """Raise `ConfigError` with the sentence unless the condition holds."""
    if not holds:
        raise ConfigError(sentence)


def require_between(owner: object, low: float, high: float, *names: str) -> None:
    """Refuse fields outside [low, high], by name; NaN is outside."""
    for name in names:
        value = getattr(owner, name)
        require(low <= value <= high, f"{name} must be between {low:g} and {high:g}, not {value}")


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
class LayersConfig:
    """Layer sizes of an actor or critic, in the order of Meng et al. 2021, figure 1."""

    pre_lstm: Sizes = (128,)
    """Layers before the LSTM."""
    lstm: Sizes = (128,)
    """Hidden sizes of the stacked LSTM layers."""
    post_lstm: Sizes = ()
    """Layers after the LSTM."""
    current: Sizes = (128,)
    """Layers of the current-feature extraction; empty: for the sequence memory the pre-LSTM
    features, for the window memory the input as it is."""
    combination: Sizes = (128,)
    """Layers of the perception integration, before the output."""

    def __post_init__(self) -> None:
        """Refuse layers without units."""
        for item in dataclasses.fields(self):
            for size in getattr(self, item.name):
                require(
                    1 <= size <= 16384,
                    f"a layer of {item.name} has {size} units; allowed are 1 to 16384",
                )


@dataclass(frozen=True, kw_only=True)
class LstmTd3Config:
    """LSTM-TD3 (Meng, Gorbet, Kulic 2021, arXiv 2102.12344); the defaults are the paper's."""

    memory: Literal["window", "sequence"] = "window"
    """`window`: the last `history_length` steps from a zero state, as in the paper; `sequence`: the
    whole episode from its start, or parts of it, with a loss at every step."""
    history_length: int = 5
    """Steps in the window; 0 is TD3 without memory. Unused by `sequence`."""
    sequence_length: int = 0
    """`sequence`: decisions of a part of an episode that is learnt from; 0: whole episodes."""
    burn_in: int = 0
    """`sequence` with parts: steps before a part that bring the memory up to date without a loss. The
    actor's begins with what it was when it acted, the critics' with zero."""
    history_actions: bool = True
    """Whether the memory sees past actions beside past observations."""
    actor: LayersConfig = LayersConfig()
    """Layers of the actor."""
    critic: LayersConfig = LayersConfig()
    """Layers of each critic."""
    critic_memory: bool = True
    """Whether the critics have a memory of their own, as in the paper."""
    critic_sees_truth: bool = False
    """Whether the critics get the environment's privileged features; the actor never does."""
    critic_sees_observation: bool = True
    """Whether the critics get the observation; without it they need the privileged features."""
    action_map: Literal["linear", "signed-square"] = "linear"
    """From the squashed output a in [-1, 1] to the action: a, or sign(a) a^2 (fine near zero)."""
    double_critic: bool = True
    """Whether the target is the smaller of two critics."""
    target_smoothing: bool = True
    """Whether noise is added to the target policy's action."""
    gamma: float = 0.99
    """Discount a step."""
    polyak: float = 0.995
    """Share of the target networks that stays at each update of the targets."""
    policy_delay: int = 2
    """Critic updates for one actor and target update."""
    actor_lr: float = 1e-3
    """Learning rate of the actor."""
    critic_lr: float = 1e-3
    """Learning rate of the critics."""
    actor_lstm_lr: float = 0.0
    """Learning rate of the actor's LSTM; 0: as `actor_lr`."""
    critic_lstm_lr: float = 0.0
    """Learning rate of the critics' LSTM; 0: as `critic_lr`."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Learning rates over the run: constant, or a half cosine down to `lr_final` of their start."""
    lr_final: float = 0.0
    """Share of the learning rates left at the end of the run under `cosine`."""
    batch_size: int = 100
    """Transitions (window) or episodes (sequence) in a batch."""
    start_steps: int = 10_000
    """Environment steps with uniformly random actions at the start."""
    update_after: int = 1_000
    """Environment steps before the first update."""
    update_every: int = 50
    """Environment steps between rounds of updates."""
    updates_per_round: int = 50
    """Updates in a round."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on a while training, a in [-1, 1]."""
    target_noise: float = 0.2
    """Standard deviation of the target smoothing noise, before clipping."""
    noise_clip: float = 0.5
    """Limit of the target smoothing noise."""
    actor_start_updates: int = 0
    """Critic updates before the actor's first."""
    actor_average: float = 0.0
    """Decay per actor update of the averaged actor that is evaluated and exported; 0: none."""
    pre_tanh_penalty: float = 0.0
    """Weight of the mean square of what the output before tanh is beyond `pre_tanh_limit`."""
    pre_tanh_limit: float = 2.0
    """Size of the output before tanh that is free of the penalty."""
    normalise_observations: bool = False
    """Whether observations are scaled by their running mean and standard deviation, frozen into the
    exported graph."""
    gradient_clip: float = 0.0
    """Largest norm of a gradient; 0: not clipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What hidden layers compute in while learning; weights, values and what acts stay float32.
    `bfloat16` is quicker on processors and GPUs that have it (AVX512-BF16, AMX)."""
    optimiser: Literal["fused", "foreach"] = "fused"
    """Implementation of Adam: one fused kernel, or one operation for all tensors of a kind."""

    def __post_init__(self) -> None:
        """Refuse combinations that cannot train."""
        require_between(self, 0, 10_000, "history_length")
        require_between(self, 1, 10_000_000, "batch_size", "policy_delay", "update_every")
        require_between(self, 0, 10**12, "start_steps", "update_after", "actor_start_updates")
        require_between(self, 1, 10**6, "updates_per_round")
        require_between(self, 0.0, 1.0, "gamma", "polyak", "actor_average", "lr_final")
        require_between(self, 0.0, 1e6, "exploration_noise", "target_noise", "noise_clip")
        require_between(self, 0.0, 1e6, "pre_tanh_penalty", "pre_tanh_limit", "gradient_clip")
        require_between(self, 1e-9, 10.0, "actor_lr", "critic_lr")
        require_between(self, 0.0, 10.0, "actor_lstm_lr", "critic_lstm_lr")
        require_between(self, 0, 10_000, "sequence_length", "burn_in")
        parts = self.memory == "sequence" and self.sequence_length > 0
        require(
            self.memory == "sequence" or self.sequence_length == self.burn_in == 0,
            "sequence_length and burn_in are for memory: sequence; a window has history_length",
        )
        require(
            parts or self.burn_in == 0,
            "burn_in is for parts of episodes: give sequence_length too, or burn_in: 0",
        )
        recurrent = self.memory == "sequence" or self.history_length > 0
        require(
            not recurrent or bool(self.actor.lstm),
            "actor.lstm is empty; give a size, or memory: window with history_length: 0",
        )
        require(
            not (recurrent and self.critic_memory) or bool(self.critic.lstm),
            "critic.lstm is empty; give a size, or critic_memory: false",
        )
        require(
            self.critic_sees_observation or self.critic_sees_truth,
            "critics see nothing: set critic_sees_observation or critic_sees_truth to true",
        )
        require(
            self.critic_sees_observation or not self.critic_memory,
            "critic_memory needs critic_sees_observation: true",
        )
        require(self.actor_average < 1.0, "actor_average must be below 1")


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
    options: dict[str, Any] = field(default_factory=dict)
    """Environment options that differ from those of the training."""

    def __post_init__(self) -> None:
        """Refuse an evaluation without episodes."""
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
        require_between(self, 0.0, 1e6, "every_s", "checkpoint_every_s")
        require_between(self, 0, 10**12, "checkpoint_every_steps", "checkpoint_keep")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole training run."""

    name: str = "run"
    """Name of the run folder, followed by a time stamp."""
    algorithm: Literal["lstm-td3"] = "lstm-td3"
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
    overlap: bool = False
    """Whether a thread of its own collects the next steps while the agent learns from those before;
    it acts with the weights of the beginning of the round."""
    environment: EnvironmentConfig = EnvironmentConfig()
    """The task."""
    agent: LstmTd3Config = LstmTd3Config()
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
        count = max(1, self.environment.num_envs)
        require(
            self.replay.capacity >= 2 * count,
            f"replay.capacity {self.replay.capacity} is too small for {count} environments; "
            f"at least {2 * count}",
        )
        require(
            self.agent.memory == "sequence" or self.agent.batch_size <= self.replay.capacity,
            f"agent.batch_size {self.agent.batch_size} is larger than "
            f"replay.capacity {self.replay.capacity}",
        )
        require(
            self.agent.memory == "sequence"
            or self.agent.history_length + 2 <= self.replay.capacity // count,
            f"agent.history_length {self.agent.history_length} does not fit the "
            f"{self.replay.capacity // count} steps that replay.capacity leaves an environment",
        )
        part = self.agent.sequence_length + self.agent.burn_in
        require(
            not self.agent.sequence_length or part + 2 <= self.replay.capacity // count,
            f"agent.sequence_length and burn_in are {part} steps together; they do not fit the "
            f"{self.replay.capacity // count} steps that replay.capacity leaves an environment",
        )
        require(
            self.replay.layout == "unified" or not self.learns_whole_episodes,
            "replay.layout: separate is for windows and parts of episodes; give "
            "agent.sequence_length, or replay.layout: unified",
        )

    @property
    def learns_whole_episodes(self) -> bool:
        """Whether a batch is of whole episodes."""
        return self.agent.memory == "sequence" and self.agent.sequence_length == 0
