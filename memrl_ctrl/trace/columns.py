"""What the HDF5 file's columns are called, in which unit they are, and what they mean.

A column has one row a cycle. Its name is its path in the file. Columns with a name of the run's
own (memory, measures, timings) carry that name percent-encoded as the last part of the path.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from memrl_ctrl.trace.codec import MEASURE, MEMORY_IN, MEMORY_OUT, cycle_arrays, json_text
from memrl_ctrl.trace.records import CycleRecord, OutcomeRecord

CYCLES = "cycles/"
OUTCOMES = "outcomes/"
TIMINGS = "timings_ns/"
MEMORY_FROM = CYCLES + "memory_from/"
PROFILE = CYCLES + "profile"
PROFILE_STEP, PROFILE_FIRST = CYCLES + "profile_step", CYCLES + "profile_first"
LEVELS = "levels/profile"
"""Path of what the steps of `profile_step` are steps between."""
MAX_LEVELS = 1 << 12
"""Most levels in one table of a digitiser's levels; 30 profiles from one of 10 bits have some hundred."""
NO_OUTCOME, TAKEN_NOT, TAKEN = -1, 0, 1
"""Values of `outcomes/state`."""


class Column(NamedTuple):
    """Unit, dimensions and meaning, as they stand in a column's attributes."""

    units: str
    dimensions: str
    description: str


COLUMNS = {
    "cycles/cycle": Column("1", "cycle", "number of the cycle that was read"),
    "cycles/stamp_ns": Column("ns", "cycle", "when it was played, since 1970-01-01 UTC"),
    "cycles/received_ns": Column("ns", "cycle", "when the reading came, monotonic clock"),
    "cycles/mode": Column("", "cycle", "mode in which the cycle was decided"),
    "cycles/policy_ran": Column("1", "cycle", "1 where the policy was asked, else 0"),
    "cycles/target_cycle": Column(
        "1", "cycle", "first cycle that is to play written_rad; -1 where nothing is written"
    ),
    "cycles/events_json": Column("", "cycle", "what happened, a JSON list of objects"),
    "cycles/profile": Column(
        "arbitrary",
        "cycle, point, slice",
        "line density against RF phase, earlier phase first; NaN where profile_first is not -1",
    ),
    "cycles/profile_step": Column(
        "1",
        "cycle, point, slice",
        "place of the slice's value in /levels/profile less that of the slice before; 0 in the first",
    ),
    "cycles/profile_first": Column(
        "1",
        "cycle, point",
        "place of the first slice's value in /levels/profile; -1: the profile stands in profile",
    ),
    "cycles/setpoint_rad": Column("rad", "cycle, point", "phi_hw that was asked for"),
    "cycles/applied_rad": Column("rad", "cycle, point", "phi_hw that the limits let through"),
    "cycles/readback_rad": Column("rad", "cycle, point", "phi_hw that the hardware reports"),
    "cycles/synchronous_phase_rad": Column(
        "rad", "cycle, point", "asin(energy gain a turn / V1), as the control system knows it"
    ),
    "cycles/quality": Column("1", "cycle, point", "flags of what is wrong with a profile; 0: good"),
    "cycles/observation": Column("1", "cycle, point, element", "first input of the policy"),
    "cycles/previous_applied": Column(
        "rad", "cycle, point, 1", "change applied after the last call, second input of the policy"
    ),
    "cycles/action": Column("rad", "cycle, point, 1", "first output of the policy"),
    "cycles/verdicts": Column(
        "1",
        "cycle, point, stage",
        "guard stages: 0 passed, 1 altered, 2 held, 3 refused, 255 not run",
    ),
    "cycles/proposed_rad": Column("rad", "cycle, point", "phi_hw wanted before the guard"),
    "cycles/written_rad": Column("rad", "cycle, point", "phi_hw that goes to the machine"),
    "outcomes/state": Column("1", "cycle", "1 taken, 0 not taken, -1 not known or not written"),
    "outcomes/reason": Column("", "cycle", "why it was not taken"),
    "outcomes/detail": Column("", "cycle", "the refusal in words"),
    "outcomes/receipt_cycle": Column("1", "cycle", "cycle from which the function plays; -1: none"),
    "outcomes/receipt_applied_rad": Column("rad", "cycle, point", "phi_hw that will be played"),
    "outcomes/committed_ns": Column("ns", "cycle", "when it was committed, monotonic clock"),
    "outcomes/fence": Column("1", "cycle", "fencing number of the lease; 0: no lease, -1: none"),
    "outcomes/events_json": Column("", "cycle", "what happened since, a JSON list of objects"),
}
GROUPS = {
    CYCLES + MEMORY_IN: Column("1", "cycle, point, ...", "memory that went into the policy"),
    CYCLES + MEMORY_OUT: Column("1", "cycle, point, ...", "memory that came out of the policy"),
    MEMORY_FROM: Column(
        "1",
        "cycle",
        "which memory_out of the row before it is, by name from 0; -1: it stands in memory_in",
    ),
    CYCLES + MEASURE: Column("1", "cycle, point", "a further number of the run"),
    CYCLES + TIMINGS: Column("ns", "cycle", "duration of a section; -1 where it did not run"),
    OUTCOMES + TIMINGS: Column("ns", "cycle", "duration of a section; -1 where it did not run"),
}
"""Columns of the run's own, by the group that they are in."""


