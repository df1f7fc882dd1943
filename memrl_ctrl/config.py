"""Training configuration: frozen dataclasses, read from YAML, changed by `--set key.sub=value`.

Unknown keys are refused with a suggestion, wrong types are named with their path, and combinations
that cannot work are refused at construction. The whole resolved configuration is written into the
run folder and the policy file. This module needs no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from memrl_ctrl.errors import FileError, UnknownNameError, UsageError

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
    """Environments that step together."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment's constructor."""

    def __post_init__(self) -> None:
        """Refuse an impossible number of environments."""
        require(bool(self.id), "environment.id is empty; give a Gymnasium environment's name")
        require_between(self, 1, 65536, "num_envs")


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
    whole episode from its start, with a loss at every step."""
    history_length: int = 5
    """Steps in the window; 0 is TD3 without memory. Unused by `sequence`."""
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

    def __post_init__(self) -> None:
        """Refuse a buffer that holds nothing."""
        require_between(self, 1, 10**10, "capacity")


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
    checkpoint_replay: bool = False
    """Whether checkpoints hold the replay buffer, for a resumption without a gap."""

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
        count = self.environment.num_envs
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


AGENT_CONFIGS: dict[str, type] = {"lstm-td3": LstmTd3Config}
"""Settings of each algorithm; `agent` is read as the one that `algorithm` names."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 1e-3 is a number, `off` and `yes` are words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":bool", ":float"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.?\d+[eE][-+]?\d+|\.\d+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def shipped() -> list[str]:
    """Names of the shipped configurations."""
    folder = files("memrl_ctrl") / "training" / "configs"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def resolve(name_or_file: str | Path, overrides: Iterable[str] = ()) -> TrainingConfig:
    """Read a configuration by its shipped name or from a file, and change single keys.

    Args:
        name_or_file: a name of `shipped()`, or a YAML file (it has a suffix or a folder).
        overrides: `key.sub=value`, the value as in YAML.

    Raises:
        UnknownNameError: no such configuration, or no such key.
        FileError: the file cannot be read.
        ConfigError: a value of the wrong type, or a combination that cannot work.
    """
    values = _read(name_or_file)
    for text in overrides:
        _override(values, text)
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """Make a configuration from nested plain values.

    Raises:
        UnknownNameError: a key that does not exist; names it with its path and the nearest one.
        ConfigError: a value of the wrong type, or a combination that cannot work.
    """
    algorithm = values.get("algorithm", "lstm-td3")
    if not isinstance(algorithm, str) or algorithm not in AGENT_CONFIGS:
        raise UnknownNameError("algorithm", str(algorithm), AGENT_CONFIGS)
    _check_keys(values, TrainingConfig, ())
    return _convert(values, TrainingConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values, every default filled in."""
    values = msgspec.to_builtins(dataclasses.asdict(config))
    return {str(key): value for key, value in values.items()}


def dump(config: Any) -> str:
    """Return a configuration as YAML, every default filled in; `resolve` reads it back equal."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=100)
    return str(text)


def _read(name_or_file: str | Path) -> dict[str, Any]:
    path = Path(name_or_file)
    is_file = isinstance(name_or_file, Path) or path.suffix in {".yaml", ".yml"} or path.parent.name
    try:
        if is_file:
            text = path.read_text(encoding="utf-8")
        else:
            name = str(name_or_file)
            if name not in shipped():
                raise UnknownNameError("configuration", name, shipped())
            text = (files("memrl_ctrl") / "training" / "configs" / f"{name}.yaml").read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FileError(path, f"cannot be read as a configuration: {reason}") from error
    try:
        values = _parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "cannot be parsed"
        line = None if mark is None else mark.line + 1
        raise FileError(path, f"is no YAML: {problem}", line=line) from error
    if not isinstance(values, dict):
        raise FileError(path, f"holds {_words(values)}; expected keys with values, like `seed: 0`")
    return values


def _override(values: dict[str, Any], text: str) -> None:
    """Set one `key.sub=value` in nested plain values."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {text!r} is not of the form key.sub=value")
    target = values
    for depth, part in enumerate(parts[:-1]):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"--set {text!r}: {'.'.join(parts[: depth + 1])} is a value, not a group of keys"
            )
    try:
        target[parts[-1]] = _parse(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is no YAML") from error


def _check_keys(values: Mapping[str, Any], kind: type, path: tuple[str, ...]) -> None:
    """Refuse keys and choices that the dataclass does not have, at every depth."""
    known = {item.name: item.type for item in _fields(kind)}
    for key, value in values.items():
        here = ".".join((*path, str(key)))
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {'.'.join((*path, close[0]))!r}?" if close else ";"
            where = ".".join(path) or "a configuration"
            raise ConfigError(f"no key {here!r}{hint} {where} has: {', '.join(known)}")
        expected = known[key]
        if isinstance(expected, msgspec.inspect.LiteralType) and value not in expected.values:
            choices = ", ".join(str(choice) for choice in expected.values)
            raise ConfigError(f"{here} cannot be {value!r}; it is one of: {choices}")
        if isinstance(expected, msgspec.inspect.DataclassType):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{here} is {_words(value)}; expected a group of keys")
            _check_keys(value, expected.cls, (*path, str(key)))


def _fields(kind: type) -> tuple[msgspec.inspect.Field, ...]:
    info = msgspec.inspect.type_info(kind)
    return info.fields if isinstance(info, msgspec.inspect.DataclassType) else ()


def _convert(values: Mapping[str, Any], kind: type[TrainingConfig]) -> TrainingConfig:
    """Make the dataclass; what is wrong is named with its path."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        found = re.fullmatch(r"(.*?)(?: - at `\$\.?([^`]*)`)?", str(error), re.DOTALL)
        sentence, path = (found.group(1), found.group(2)) if found else (str(error), None)
        if sentence.startswith("Expected"):
            sentence = sentence.replace("`", "").replace("Expected", "expected")
        raise ConfigError(f"{path}: {sentence}" if path else sentence) from error


def _words(value: Any) -> str:
    """Say what a YAML value is."""
    if value is None:
        return "nothing"
    return {str: "text", list: "a list", bool: "a truth value"}.get(type(value), f"{value!r}")
