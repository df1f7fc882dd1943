"""The shadow report: what a policy would have done beside the operators, for whoever has to decide."""

from memrl_deploy.report.figures import ShadowFigures, shadow_figures
from memrl_deploy.report.judgement import Finding, Judgement, judge
from memrl_deploy.report.numbers import as_json
from memrl_deploy.report.page import page
from memrl_deploy.report.thresholds import Thresholds, load_thresholds

__all__ = [
    "Finding",
    "Judgement",
    "ShadowFigures",
    "Thresholds",
    "as_json",
    "judge",
    "load_thresholds",
    "page",
    "shadow_figures",
]