def described(path: str) -> Column:
    """Return what a column is, by its path."""
    if path in COLUMNS:
        return COLUMNS[path]
    return GROUPS[path[: path.rindex("/") + 1]]


def quoted(name: str) -> str:
    """Return a name of the run's own as a part of a path."""
    return quote(name, safe=" ").replace(".", "%2E")


def unquoted(part: str) -> str:
    """Return the name behind a part of a path."""
    return unquote(part)


def cycle_row(record: CycleRecord) -> dict[str, Any]:
    """Return a cycle's values by column: arrays, numpy integers and strings."""
    reading = record.reading
    row: dict[str, Any] = {
        "cycles/cycle": np.int64(reading.cycle),
        "cycles/stamp_ns": np.int64(reading.stamp_ns),
        "cycles/received_ns": np.int64(reading.received_ns),
        "cycles/mode": record.mode,
        "cycles/policy_ran": np.uint8(record.policy is not None),
        "cycles/target_cycle": np.int64(-1 if record.target_cycle is None else record.target_cycle),
        "cycles/events_json": json_text(list(record.events)),
        "outcomes/state": np.int8(NO_OUTCOME),
    }
    for name, array in cycle_arrays(record).items():
        row[CYCLES + _path(name)] = array
    for name, value in record.timings_ns.items():
        row[CYCLES + TIMINGS + quoted(name)] = np.int64(value)
    return row


def outcome_row(record: OutcomeRecord) -> dict[str, Any]:
    """Return an outcome's values by column."""
    receipt = record.receipt
    row: dict[str, Any] = {
        "outcomes/state": np.int8(TAKEN_NOT if receipt is None else TAKEN),
        "outcomes/reason": record.reason,
        "outcomes/detail": record.detail,
        "outcomes/events_json": json_text(list(record.events)),
    }
    if receipt is not None:
        row["outcomes/receipt_cycle"] = np.int64(receipt.cycle)
        row["outcomes/receipt_applied_rad"] = receipt.applied_rad
        row["outcomes/committed_ns"] = np.int64(receipt.committed_ns)
        row["outcomes/fence"] = np.int64(receipt.fence)
    for name, value in record.timings_ns.items():
        row[OUTCOMES + TIMINGS + quoted(name)] = np.int64(value)
    return row


def _path(name: str) -> str:
    """Return an array's name as a path, the run's own names encoded."""
    for prefix in (MEMORY_IN, MEMORY_OUT, MEASURE):
        if name.startswith(prefix):
            return prefix + quoted(name.removeprefix(prefix))
    return name
