"""The trace of a run: a folder of its own, the journal while it goes on, HDF5 at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memrl_ctrl.backend import MachineDescription
from memrl_ctrl.errors import TraceError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.policy.manifest import encode_manifest
from memrl_ctrl.trace import (
    JOURNAL_NAME,
    CycleRecord,
    JournalWriter,
    OutcomeRecord,
    TraceHeader,
    installed_signer,
    new_run_folder,
    recover,
)
from memrl_deploy.inference import Asked

MEASURES = {"asymmetry": "1", "bunching_factor": "1", "recommended_rad": "rad"}
"""What a run records per point beside the reading, with its unit."""


class Recorder:
    """Records the cycles of one run.

    Args:
        root: folder of all runs; the run gets a new one inside.
        mode: name of the mode.
        machine: as it describes itself.
        limits: that the run keeps.
        policy: that drives; its whole file travels in the trace, or name and settings of a controller.
        guard_stages: names of the guard's stages.
        configuration: of the run, resolved.

    Raises:
        TraceError: the folder or the journal cannot be made.
        FileError: the installation's signing key is there and cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        mode: str,
        machine: MachineDescription,
        limits: PhaseLimits,
        policy: Asked,
        guard_stages: tuple[str, ...],
        configuration: Mapping[str, Any],
    ) -> None:
        header = TraceHeader.begin(
            mode=mode,
            machine=machine,
            limits=limits,
            policy=policy.data,
            policy_name=policy.manifest.name,
            manifest_json=encode_manifest(policy.manifest),
            guard_stages=guard_stages,
            measures=MEASURES,
            configuration=configuration,
        )
        signer = installed_signer()
        self.folder = new_run_folder(root, mode)
        self.hdf5: Path | None = None
        """The indexed file, once it is made."""
        self._journal = JournalWriter(self.folder / JOURNAL_NAME, header, signer)
        self._ended = False

    @property
    def size_bytes(self) -> int:
        """Length of the journal so far."""
        return self._journal.size_bytes

    def cycle(self, record: CycleRecord) -> None:
        """Record a cycle; on return it is on the disk.

        Raises:
            TraceError: it is not recorded: nothing may be written to the machine for it.
        """
        self._journal.append(record)

    def outcome(self, record: OutcomeRecord) -> str:
        """Record what became of the cycle; durable with the next one.

        Returns:
            Why it could not be recorded; empty if it was. The setpoint is on its way already.
        """
        try:
            self._journal.append(record, durable=False)
        except TraceError as error:
            return str(error)
        return ""

    def finish(self, reason: str) -> str:
        """Close the journal and make the HDF5 file from it.

        Returns:
            What went wrong; empty if nothing did. What was acknowledged is safe in the journal.
        """
        if self._ended:
            return ""
        self._ended = True
        try:
            self._journal.close(reason)
            self.hdf5 = recover(self.folder).hdf5
        except TraceError as error:
            if not self._journal.path.is_file():
                return f"{error}: the journal of this run is no longer at {self._journal.path}"
            return f"{error} (`memrl-ctrl trace recover {self.folder}` makes the HDF5 file later)"
        return ""
