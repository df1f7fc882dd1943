"""Between the messages of the wire and the values of the core."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_backends.zmq import wire
from memrl_backends.zmq.wire import Arrays, check_array
from memrl_ctrl.backend import FloatArray, MachineDescription, Quality, Reading
from memrl_ctrl.errors import UsageError
from memrl_ctrl.frames import MAX_BYTES, FrameError, PackedArrays, pack
from memrl_ctrl.limits import PhaseLimits

READING_ARRAYS: dict[str, str] = {
    "profile": "<f4",
    "setpoint_rad": "<f8",
    "applied_rad": "<f8",
    "readback_rad": "<f8",
    "synchronous_phase_rad": "<f8",
    "quality": "<u2",
}
LARGEST_HEADER = 512
"""No reading's header and padding have more, bytes."""
"""Arrays of a reading and their element types; `profile` is [points, n_slices], the others [points]."""


def limits_digest(limits: wire.Limits, rate: wire.Rate | None = None) -> str:
    """Return SHA-256, hexadecimal, over the limits, and the rate if any, as `<f8` in their order."""
    numbers = msgspec.structs.astuple(limits) + (msgspec.structs.astuple(rate) if rate else ())
    values = np.array(numbers, dtype="<f8")
    return hashlib.sha256(values.tobytes()).hexdigest()


def limits_on_wire(limits: PhaseLimits) -> wire.Limits:
    """Return the limits as they are sent."""
    return wire.Limits(
        min_rad=limits.min_rad,
        max_rad=limits.max_rad,
        step_rad=limits.step_rad,
        slope_rad_per_ms=limits.slope_rad_per_ms,
    )


def description_from(
    welcome: wire.Welcome, arrays: Mapping[str, NDArray[Any]], *, writable: bool
) -> MachineDescription:
    """Make the description out of a welcome.

    Raises:
        FrameError: it contradicts itself.
    """
    if limits_digest(welcome.limits, welcome.rate) != welcome.limits_digest:
        raise FrameError("the digest of the limits does not fit the limits")
    if not (math.isfinite(welcome.period_s) and welcome.period_s >= 0):
        raise FrameError(f"a period of {welcome.period_s} s is none")
    ctime_ms: FloatArray | None = None
    if "ctime_ms" in arrays:
        ctime_ms = check_array(arrays, "ctime_ms", "<f8", (welcome.points,))
    try:
        return MachineDescription(
            name=welcome.machine,
            program=welcome.program,
            points=welcome.points,
            n_slices=welcome.n_slices,
            limits=PhaseLimits(**msgspec.structs.asdict(welcome.limits)),
            period_s=welcome.period_s,
            writable=writable,
            ctime_ms=ctime_ms,
            backend="zmq",
            fidelity=welcome.fidelity,
        )
    except ValueError as error:
        raise FrameError(f"the machine's description: {error}") from error


def encode_reading(reading: Reading, *, stream: int, sequence: int = 0) -> bytes:
    """Encode a reading; its truth stays here."""
    return EncodedReading(reading).message(stream=stream, sequence=sequence)


def check_fits(description: MachineDescription) -> None:
    """Check that a reading is not larger than a message may be.

    Raises:
        UsageError: it is, so that no client could read it.
    """
    points, n_slices = description.points, description.n_slices
    size = LARGEST_HEADER + points * (4 * n_slices + 4 * 8 + 2)
    if size > MAX_BYTES:
        most = ((MAX_BYTES - LARGEST_HEADER) // points - 4 * 8 - 2) // 4
        raise UsageError(
            f"a reading of {points} points x {n_slices} slices has {size} bytes, and a message "
            f"{MAX_BYTES} at most: take {most} slices at most, or fewer points"
        )


class EncodedReading:
    """A reading whose arrays are encoded once, however often it is sent; its truth stays here."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._arrays = PackedArrays({name: getattr(reading, name) for name in READING_ARRAYS})

    def message(self, *, stream: int, sequence: int = 0) -> bytes:
        """Encode it as one of the stream, or as the reply to a request."""
        reading = self.reading
        message = wire.ReadingMessage(
            sequence=sequence, stream=stream, cycle=reading.cycle, stamp_ns=reading.stamp_ns
        )
        return pack(message, self._arrays)


def reading_from(
    message: wire.ReadingMessage,
    arrays: Mapping[str, NDArray[Any]],
    description: MachineDescription,
) -> Reading:
    """Make a reading out of a message, flagging profiles that are not finite.

    Raises:
        FrameError: an array is absent, of another type or shape, or what is applied is not finite.
    """
    points = description.points
    checked: Arrays = {}
    for name, dtype in READING_ARRAYS.items():
        shape = (points, description.n_slices) if name == "profile" else (points,)
        checked[name] = check_array(arrays, name, dtype, shape)
    for name in ("setpoint_rad", "applied_rad"):
        if not np.isfinite(checked[name]).all():
            raise FrameError(f"{name} of cycle {message.cycle} is not finite")
    finite = np.isfinite(checked["profile"])
    if not finite.all():
        bad = ~finite.all(axis=1)
        checked["quality"] = checked["quality"] | np.where(bad, np.uint16(Quality.NOT_FINITE), 0)
        checked["quality"] = checked["quality"].astype(np.uint16)
    return Reading(
        cycle=message.cycle,
        stamp_ns=message.stamp_ns,
        received_ns=time.monotonic_ns(),
        profile=checked["profile"],
        setpoint_rad=checked["setpoint_rad"],
        applied_rad=checked["applied_rad"],
        readback_rad=checked["readback_rad"],
        synchronous_phase_rad=checked["synchronous_phase_rad"],
        quality=checked["quality"],
    )


def point_names(description: MachineDescription) -> list[str]:
    """Return a name for every control point: `C` and its ctime in ms, else `P` and its index."""
    if description.ctime_ms is not None:
        names = [f"C{ctime:g}" for ctime in description.ctime_ms]
        if len(set(names)) == len(names):
            return names
    return [f"P{index}" for index in range(description.points)]
