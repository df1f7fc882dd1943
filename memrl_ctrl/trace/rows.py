"""From the values of the HDF5 file back to records, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import MachineDescription, Reading, Receipt
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace import datasets
from memrl_ctrl.trace.codec import MEASURE, MEMORY_IN, MEMORY_OUT, events_of, json_value
from memrl_ctrl.trace.columns import CYCLES, OUTCOMES, TAKEN, TIMINGS, quoted, unquoted
from memrl_ctrl.trace.datasets import attribute, whole
from memrl_ctrl.trace.hdf5 import EMPTY
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
from memrl_ctrl.trace.shapes import Empty, empty_of


class Row(dict[str, Any]):
    """Values of one cycle by column."""

    def __missing__(self, path: str) -> Any:
        """Refuse what the file does not have.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{path} is missing")


def header_of(file: Any) -> TraceHeader:
    """Return the header from an open HDF5 file, the trace's files included.

    Raises:
        ValueError: a part of it is missing, or is not what it should be.
    """
    group, files = datasets.group(file, "header"), datasets.group(file, "files")
    measures = datasets.group(group, "measures")
    return TraceHeader(
        run_id=attribute(file, "run_id", str),
        started_utc=attribute(file, "started_utc", str),
        mode=attribute(file, "mode", str),
        machine=_machine_of(file, group),
        limits=_limits(datasets.group(group, "limits")),
        guard_stages=tuple(whole(group, "guard_stages", "O").tolist()),
        measures={
            name: attribute(measures, name, str)
            for name in _said(attribute(group, "measures_json", str), "measures_json", list[str])
        },
        policy_name=attribute(file, "policy_name", str),
        policy_sha256=attribute(file, "policy_sha256", str),
        manifest_json=datasets.text(group, "manifest_json"),
        configuration=_document(group, "configuration_json", dict[str, Any]),
        versions=_document(group, "versions_json", dict[str, str]),
        fingerprint=_document(group, "fingerprint_json", dict[str, str]),
        files={
            name: whole(files, str(index), "u1").tobytes()
            for index, name in enumerate(
                _said(attribute(files, "order_json", str), "order_json", list[str])
            )
        },
    )


def _machine_of(file: Any, group: Any) -> MachineDescription:
    ctime = whole(group, "ctime_ms", "<f8") if datasets.has(group, "ctime_ms") else None
    return MachineDescription(
        name=attribute(file, "machine", str),
        program=attribute(file, "program", str),
        points=attribute(file, "points", int),
        n_slices=attribute(file, "n_slices", int),
        limits=_limits(datasets.group(group, "machine_limits")),
        period_s=attribute(file, "period_s", float),
        writable=bool(attribute(file, "writable", int)),
        ctime_ms=ctime,
        backend=attribute(file, "backend", str),
        fidelity=attribute(file, "fidelity", str),
    )


def cycles_of(file: Any) -> NDArray[np.int64]:
    """Return the numbers of the cycles.

    Raises:
        ValueError: they are not what they should be.
    """
    if not datasets.has(file, "cycles/cycle"):
        return np.empty(0, dtype=np.int64)
    return whole(file, "cycles/cycle", "<i8")


def report_of(file: Any, path: Path) -> TraceReport:
    """Return what the journal's state was when the file was made from it.

    Raises:
        ValueError: a part of it is missing, or is not what it should be.
    """
    cycles = cycles_of(file)
    damage = _document(datasets.group(file, "journal"), "damage_json", tuple[Damage, ...])
    end = None
    if attribute(file, "ended", int):
        end = EndRecord(
            cycles=attribute(file, "end_cycles", int),
            ended_utc=attribute(file, "ended_utc", str),
            reason=attribute(file, "end_reason", str),
        )
    count, told = int(cycles.shape[0]), attribute(file, "cycles", int)
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
        size_bytes=attribute(file, "journal_bytes", int),
        damage=damage,
    )


def empty_columns_of(file: Any, header: TraceHeader) -> Empty:
    """Return element type and shape of the columns without any element.

    Raises:
        ValueError: they are not what they should be.
    """
    text = attribute(datasets.group(file, "cycles"), EMPTY, str)
    return empty_of(_said(text, EMPTY, dict[str, tuple[str, list[int]]]), header)


def signatures_of(file: Any) -> list[SignatureRecord]:
    """Return the signature records; a file of schema version 1 has none."""
    if not datasets.has(file, "journal/signatures"):
        return []
    rows = whole(file, "journal/signatures", "u1", SIGNATURE_BYTES)
    return [
        SignatureRecord(public_key=row[:32].tobytes(), signature=row[32:].tobytes()) for row in rows
    ]


def _limits(group: Any) -> PhaseLimits:
    names = ("min_rad", "max_rad", "step_rad", "slope_rad_per_ms")
    return PhaseLimits(**{name: attribute(group, name, float) for name in names})


def _document(group: Any, name: str, kind: Any) -> Any:
    """Return what a JSON document in a dataset says."""
    return _said(datasets.text(group, name), name, kind)


def _said(text: str, name: str, kind: Any) -> Any:
    """Return what a JSON document says.

    Raises:
        ValueError: it is none, or of another kind; says which.
    """
    try:
        return json_value(text, kind)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _group(row: Row, prefix: str) -> dict[str, Any]:
    """Return the values of the columns below a prefix, by the run's own names."""
    return {
        unquoted(name.removeprefix(prefix)): value
        for name, value in row.items()
        if name.startswith(prefix)
    }


def _timings(row: Row, prefix: str) -> dict[str, int]:
    there = _group(row, prefix + TIMINGS)
    return {name: int(value) for name, value in sorted(there.items()) if value >= 0}


def cycle_of(row: Row, header: TraceHeader) -> CycleRecord:
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
        events=events_of(row["cycles/events_json"]),
    )


def _reading_of(row: Row) -> Reading:
    arrays: dict[str, Any] = {name: row[CYCLES + name] for name, _, _ in READING_ARRAYS}
    return Reading(
        cycle=int(row["cycles/cycle"]),
        stamp_ns=int(row["cycles/stamp_ns"]),
        received_ns=int(row["cycles/received_ns"]),
        **arrays,
    )


def outcome_of(row: Row) -> OutcomeRecord | None:
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
        events=events_of(row["outcomes/events_json"]),
    )
