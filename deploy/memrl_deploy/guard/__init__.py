"""The guard: what may alter or refuse what a policy asks for. `docs/safety.md` draws it."""

from memrl_deploy.guard.config import GuardConfig
from memrl_deploy.guard.core import Guard
from memrl_deploy.guard.decision import STAGES, Decision, Excess
from memrl_deploy.guard.health import usable_points
from memrl_deploy.guard.outlook import Outlook

__all__ = ["STAGES", "Decision", "Excess", "Guard", "GuardConfig", "Outlook", "usable_points"]
