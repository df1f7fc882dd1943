"""Policy files: their manifest, the runner that drives one, and policies written by hand."""

from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.policy.runner import OnnxPolicy

__all__ = ["OnnxPolicy", "PolicyManifest"]
