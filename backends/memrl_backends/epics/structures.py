"""What goes over PV Access: the process variables, their structures, and conversion to and from them.

The names are a prefix (`MEMRL:`) and one of the constants below. docs/epics.md describes them for clients
that are not this one.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from p4p import Type, Value
from p4p.nt.common import alarm, timeStamp

from memrl_ctrl.backend import FloatArray, MachineDescription, Reading
from memrl_ctrl.errors import ConnectionFailed, RefusalReason, Refused
from memrl_ctrl.limits import PhaseLimits

DESCRIPTION, READING, FUNCTION, READBACK, REQUEST = (
    "DESCRIPTION", "READING", "FUNCTION", "READBACK", "REQUEST",
)  # fmt: skip
ACQUIRE, SUBMIT, HOLD, RELEASE = "acquire", "submit", "hold", "release"
MOST_POINTS = 10_000
MOST_SLICES = 1_000_000

_LIMITS = ("min_rad", "max_rad", "step_rad", "slope_rad_per_ms")
_DESCRIPTION = Type(
    [
        ("name", "s"),
        ("program", "s"),
        ("points", "I"),
        ("n_slices", "I"),
        ("ctime_ms", "ad"),
        ("limits", ("S", None, [(name, "d") for name in _LIMITS])),
        ("period_s", "d"),
        ("lease_s", "d"),
        ("writable", "?"),
        ("backend", "s"),
        ("fidelity", "s"),
    ],
    id="memrl:description:1.0",
)
_PHASES = ("setpoint_rad", "applied_rad", "readback_rad", "synchronous_phase_rad")
_READING = Type(
    [
        ("cycle", "l"),
        ("stamp_ns", "l"),
        ("profile", "af"),
        *((name, "ad") for name in _PHASES),
        ("quality", "aH"),
        ("alarm", alarm),
        ("timeStamp", timeStamp),
    ],
    id="memrl:reading:1.0",
)
_REQUEST = Type(
    [
        ("do", "s"),
        ("session", "s"),
        ("name", "s"),
        ("cycle", "l"),
        ("deadline_s", "d"),
        ("phi_hw_rad", "ad"),
    ],
    id="memrl:request:1.0",
)
_REPLY = Type(
    [
        ("refused", "s"),
        ("detail", "s"),
        ("cycle", "l"),
        ("fence", "l"),
        ("applied_rad", "ad"),
    ],
    id="memrl:reply:1.0",
)


def pack_description(described: MachineDescription, *, writable: bool, lease_s: float) -> Value:
    """Return the value of DESCRIPTION; unrelated rows have no ctime."""
    ctime_ms = described.ctime_ms
    return Value(
        _DESCRIPTION,
        {
            "name": described.name,
            "program": described.program,
            "points": described.points,
            "n_slices": described.n_slices,
            "ctime_ms": np.empty(0) if ctime_ms is None else ctime_ms,
            "limits": {name: getattr(described.limits, name) for name in _LIMITS},
            "period_s": described.period_s,
            "lease_s": lease_s,
            "writable": writable,
            "backend": described.backend,
            "fidelity": described.fidelity,
        },
    )


def unpack_description(value: Value, *, read_only: bool) -> MachineDescription:
    """Return what a machine says of itself.

    Raises:
        ConnectionFailed: it is no machine of this kind, or contradicts itself.
    """
    said = _fields(value, "memrl:description:1.")
    if said["points"] > MOST_POINTS or said["n_slices"] > MOST_SLICES:
        raise ConnectionFailed(
            f"the machine says that it has {said['points']} points x {said['n_slices']} slices; "
            f"at most {MOST_POINTS} x {MOST_SLICES} are read"
        )
    try:
        return MachineDescription(
            name=said["name"],
            program=said["program"],
            points=said["points"],
            n_slices=said["n_slices"],
            limits=PhaseLimits(**{name: said["limits"][name] for name in _LIMITS}),
            period_s=said["period_s"],
            writable=said["writable"] and not read_only,
            ctime_ms=np.array(said["ctime_ms"]) if len(said["ctime_ms"]) else None,
            backend="epics",
            fidelity=said["fidelity"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConnectionFailed(f"the machine describes itself wrongly: {error}") from error


def pack_reading(reading: Reading) -> Value:
    """Return the value of READING: a whole cycle in one structure, so that it is never half new."""
    seconds, nanoseconds = divmod(reading.stamp_ns, 1_000_000_000)
    bad = int(np.count_nonzero(~reading.usable))
    return Value(
        _READING,
        {
            "cycle": reading.cycle,
            "stamp_ns": reading.stamp_ns,
            "profile": np.ascontiguousarray(reading.profile).reshape(-1),
            **{name: getattr(reading, name) for name in _PHASES},
            "quality": reading.quality,
            "alarm": {
                "severity": 2 if bad else 0,
                "status": 1 if bad else 0,
                "message": f"{bad} profiles not usable" if bad else "",
            },
            "timeStamp": {"secondsPastEpoch": seconds, "nanoseconds": nanoseconds},
        },
    )


def unpack_reading(value: Value, described: MachineDescription) -> Reading:
    """Return a reading as received now.

    Raises:
        ConnectionFailed: shapes or types that are not those of the description, or phases that are
            not finite.
    """
    said = _fields(value, "memrl:reading:1.")
    points, n_slices = described.points, described.n_slices
    arrays: dict[str, Any] = {}
    for name, dtype, size in (
        ("profile", np.float32, points * n_slices),
        *((name, np.float64, points) for name in _PHASES),
        ("quality", np.uint16, points),
    ):
        array = np.array(said.get(name, ()), dtype=None)
        if array.dtype != dtype or array.shape != (size,):
            raise ConnectionFailed(
                f"cycle {said.get('cycle')}: {name} has {array.size} values of {array.dtype}; expected "
                f"are {size} of {np.dtype(dtype)}"
            )
        if name in _PHASES and not np.isfinite(array).all():
            raise ConnectionFailed(f"cycle {said.get('cycle')}: {name} is not finite")
        arrays[name] = array
    arrays["profile"] = arrays["profile"].reshape(points, n_slices)
    return Reading(
        cycle=int(said["cycle"]),
        stamp_ns=int(said["stamp_ns"]),
        received_ns=time.monotonic_ns(),
        **arrays,
    )


def pack_request(
    do: str,
    *,
    session: str,
    name: str = "",
    cycle: int = 0,
    deadline_s: float = 0.0,
    phi_hw_rad: FloatArray | None = None,
) -> Value:
    """Return a request to REQUEST."""
    return Value(
        _REQUEST,
        {
            "do": do,
            "session": session,
            "name": name,
            "cycle": max(cycle, -1),
            "deadline_s": deadline_s,
            "phi_hw_rad": np.empty(0) if phi_hw_rad is None else phi_hw_rad,
        },
    )


def unpack_request(value: Value) -> dict[str, Any]:
    """Return a request's fields; what it leaves out is empty or 0.

    Raises:
        Refused: a field of the wrong kind, or too long.
    """
    try:
        said = value.todict()
        request: dict[str, Any] = {
            "do": str(said.get("do", "")),
            "session": str(said.get("session", "")),
            "name": str(said.get("name", "")),
            "cycle": int(said.get("cycle", 0)),
            "deadline_s": float(said.get("deadline_s", 0.0)),
            "phi_hw_rad": np.array(said.get("phi_hw_rad", ()), dtype=np.float64),
        }
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise Refused(RefusalReason.INVALID, f"a request of another kind: {error}") from error
    if max(len(request["session"]), len(request["name"])) > 200:
        raise Refused(RefusalReason.INVALID, "session and name have at most 200 characters")
    if request["phi_hw_rad"].ndim != 1 or request["phi_hw_rad"].size > MOST_POINTS:
        raise Refused(RefusalReason.INVALID, f"phi_hw_rad has at most {MOST_POINTS} values")
    return request


def pack_reply(*, cycle: int, fence: int, applied_rad: FloatArray | None = None) -> Value:
    """Return the reply to a request that was done."""
    applied = np.empty(0) if applied_rad is None else applied_rad
    return Value(_REPLY, {"cycle": cycle, "fence": fence, "applied_rad": applied})


def pack_refusal(refused: Refused) -> Value:
    """Return the reply to a request that was refused."""
    return Value(_REPLY, {"refused": refused.reason.value, "detail": refused.detail})


def unpack_reply(value: Value) -> dict[str, Any]:
    """Return a reply's fields.

    Raises:
        Refused: what the machine says of a request that it did not do.
        ConnectionFailed: a reply of another kind.
    """
    said = _fields(value, "memrl:reply:1.")
    if said["refused"]:
        known = {reason.value for reason in RefusalReason}
        reason = said["refused"] if said["refused"] in known else RefusalReason.INVALID
        raise Refused(RefusalReason(reason), said["detail"])
    return said


def _fields(value: Value, kind: str) -> dict[str, Any]:
    """Return a structure's fields by name, if it is of that kind (in any minor version)."""
    if not value.getID().startswith(kind):
        raise ConnectionFailed(f"expected a structure {kind}x, not {value.getID()!r}")
    fields: dict[str, Any] = value.todict()
    return fields
