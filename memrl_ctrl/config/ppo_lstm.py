"""Settings of PPO-LSTM."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from memrl_ctrl.config.checks import Sizes, require, require_between


@dataclass(frozen=True, kw_only=True)
class PpoLstmConfig:
    """PPO (Schulman et al. 2017, arXiv 1707.06347) with an LSTM."""

    encoder: Literal["auto", "mlp", "cnn"] = "auto"
    """What an observation passes first: fully connected layers, or convolutions for a picture or a
    grid [height, width, channels]; `auto` goes by the observation's shape."""
    pre_lstm: Sizes = (64,)
    """Fully connected layers before the LSTM."""
    lstm: Sizes = (64,)
    """Hidden sizes of the stacked LSTM layers; empty: no memory."""
    forget_bias: float = 4.0
    """Bias of the LSTM's forget gates at the start: with 0 half of the memory is lost in each step
    before anything is learnt, with 4 a fiftieth (Jozefowicz et al. 2015, Proc. ICML 37, 2342)."""
    input_bias: float = -2.0
    """Bias of its input gates: what is seen in between must not drown what is to be remembered, so
    that a memory that lasts is written to little at a time (as in Tallec and Ollivier 2018, arXiv
    1804.11188)."""
    actor: Sizes = ()
    """Fully connected layers between the LSTM and the action."""
    critic: Sizes = ()
    """Fully connected layers between the LSTM and the value."""
    shared: bool = True
    """Whether actor and critic share encoder and LSTM; otherwise each has its own."""
    history_actions: bool = False
    """Whether the LSTM sees the previous action beside the observation."""
    rollout_steps: int = 128
    """Steps of each environment between two rounds of learning."""
    epochs: int = 4
    """Passes over what was collected in a round."""
    minibatches: int = 4
    """Parts of a pass, each an update."""
    sequence_length: int = 16
    """Longest sequence that gradients pass through; 0: as long as an episode or the rollout is."""
    learning_rate: float = 1e-3
    """Learning rate at the start."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate over the run."""
    lr_final: float = 0.0
    """Share of the learning rate left at the end of the run."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's averages."""
    adam_epsilon: float = 1e-5
    """Adam's term against division by zero."""
    weight_decay: float = 0.0
    """Share of each weight that is taken away in an update, times the learning rate (Loshchilov and
    Hutter 2019, arXiv 1711.05101)."""
    gradient_clip: float = 0.5
    """Largest norm of the gradient; 0: not clipped."""
    gamma: float = 0.99
    """Discount a step."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438)."""
    clip_range: float = 0.2
    """How far the probability ratio counts from 1."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """Clip range over the run: constant, or linearly to 0."""
    clip_value: float = 0.0
    """How far a value counts from the one before the round; 0: not clipped."""
    target_kl: float = 0.0
    """A round of learning ends where the policy has moved further than this; 0: never."""
    value_weight: float = 0.5
    """Weight of the value's error in the loss."""
    entropy_weight: float = 0.01
    """Weight of the entropy in the loss at the start."""
    entropy_final: float = 1.0
    """Share of that weight left at the end of the run."""
    normalise_advantages: bool = True
    """Whether advantages are scaled to mean 0 and deviation 1 in each minibatch."""
    normalise_observations: bool = False
    """Whether observations are scaled by their running mean and standard deviation, frozen into the
    exported graph."""
    normalise_rewards: bool = False
    """Whether rewards are divided by the running deviation of the discounted return."""
    random_epsilon: float = 0.0
    """Probability of a random action while training (discrete actions)."""
    random_in_policy: bool = False
    """Whether the random part belongs to the policy whose probabilities are learnt from: actions are then
    drawn from (1 - random_epsilon) times the network's probabilities and random_epsilon times equal ones.
    Otherwise actions are replaced, and learnt from as if the network had chosen them."""
    initial_log_std: float = -0.5
    """Logarithm of the standard deviation at the start (continuous actions, a in [-1, 1])."""
    log_std_schedule: Literal["learned", "linear"] = "learned"
    """What becomes of it: learnt, or over the run linearly to `final_log_std`."""
    final_log_std: float = -3.0
    """Logarithm of the standard deviation at the end of the run, where it is not learnt."""
    action_map: Literal["linear", "signed-square"] = "linear"
    """What a continuous action is of what is drawn, a: a itself, or sign(a) a^2, whose small steps are
    fine and little disturbed by the spread."""
    critic_sees_truth: bool = False
    """Whether the critic gets the environment's privileged features; the actor never does."""
    actor_average: float = 0.0
    """Decay per update of the averaged policy that is evaluated and exported; 0: none."""
    optimiser: Literal["fused", "foreach"] = "fused"
    """Implementation of Adam: one fused kernel, or one operation for all tensors of a kind."""

    def __post_init__(self) -> None:
        """Refuse combinations that cannot train."""
        for item in ("pre_lstm", "lstm", "actor", "critic"):
            for size in getattr(self, item):
                require(
                    1 <= size <= 16384,
                    f"a layer of {item} has {size} units; allowed are 1 to 16384",
                )
        require_between(self, 1, 10**7, "rollout_steps", "epochs", "minibatches")
        require_between(self, 0, 10**6, "sequence_length")
        require_between(self, 1e-9, 10.0, "learning_rate")
        require_between(self, 1e-12, 1.0, "adam_epsilon")
        require_between(self, 0.0, 1.0, "weight_decay")
        require_between(self, 0.0, 1.0, "gamma", "gae_lambda", "lr_final", "random_epsilon")
        require_between(self, 0.0, 1e6, "gradient_clip", "clip_value", "target_kl", "value_weight")
        require_between(self, 0.0, 1e6, "entropy_weight", "entropy_final")
        require_between(self, 1e-6, 10.0, "clip_range")
        require_between(self, -20.0, 5.0, "initial_log_std", "final_log_std")
        require_between(self, 0.0, 1.0, "actor_average")
        require(self.actor_average < 1.0, "actor_average must be below 1")
        for beta in self.adam_betas:
            require(0.0 <= beta < 1.0, f"adam_betas must be at least 0 and below 1, not {beta}")
        require(
            not self.critic_sees_truth or not self.shared or bool(self.critic),
            "critic_sees_truth needs layers of its own: give critic a size, or shared: false",
        )
        require(
            not self.history_actions or bool(self.lstm),
            "history_actions needs an LSTM: give lstm a size",
        )

    @property
    def memory(self) -> str:
        """Kind of memory, for names and manifests."""
        return "sequence" if self.lstm else "none"

    def without_memory(self) -> PpoLstmConfig:
        """Return the same without an LSTM, to compare with."""
        return dataclasses.replace(self, lstm=(), history_actions=False)
