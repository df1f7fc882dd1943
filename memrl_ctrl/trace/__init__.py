"""The recorded truth of a run: journal while it goes on, HDF5 afterwards, replay from both.

A run writes with `JournalWriter`; `recover` makes the HDF5 file; `TraceReader` reads either.
"""

from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, RECORDS, new_run_folder
from memrl_ctrl.trace.hdf5 import build_hdf5
from memrl_ctrl.trace.journal import JournalWriter
from memrl_ctrl.trace.provenance import environment_fingerprint, recorded_versions
from memrl_ctrl.trace.reader import TraceReader
from memrl_ctrl.trace.records import (
    POLICY_FILE,
    SCHEMA_VERSION,
    CycleRecord,
    EndRecord,
    OutcomeRecord,
    PolicyStep,
    SignatureRecord,
    TraceHeader,
    Verdict,
)
from memrl_ctrl.trace.recovery import Recovery, recover, verify
from memrl_ctrl.trace.report import Damage, TraceReport
from memrl_ctrl.trace.scan import JournalReader, read_journal
from memrl_ctrl.trace.signing import Signer, installed_signer

__all__ = [
    "HDF5_NAME",
    "JOURNAL_NAME",
    "POLICY_FILE",
    "RECORDS",
    "SCHEMA_VERSION",
    "CycleRecord",
    "Damage",
    "EndRecord",
    "JournalReader",
    "JournalWriter",
    "OutcomeRecord",
    "PolicyStep",
    "Recovery",
    "SignatureRecord",
    "Signer",
    "TraceHeader",
    "TraceReader",
    "TraceReport",
    "Verdict",
    "build_hdf5",
    "environment_fingerprint",
    "installed_signer",
    "new_run_folder",
    "read_journal",
    "recorded_versions",
    "recover",
    "verify",
]
