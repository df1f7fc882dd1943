"""The twin: a backend with the imperfections and faults that a scenario names.

`open_backend` opens one; `with_faults` puts faults around any backend.
"""

from memrl_backends.twin.faults import KINDS, Fault
from memrl_backends.twin.faulty import FaultyAlongCycle, FaultyBackend, Timing, with_faults
from memrl_backends.twin.options import open_backend
from memrl_backends.twin.scenario import Scenario, available, load_scenario

__all__ = [
    "KINDS",
    "Fault",
    "FaultyAlongCycle",
    "FaultyBackend",
    "Scenario",
    "Timing",
    "available",
    "load_scenario",
    "open_backend",
    "with_faults",
]
