"""From the values of the HDF5 file back to records, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from memrl_ctrl.backend import MachineDescription, Reading, Receipt
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace.codec import MEASURE, MEMORY_IN, MEMORY_OUT, json_value
from memrl_ctrl.trace.columns import CYCLES, OUTCOMES, TAKEN, TIMINGS, quoted, unquoted
from memrl_ctrl.trace.datasets import found, whole
from memrl_ctrl.trace.records import (
    READING_ARRAYS,
    SIGNATURE_BYTES,
    CycleRecord,
    EndRecord,
    OutcomeRecord,
    PolicyStep,
    SignatureRecord,
    TraceHeader,
)
from memrl_ctrl.trace.report import Damage, TraceReport


def header_of(file: Any) -> TraceHeader:
    """Return the header from an open HDF5 file, the trace's files included."""
    attributes = file.attrs
    group = file["header"]
    ctime = whole(group, "ctime_ms", "<f8") if "ctime_ms" in group else None
    measures = group["measures"].attrs
    return TraceHeader(
        run_id=str(attributes["run_id"]),
        started_utc=str(attributes["started_utc"]),
        mode=str(attributes["mode"]),
        machine=MachineDescription(
            name=str(attributes["machine"]),
            program=str(attributes["program"]),
            points=int(attributes["points"]),
            n_slices=int(attributes["n_slices"]),
            limits=_limits(group["machine_limits"]),
            period_s=float(attributes["period_s"]),
            writable=bool(attributes["writable"]),
            ctime_ms=ctime,
            backend=str(attributes["backend"]),
            fidelity=str(attributes["fidelity"]),
        ),
        limits=_limits(group["limits"]),
        guard_stages=tuple(str(name) for name in found(group, "guard_stages").asstr()[:]),
        measures={name: str(measures[name]) for name in json_value(group.attrs["measures_json"])},
        policy_name=str(attributes["policy_name"]),
        policy_sha256=str(attributes["policy_sha256"]),
        manifest_json=_text(group, "manifest_json"),
        configuration=json_value(_text(group, "configuration_json")),
        versions=json_value(_text(group, "versions_json")),
        fingerprint=json_value(_text(group, "fingerprint_json")),
        files={
            name: whole(file, f"files/{index}", "u1").tobytes()
            for index, name in enumerate(json_value(file["files"].attrs["order_json"]))
        },
    )


def report_of(file: Any, path: Path) -> TraceReport:
    """Return what the journal's state was when the file was made from it."""
    attributes = file.attrs
    cycles = whole(file, "cycles/cycle", "<i8") if "cycles/cycle" in file else np.empty(0)
    damage = msgspec.json.decode(_text(file["journal"], "damage_json"), type=tuple[Damage, ...])
    end = None
    if attributes["ended"]:
        end = EndRecord(
            cycles=int(attributes["end_cycles"]),
            ended_utc=str(attributes["ended_utc"]),
            reason=str(attributes["end_reason"]),
        )
    count, told = int(cycles.shape[0]), int(attributes["cycles"])
    if count != told:
        text = f"it says that it holds {told} cycles, and holds {count}"
        damage = (*damage, Damage.of_file(text))
    return TraceReport(
        path=path,
        cycles=count,
        first_cycle=int(cycles[0]) if cycles.shape[0] else None,
        last_cycle=int(cycles[-1]) if cycles.shape[0] else None,
        end=end,
        live=False,
        size_bytes=int(attributes["journal_bytes"]),
        damage=damage,
    )


def signatures_of(file: Any) -> list[SignatureRecord]:
    """Return the signature records; a file of schema version 1 has none."""
    if "journal/signatures" not in file:
        return []
    rows = whole(file, "journal/signatures", "u1", SIGNATURE_BYTES)
    return [
        SignatureRecord(public_key=row[:32].tobytes(), signature=row[32:].tobytes()) for row in rows
    ]


def _limits(group: Any) -> PhaseLimits:
    names = ("min_rad", "max_rad", "step_rad", "slope_rad_per_ms")
    return PhaseLimits(**{name: float(group.attrs[name]) for name in names})


def _text(group: Any, name: str) -> str:
    return str(found(group, name).asstr()[()])


def _group(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the values of the columns below a prefix, by the run's own names."""
    return {
        unquoted(name.removeprefix(prefix)): value
        for name, value in row.items()
        if name.startswith(prefix)
    }


def _timings(row: dict[str, Any], prefix: str) -> dict[str, int]:
    found = _group(row, prefix + TIMINGS)
    return {name: int(value) for name, value in sorted(found.items()) if value >= 0}


def cycle_of(row: dict[str, Any], header: TraceHeader) -> CycleRecord:
    """Return a cycle from its values by column."""
    policy = None
    if row["cycles/policy_ran"]:
        policy = PolicyStep(
            observation=row["cycles/observation"],
            previous_applied=row["cycles/previous_applied"],
            memory_in=_group(row, CYCLES + MEMORY_IN),
            action=row["cycles/action"],
            memory_out=_group(row, CYCLES + MEMORY_OUT),
        )
    target = int(row["cycles/target_cycle"])
    return CycleRecord(
        reading=_reading_of(row),
        mode=row["cycles/mode"],
        policy=policy,
        verdicts=row["cycles/verdicts"],
        proposed_rad=row["cycles/proposed_rad"],
        written_rad=None if target < 0 else row["cycles/written_rad"],
        target_cycle=None if target < 0 else target,
        measures={name: row[CYCLES + MEASURE + quoted(name)] for name in header.measures},
        timings_ns=_timings(row, CYCLES),
        events=tuple(json_value(row["cycles/events_json"])),
    )


def _reading_of(row: dict[str, Any]) -> Reading:
    arrays: dict[str, Any] = {name: row[CYCLES + name] for name, _, _ in READING_ARRAYS}
    return Reading(
        cycle=int(row["cycles/cycle"]),
        stamp_ns=int(row["cycles/stamp_ns"]),
        received_ns=int(row["cycles/received_ns"]),
        **arrays,
    )


def outcome_of(row: dict[str, Any]) -> OutcomeRecord | None:
    """Return an outcome from its values by column; None where there is none."""
    state = int(row["outcomes/state"])
    if state < 0:
        return None
    receipt = None
    if state == TAKEN:
        receipt = Receipt(
            cycle=int(row["outcomes/receipt_cycle"]),
            applied_rad=row["outcomes/receipt_applied_rad"],
            committed_ns=int(row["outcomes/committed_ns"]),
            fence=int(row["outcomes/fence"]),
        )
    return OutcomeRecord(
        cycle=int(row["cycles/cycle"]),
        receipt=receipt,
        reason=row["outcomes/reason"],
        detail=row["outcomes/detail"],
        timings_ns=_timings(row, OUTCOMES),
        events=tuple(json_value(row["outcomes/events_json"])),
    )
