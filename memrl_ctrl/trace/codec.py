"""Records as bytes and back, the same bytes for the same record.

A payload is a frame (`memrl_ctrl.frames`): a typed header and raw arrays. Arrays have the names of
the HDF5 file's datasets. What is a JSON document in the HDF5 file is one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import PurePath
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import MachineDescription, Reading, Receipt
from memrl_ctrl.frames import MAX_ARRAYS, FrameError, Message, pack, unpack
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace.records import (
    READING_ARRAYS,
    CycleRecord,
    EndRecord,
    OutcomeRecord,
    PolicyStep,
    SignatureRecord,
    TraceHeader,
    check_events,
)

MEMORY_IN = "memory_in/"
MEMORY_OUT = "memory_out/"
MEASURE = "measures/"
NO_EVENTS = "[]"
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
Arrays = dict[str, NDArray[Any]]


class Kind(IntEnum):
    """What a journal record holds, as it stands in the record's head."""

    HEADER = 0
    FILE = 1
    CYCLE = 2
    OUTCOME = 3
    END = 4
    SIGNATURE = 5


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One of the files that a trace carries."""

    name: str
    data: bytes


class _Limits(msgspec.Struct, frozen=True):
    min_rad: float
    max_rad: float
    step_rad: float
    slope_rad_per_ms: float


class _Header(Message, tag="header", frozen=True, kw_only=True, omit_defaults=True):
    run_id: str
    started_utc: str
    mode: str
    machine: str
    program: str
    points: int
    n_slices: int
    machine_limits: _Limits
    period_s: float
    writable: bool
    backend: str
    fidelity: str
    limits: _Limits
    guard_stages: list[str]
    measures: dict[str, str]
    policy_name: str
    policy_sha256: str
    manifest_json: str
    configuration_json: str
    versions_json: str
    fingerprint_json: str


class _File(Message, tag="file", frozen=True, kw_only=True, omit_defaults=True):
    name: str


class _Cycle(Message, tag="cycle", frozen=True, kw_only=True, omit_defaults=True):
    cycle: Int64
    stamp_ns: Int64
    received_ns: Int64
    mode: str
    policy_ran: bool
    target_cycle: Natural | None
    timings_ns: dict[str, Natural]
    events_json: str


class _Outcome(Message, tag="outcome", frozen=True, kw_only=True, omit_defaults=True):
    cycle: Int64
    reason: str
    detail: str
    receipt_cycle: Int64
    committed_ns: Int64
    fence: Int64
    timings_ns: dict[str, Natural]
    events_json: str


class _End(Message, tag="end", frozen=True, kw_only=True, omit_defaults=True):
    cycles: Natural
    ended_utc: str
    reason: str


class _Signature(Message, tag="signature", frozen=True, kw_only=True):
    public_key: bytes
    signature: bytes


Record = TraceHeader | FileRecord | CycleRecord | OutcomeRecord | EndRecord | SignatureRecord
_decoder = msgspec.msgpack.Decoder(_Header | _File | _Cycle | _Outcome | _End | _Signature)


def kind_of(record: Record) -> Kind:
    """Return the kind under which a record stands in the journal."""
    match record:
        case CycleRecord():
            return Kind.CYCLE
        case OutcomeRecord():
            return Kind.OUTCOME
        case TraceHeader():
            return Kind.HEADER
        case FileRecord():
            return Kind.FILE
        case EndRecord():
            return Kind.END
        case SignatureRecord():
            return Kind.SIGNATURE


def encode(record: Record, arrays: Arrays | None = None) -> bytes:
    """Return a record's payload.

    Args:
        record: any.
        arrays: those of a cycle, if they were collected already (`cycle_arrays`).

    Raises:
        ValueError: a part of it cannot be recorded; says which.
    """
    message: Message
    match record:
        case CycleRecord():
            message = _cycle_message(record)
            arrays = cycle_arrays(record) if arrays is None else arrays
        case OutcomeRecord():
            message, arrays = _outcome_parts(record)
        case TraceHeader():
            message, arrays = _header_parts(record)
        case FileRecord():
            message = _File(name=record.name)
            arrays = {"data": np.frombuffer(record.data, dtype=np.uint8)}
        case EndRecord():
            message = _End(
                cycles=record.cycles, ended_utc=record.ended_utc, reason=_text(record.reason)
            )
            arrays = {}
        case SignatureRecord():
            message = _Signature(public_key=record.public_key, signature=record.signature)
            arrays = {}
    if len(arrays) > MAX_ARRAYS:
        raise ValueError(
            f"{len(arrays)} arrays in one record; at most {MAX_ARRAYS} can be recorded"
        )
    return pack(message, arrays)


def decode(payload: bytes | memoryview) -> Record:
    """Return the record of a payload; arrays are read-only.

    A header comes without its files, which are records of their own.

    Raises:
        ValueError: the payload is damaged, or says something impossible.
    """
    message, arrays = unpack(payload, _decoder, max_bytes=len(payload))
    try:
        match message:
            case _Cycle():
                return _cycle(message, arrays)
            case _Outcome():
                return _outcome(message, arrays)
            case _Header():
                return _header(message, arrays)
            case _File():
                return FileRecord(name=message.name, data=arrays["data"].tobytes())
            case _Signature():
                return SignatureRecord(public_key=message.public_key, signature=message.signature)
            case _:
                return EndRecord(
                    cycles=message.cycles, ended_utc=message.ended_utc, reason=message.reason
                )
    except KeyError as error:
        raise FrameError(f"array {error} is missing") from error


def json_text(value: Any) -> str:
    """Return a value as JSON; paths and numpy numbers are taken, NaN becomes null.

    Raises:
        ValueError: it holds something that JSON cannot say.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    except (TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"cannot be recorded as JSON: {error}") from error


