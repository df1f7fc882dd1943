"""Training configuration: frozen dataclasses, read from YAML, changed by `--set key.sub=value`.

Unknown keys are refused with a suggestion, wrong types are named with their path, and combinations
that cannot work are refused at construction. The whole resolved configuration is written into the
run folder and the policy file. This package needs no torch.
"""

from memrl_ctrl.config.checks import ConfigError
from memrl_ctrl.config.lstm_td3 import LayersConfig, LstmTd3Config
from memrl_ctrl.config.ppo_lstm import PpoLstmConfig
from memrl_ctrl.config.reading import (
    checked,
    dump,
    from_dict,
    read_override,
    read_yaml,
    resolve,
    shipped,
    to_dict,
)
from memrl_ctrl.config.schema import (
    AGENT_CONFIGS,
    AgentConfig,
    EnvironmentConfig,
    EvaluationConfig,
    LoggingConfig,
    ReplayConfig,
    TrainingConfig,
)

__all__ = [
    "AGENT_CONFIGS",
    "AgentConfig",
    "ConfigError",
    "EnvironmentConfig",
    "EvaluationConfig",
    "LayersConfig",
    "LoggingConfig",
    "LstmTd3Config",
    "PpoLstmConfig",
    "ReplayConfig",
    "TrainingConfig",
    "checked",
    "dump",
    "from_dict",
    "read_override",
    "read_yaml",
    "resolve",
    "shipped",
    "to_dict",
]
