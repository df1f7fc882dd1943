"""What a trace is made of: a header, cycles, the outcome of each, an end.

These are the shapes in memory. `memrl_ctrl.trace.codec` turns them into bytes, the journal makes
the bytes durable, and the HDF5 file holds the same values, indexed.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import FloatArray, MachineDescription, Reading, Receipt
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace.provenance import environment_fingerprint, recorded_versions

SCHEMA_VERSION = 3
"""Version of the records and of the HDF5 layout that is written."""
READABLE_SCHEMAS = (1, 2, 3)
"""Versions that are read; another one is refused. Version 1 knew no signatures; 1 and 2 stored profiles and
memories as they stand."""
POLICY_FILE = "policy.onnx"
"""Name under which a trace carries the policy file."""

SIGNATURE_BYTES = 32 + 64
"""Public key and signature (RFC 8032, 5.1)."""
READING_ARRAYS: tuple[tuple[str, type, int], ...] = (
    ("profile", np.float32, 2),
    ("setpoint_rad", np.float64, 1),
    ("applied_rad", np.float64, 1),
    ("readback_rad", np.float64, 1),
    ("synchronous_phase_rad", np.float64, 1),
    ("quality", np.uint16, 1),
)
"""Arrays of a reading that are recorded: name, element type, number of dimensions."""

Float32Array = NDArray[np.float32]
VerdictArray = NDArray[np.uint8]


class Verdict(IntEnum):
    """What a guard stage said of one point."""

    PASSED = 0
    """Nothing to object to."""
    ALTERED = 1
    """The value was brought within a limit."""
    HELD = 2
    """The point keeps the last applied value."""
    REFUSED = 3
    """The whole function is not to be written."""
    NOT_RUN = 255
    """The stage was not asked."""


@dataclass(frozen=True, kw_only=True)
class TraceHeader:
    """Where a trace comes from, and everything that a replay needs beside the cycles.

    `TraceHeader.begin` fills in what the process knows of itself.
    """

    run_id: str
    """Identity of the run, 32 hexadecimal digits."""
    started_utc: str
    """Start of the run, ISO 8601, UTC."""
    mode: str
    """Mode at the start: `closed-loop`, `shadow`, ..."""
    machine: MachineDescription
    """The machine as it described itself."""
    limits: PhaseLimits
    """Limits of phi_hw that the run kept, at least as tight as the machine's."""
    guard_stages: tuple[str, ...] = ()
    """Names of the guard's stages, in the order of the verdicts' last dimension."""
    measures: Mapping[str, str] = field(default_factory=dict)
    """Further numbers that the run records per point and cycle: name to unit (`1` if it is pure)."""
    policy_name: str = ""
    """The policy's name for people; empty where none drives."""
    policy_sha256: str = ""
    """SHA-256 of the policy file, hexadecimal."""
    manifest_json: str = ""
    """The policy's manifest as it stands in the file."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """The whole resolved configuration of the run; what JSON can say (NaN becomes null)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library to version."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What must be equal for a replay to be identical to the bit."""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Whole files by name: the policy under `policy.onnx`, others as the run sees fit."""

    def __post_init__(self) -> None:
        """Refuse a header that contradicts itself."""
        policy = self.files.get(POLICY_FILE)
        if policy is not None and hashlib.sha256(policy).hexdigest() != self.policy_sha256:
            raise ValueError(f"policy_sha256 is not the SHA-256 of the file {POLICY_FILE!r}")
        for kind, names in (("guard stage", self.guard_stages), ("measure", self.measures)):
            if len(set(names)) != len(names) or not all(names):
                raise ValueError(f"each {kind} needs a name of its own: {list(names)}")

    @property
    def policy(self) -> bytes | None:
        """The whole policy file; None where there is none, or where it was lost."""
        return self.files.get(POLICY_FILE)

    @property
    def program(self) -> str:
        """Name of the cycle program."""
        return self.machine.program

    @classmethod
    def begin(
        cls,
        *,
        mode: str,
        machine: MachineDescription,
        limits: PhaseLimits,
        policy: bytes | None = None,
        policy_name: str = "",
        manifest_json: str = "",
        guard_stages: Sequence[str] = (),
        measures: Mapping[str, str] | None = None,
        configuration: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> TraceHeader:
        """Make the header of a run that begins now.

        Args:
            mode: mode at the start.
            machine: the machine as it described itself.
            limits: limits that the run keeps.
            policy: the whole policy file; it travels inside the trace.
            policy_name: the policy's name for people.
            manifest_json: the policy's manifest.
            guard_stages: names of the guard's stages.
            measures: further numbers per point and cycle, name to unit.
            configuration: the whole resolved configuration.
            files: further files to keep, by name.
        """
        kept = dict(files or {})
        if policy is not None:
            kept[POLICY_FILE] = policy
        return cls(
            run_id=uuid.uuid4().hex,
            started_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            mode=mode,
            machine=machine,
            limits=limits,
            guard_stages=tuple(guard_stages),
            measures=dict(measures or {}),
            policy_name=policy_name,
            policy_sha256="" if policy is None else hashlib.sha256(policy).hexdigest(),
            manifest_json=manifest_json,
            configuration=dict(configuration or {}),
            versions=recorded_versions(),
            fingerprint=environment_fingerprint(),
            files=kept,
        )


@dataclass(frozen=True, kw_only=True)
class PolicyStep:
    """One call of the policy for all points: exactly what went in and what came out."""

    observation: Float32Array
    """First input [points, n_obs]."""
    previous_applied: Float32Array
    """Change really applied after the last call, second input [points, 1], rad."""
    memory_in: Mapping[str, NDArray[Any]]
    """Memory that went in, by the graph's input name, each [points, ...]."""
    action: Float32Array
    """First output [points, 1], rad."""
    memory_out: Mapping[str, NDArray[Any]]
    """Memory that came out, by the graph's output name, each [points, ...]."""