def json_value(text: str, kind: Any = Any) -> Any:
    """Return what a JSON document says.

    Args:
        text: the document.
        kind: type that it has to be of, as msgspec takes it.

    Raises:
        ValueError: it is no JSON, nested too deep, or something else.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"a JSON document in it: {error}") from error
    except RecursionError as error:
        raise ValueError("a JSON document in it is nested too deep") from error


def events_of(text: str) -> tuple[Mapping[str, Any], ...]:
    """Return the events that a JSON document lists.

    Raises:
        ValueError: it is no list of objects, each with a `kind`.
    """
    if text == NO_EVENTS:
        return ()
    events = tuple(json_value(text, list[dict[str, Any]]))
    check_events(events)
    return events


def cycle_arrays(record: CycleRecord) -> Arrays:
    """Return a cycle's arrays by name, in the order in which they are stored."""
    arrays: Arrays = {name: getattr(record.reading, name) for name, _, _ in READING_ARRAYS}
    step = record.policy
    if step is not None:
        arrays["observation"] = step.observation
        arrays["previous_applied"] = step.previous_applied
        arrays["action"] = step.action
        arrays.update(_prefixed(MEMORY_IN, step.memory_in))
        arrays.update(_prefixed(MEMORY_OUT, step.memory_out))
    arrays["verdicts"] = record.verdicts
    arrays["proposed_rad"] = record.proposed_rad
    if record.written_rad is not None:
        arrays["written_rad"] = record.written_rad
    arrays.update(_prefixed(MEASURE, record.measures))
    return arrays


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _prefixed(
    prefix: str, arrays: Mapping[str, NDArray[Any]]
) -> Iterable[tuple[str, NDArray[Any]]]:
    return ((prefix + name, arrays[name]) for name in sorted(arrays))


def _stripped(prefix: str, arrays: Arrays) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _events_json(events: Sequence[Mapping[str, Any]]) -> str:
    return json_text(list(events)) if events else NO_EVENTS


