"""Settings of LSTM-TD3."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from memrl_ctrl.config.checks import Sizes, require, require_between


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
    history_scale: Literal["linear", "logarithmic"] = "linear"
    """How the memory sees a past action: as it is, or also sign(a) log(1 + 360 |a|). A memory that
    averages has to know what was applied to a thousandth of the range."""
    filters: tuple[float, ...] = ()
    """`sequence` on the beam: the actor's memory also averages, in one fading-memory filter for each of these
    numbers: the share of what it knows that the filter keeps at a step (1: all). Empty: none."""
    estimate_weight: float = 0.0
    """With `filters`, above 0: weight of the errors of what each observation alone says and of the LSTM's
    estimate, and of how far both are said to be trusted, beside the critic's value, from which only the
    weights of what is mixed learn. The errors are privileged: the actor learns from them but never sees
    them."""
    actor: LayersConfig = LayersConfig()
    """Layers of the actor."""
    critic: LayersConfig = LayersConfig()
    """Layers of each critic."""
    critic_memory: bool = True
    """Whether the critics have a memory of their own, as in the paper."""
    critic_sees_truth: bool = False
    """Whether the critics get the environment's privileged features; the actor never does."""
    critic_sees_outcome: bool = False
    """Whether the critics get what the privileged phase error becomes by the action, on a logarithmic
    scale (beam only; needs `critic_sees_truth`): a network does not resolve a degree of a turn."""
    critic_sees_observation: bool = True
    """Whether the critics get the observation; without it they need the privileged features."""
    action_map: Literal["linear", "signed-square"] = "linear"
    """From the squashed output a in [-1, 1] to the action: a, or sign(a) a^2 (fine near zero)."""
    dead_band: float = 0.0
    """Unit actions smaller than this are not taken: the hands are still where there is nothing left to
    correct. Part of the exported graph; the memory sees that nothing was applied."""
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
    exploration_share: float = 1.0
    """Share of the environments that act with this noise; the others act as the policy says. Where
    every action is noisy, what a memory knows of earlier shots is worth less than it will be."""
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
        require_between(self, 0.0, 1.0, "exploration_share", "dead_band")
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
            self.critic_sees_truth or not self.critic_sees_outcome,
            "critic_sees_outcome needs critic_sees_truth: true",
        )
        require(
            self.critic_sees_observation or not self.critic_memory,
            "critic_memory needs critic_sees_observation: true",
        )
        require(
            self.history_actions or self.history_scale == "linear",
            "history_scale: logarithmic needs history_actions: true",
        )
        self._check_filters()
        require(self.actor_average < 1.0, "actor_average must be below 1")

    def _check_filters(self) -> None:
        require_between(self, 0.0, 1e6, "estimate_weight")
        if not self.filters:
            require(self.estimate_weight == 0.0, "estimate_weight is for filters: give some, or 0")
            return
        require(
            all(0.0 <= keep <= 1.0 for keep in self.filters),
            f"filters keep a share of what they know, from 0 to 1, not {list(self.filters)}",
        )
        require(
            self.memory == "sequence" and self.sequence_length == 0,
            "filters are for memory: sequence over whole episodes (sequence_length: 0): what is kept of a "
            "memory for parts of them is too coarse for an average",
        )
        require(
            self.history_actions and self.history_scale == "logarithmic",
            "filters need history_actions: true and history_scale: logarithmic",
        )
        require(self.action_map == "linear", "filters need action_map: linear")
        require(
            not self.actor.current and not self.actor.post_lstm,
            "filters take the encoder's output and the LSTM's as they are: leave actor.current and "
            "actor.post_lstm empty",
        )
        require(
            self.estimate_weight > 0.0 and self.critic_sees_truth,
            "what filters average is learnt from the privileged errors of each observation's estimate: give "
            "estimate_weight above 0, and critic_sees_truth: true",
        )