@dataclass(frozen=True, kw_only=True)
class CycleRecord:
    """One cycle, as decided, before anything is written to the machine; never with its truth."""

    reading: Reading
    """What the machine said; its `truth`, where it has one, is left out."""
    mode: str
    """Mode in which the cycle was decided."""
    policy: PolicyStep | None
    """The policy's call; None where it was not asked in this cycle."""
    verdicts: VerdictArray
    """`Verdict` of each guard stage [points, stages]; stages as in the header."""
    proposed_rad: FloatArray
    """phi_hw that was wanted before the guard [points]; what is held if nobody wants anything."""
    written_rad: FloatArray | None = None
    """phi_hw that goes to the machine [points]; None where nothing is written (shadow)."""
    target_cycle: int | None = None
    """First cycle that is to play `written_rad`; None where nothing is written."""
    measures: Mapping[str, FloatArray] = field(default_factory=dict)
    """The further numbers that the header announces, each [points]."""
    timings_ns: Mapping[str, int] = field(default_factory=dict)
    """Duration of the loop's sections until now, by name, ns, not negative."""
    events: Sequence[Mapping[str, Any]] = ()
    """What happened: operator, fallback, refusals; each with a `kind`, and what JSON can say."""

    def __post_init__(self) -> None:
        """Refuse a record whose parts do not fit together."""
        points = self.reading.profile.shape[0]
        for name, dtype, dimensions in READING_ARRAYS:
            _check(name, getattr(self.reading, name), points, dtype, dimensions=dimensions)
        if (self.written_rad is None) != (self.target_cycle is None):
            raise ValueError("written_rad and target_cycle go together: both, or neither")
        if self.target_cycle is not None and self.target_cycle < 0:
            raise ValueError(f"target_cycle must not be negative: {self.target_cycle}")
        _check("verdicts", self.verdicts, points, np.uint8, dimensions=2)
        _check("proposed_rad", self.proposed_rad, points, np.float64, dimensions=1)
        if self.written_rad is not None:
            _check("written_rad", self.written_rad, points, np.float64, dimensions=1)
        for name, values in self.measures.items():
            _check(f"measure {name!r}", values, points, np.float64, dimensions=1)
        if self.policy is not None:
            step = self.policy
            for name in ("observation", "previous_applied", "action"):
                array = getattr(step, name)
                _check(name, array, points, np.float32, dimensions=2)
                if name != "observation" and array.shape[1] != 1:
                    raise ValueError(f"{name} has shape {array.shape}; expected {(points, 1)}")
            for name, values in (*step.memory_in.items(), *step.memory_out.items()):
                _check(f"memory {name!r}", values, points, None)
        _check_timings(self.timings_ns)
        check_events(self.events)

    @property
    def cycle(self) -> int:
        """Number of the cycle that was read."""
        return self.reading.cycle


@dataclass(frozen=True, kw_only=True)
class OutcomeRecord:
    """What became of a cycle's setpoint: appended after the commit, durable with the next cycle."""

    cycle: int
    """The `CycleRecord` it belongs to: the cycle that was read."""
    receipt: Receipt | None = None
    """The machine's word; None where it refused."""
    reason: str = ""
    """Why the setpoint was not taken (a `RefusalReason`, or the error's name); empty if it was."""
    detail: str = ""
    """The refusal in words."""
    timings_ns: Mapping[str, int] = field(default_factory=dict)
    """Duration of the sections after the record, such as `write`, ns, not negative."""
    events: Sequence[Mapping[str, Any]] = ()
    """What happened since the record was made; as in `CycleRecord`."""

    def __post_init__(self) -> None:
        """Refuse an outcome that is both or neither."""
        if (self.receipt is None) != bool(self.reason):
            raise ValueError("an outcome has either a receipt or a reason")
        _check_timings(self.timings_ns)
        check_events(self.events)

    @property
    def accepted(self) -> bool:
        """Whether the machine took the setpoint."""
        return self.receipt is not None


@dataclass(frozen=True, kw_only=True)
class EndRecord:
    """The last record of a run that ended by itself."""

    cycles: int
    """Cycles recorded."""
    ended_utc: str
    """End of the run, ISO 8601, UTC."""
    reason: str = ""
    """Why it ended."""


@dataclass(frozen=True, kw_only=True)
class SignatureRecord:
    """A signature over all records before it (`memrl_ctrl.trace.signing`)."""

    public_key: bytes
    """Ed25519 public key, 32 bytes."""
    signature: bytes
    """64 bytes."""


def _check(
    name: str, array: NDArray[Any], points: int, dtype: type | None, *, dimensions: int = 0
) -> None:
    if not array.ndim or array.shape[0] != points or (dimensions and array.ndim != dimensions):
        raise ValueError(
            f"{name} has shape {array.shape}; expected {points} points"
            + (f" and {dimensions} dimensions" if dimensions else "")
        )
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"{name} is {array.dtype}, not {np.dtype(dtype)}")


def _check_timings(timings_ns: Mapping[str, int]) -> None:
    for name, value in timings_ns.items():
        if value < 0:
            raise ValueError(f"timing {name!r} is negative: {value} ns")


def check_events(events: Sequence[Mapping[str, Any]]) -> None:
    """Refuse events without a `kind`.

    Raises:
        ValueError: one of them has none.
    """
    for event in events:
        if not isinstance(event.get("kind"), str):
            raise ValueError(f"an event needs a 'kind': {dict(event)}")