def _text(text: str) -> str:
    """Return a text without what UTF-8 or HDF5 strings cannot hold (lone surrogates, NUL)."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _int64(name: str, value: int) -> int:
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError(f"{name} {value} does not fit into 64 bits")
    return value


def _cycle_message(record: CycleRecord) -> _Cycle:
    reading = record.reading
    return _Cycle(
        cycle=_int64("cycle", reading.cycle),
        stamp_ns=_int64("stamp_ns", reading.stamp_ns),
        received_ns=_int64("received_ns", reading.received_ns),
        mode=_text(record.mode),
        policy_ran=record.policy is not None,
        target_cycle=_target(record.target_cycle),
        timings_ns=dict(sorted(record.timings_ns.items())),
        events_json=_events_json(record.events),
    )


def _target(cycle: int | None) -> int | None:
    """Return a cycle that a function was written for, None for none."""
    if cycle is not None and cycle < 0:
        raise ValueError(f"target_cycle {cycle} is below 0")
    return None if cycle is None else _int64("target_cycle", cycle)


def _cycle(message: _Cycle, arrays: Arrays) -> CycleRecord:
    step = None
    if message.policy_ran:
        step = PolicyStep(
            observation=arrays["observation"],
            previous_applied=arrays["previous_applied"],
            memory_in=_stripped(MEMORY_IN, arrays),
            action=arrays["action"],
            memory_out=_stripped(MEMORY_OUT, arrays),
        )
    return CycleRecord(
        reading=Reading(
            cycle=message.cycle,
            stamp_ns=message.stamp_ns,
            received_ns=message.received_ns,
            profile=arrays["profile"],
            setpoint_rad=arrays["setpoint_rad"],
            applied_rad=arrays["applied_rad"],
            readback_rad=arrays["readback_rad"],
            synchronous_phase_rad=arrays["synchronous_phase_rad"],
            quality=arrays["quality"],
        ),
        mode=message.mode,
        policy=step,
        verdicts=arrays["verdicts"],
        proposed_rad=arrays["proposed_rad"],
        written_rad=None if message.target_cycle is None else arrays["written_rad"],
        target_cycle=message.target_cycle,
        measures=_stripped(MEASURE, arrays),
        timings_ns=message.timings_ns,
        events=events_of(message.events_json),
    )


def _outcome_parts(record: OutcomeRecord) -> tuple[_Outcome, Arrays]:
    receipt = record.receipt
    message = _Outcome(
        cycle=_int64("cycle", record.cycle),
        reason=_text(record.reason),
        detail=_text(record.detail),
        receipt_cycle=-1 if receipt is None else _int64("receipt cycle", receipt.cycle),
        committed_ns=-1 if receipt is None else _int64("committed_ns", receipt.committed_ns),
        fence=-1 if receipt is None else _int64("fence", receipt.fence),
        timings_ns=dict(sorted(record.timings_ns.items())),
        events_json=_events_json(record.events),
    )
    return message, {} if receipt is None else {"receipt_applied_rad": receipt.applied_rad}


def _outcome(message: _Outcome, arrays: Arrays) -> OutcomeRecord:
    receipt = None
    if not message.reason:
        receipt = Receipt(
            cycle=message.receipt_cycle,
            applied_rad=arrays["receipt_applied_rad"],
            committed_ns=message.committed_ns,
            fence=message.fence,
        )
    return OutcomeRecord(
        cycle=message.cycle,
        receipt=receipt,
        reason=message.reason,
        detail=message.detail,
        timings_ns=message.timings_ns,
        events=events_of(message.events_json),
    )


def _limits(limits: PhaseLimits) -> _Limits:
    return _Limits(limits.min_rad, limits.max_rad, limits.step_rad, limits.slope_rad_per_ms)


def _phase_limits(limits: _Limits) -> PhaseLimits:
    return PhaseLimits(
        min_rad=limits.min_rad,
        max_rad=limits.max_rad,
        step_rad=limits.step_rad,
        slope_rad_per_ms=limits.slope_rad_per_ms,
    )


def _header_parts(header: TraceHeader) -> tuple[_Header, Arrays]:
    machine = header.machine
    message = _Header(
        run_id=header.run_id,
        started_utc=header.started_utc,
        mode=_text(header.mode),
        machine=_text(machine.name),
        program=_text(machine.program),
        points=machine.points,
        n_slices=machine.n_slices,
        machine_limits=_limits(machine.limits),
        period_s=float(machine.period_s),
        writable=machine.writable,
        backend=machine.backend,
        fidelity=machine.fidelity,
        limits=_limits(header.limits),
        guard_stages=list(header.guard_stages),
        measures=dict(header.measures),
        policy_name=_text(header.policy_name),
        policy_sha256=header.policy_sha256,
        manifest_json=_text(header.manifest_json),
        configuration_json=json_text(header.configuration),
        versions_json=json_text(header.versions),
        fingerprint_json=json_text(header.fingerprint),
    )
    ctime = machine.ctime_ms
    return message, {} if ctime is None else {"ctime_ms": np.asarray(ctime, dtype=np.float64)}


def _header(message: _Header, arrays: Arrays) -> TraceHeader:
    return TraceHeader(
        run_id=message.run_id,
        started_utc=message.started_utc,
        mode=message.mode,
        machine=MachineDescription(
            name=message.machine,
            program=message.program,
            points=message.points,
            n_slices=message.n_slices,
            limits=_phase_limits(message.machine_limits),
            period_s=message.period_s,
            writable=message.writable,
            ctime_ms=arrays.get("ctime_ms"),
            backend=message.backend,
            fidelity=message.fidelity,
        ),
        limits=_phase_limits(message.limits),
        guard_stages=tuple(message.guard_stages),
        measures=message.measures,
        policy_name=message.policy_name,
        policy_sha256=message.policy_sha256,
        manifest_json=message.manifest_json,
        configuration=json_value(message.configuration_json, dict[str, Any]),
        versions=json_value(message.versions_json, dict[str, str]),
        fingerprint=json_value(message.fingerprint_json, dict[str, str]),
    )
