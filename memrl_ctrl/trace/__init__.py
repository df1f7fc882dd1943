"""The recorded truth of a run: journal while it goes on, HDF5 afterwards, replay from both."""

from memrl_ctrl.trace.journal import JournalWriter
from memrl_ctrl.trace.records import (
    POLICY_FILE,
    SCHEMA_VERSION,
    CycleRecord,
    EndRecord,
    OutcomeRecord,
    PolicyStep,
    TraceHeader,
    Verdict,
)

__all__ = [
    "POLICY_FILE",
    "SCHEMA_VERSION",
    "CycleRecord",
    "EndRecord",
    "JournalWriter",
    "OutcomeRecord",
    "PolicyStep",
    "TraceHeader",
    "Verdict",
]
