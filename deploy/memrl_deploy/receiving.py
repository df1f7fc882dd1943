"""What a machine sends, held against what it said of itself, before anything is done with it.

The contract (`memrl_ctrl.backend`) promises one number of points and slices for a whole run, and every
backend may break it: another program is loaded at the machine, a crate is exchanged, a plug-in is wrong.
"""

from __future__ import annotations

import math

import numpy as np

from memrl_ctrl.backend import FloatArray, MachineDescription, Reading, Receipt
from memrl_ctrl.errors import MachineError

LAST_CYCLE = 2**63 - 2
"""Largest number of a cycle: the one after it still has a number of 64 bits."""
OTHER_RAD = 1e-3
"""A receipt whose function is no further from the one that was sent says the same, rad: function generators
have a resolution."""
PLAYED_RAD = math.radians(1.0)
"""A reading whose applied function is no further from the acknowledged one plays that, rad: well above what
rounding makes of a function, and below every step that is worth one. Of a machine that ignores smaller ones
nothing has to be known."""
READING_TYPES: tuple[tuple[str, np.dtype[np.generic]], ...] = (
    ("profile", np.dtype(np.float32)),
    ("setpoint_rad", np.dtype(np.float64)),
    ("applied_rad", np.dtype(np.float64)),
    ("readback_rad", np.dtype(np.float64)),
    ("synchronous_phase_rad", np.dtype(np.float64)),
    ("quality", np.dtype(np.uint16)),
)
"""Arrays of a reading and their element types; `profile` is [points, n_slices], the others [points]."""


class BrokenContract(MachineError):  # noqa: N818 - a sentence, not a suffix
    """The machine sends something else than it said it would: it changed within the run."""


def check_reading(reading: Reading, machine: MachineDescription) -> Reading:
    """Return a reading that is what the machine's description promises.

    Args:
        reading: as it came.
        machine: as it described itself when the run began.

    Raises:
        BrokenContract: it has other points, slices or types, or the number of its cycle or a time cannot be
            one.
    """
    for name, dtype in READING_TYPES:
        shape = (machine.points, machine.n_slices) if name == "profile" else (machine.points,)
        _check_array(
            f"{name} of cycle {reading.cycle}", getattr(reading, name), dtype, shape, machine
        )
    if not (_is_number(reading.cycle) and 0 <= reading.cycle <= LAST_CYCLE):
        raise _broken(machine, f"cycle {reading.cycle!r}; cycles count from 0 to {LAST_CYCLE}")
    for name in ("stamp_ns", "received_ns"):
        value = getattr(reading, name)
        if not (_is_number(value) and 0 <= value < 2**63):
            raise _broken(
                machine, f"{name} {value!r} with cycle {reading.cycle}, which is no time in ns"
            )
    return reading


def check_receipt(
    receipt: Receipt, phi_hw_rad: FloatArray, cycle: int, machine: MachineDescription
) -> str:
    """Hold a receipt against the function that was sent.

    Args:
        receipt: the machine's answer.
        phi_hw_rad: what was sent [points], rad.
        cycle: the cycle that it was sent for.
        machine: as it described itself when the run began.

    Returns:
        In words, what the machine took instead of what was sent; empty where it took that.

    Raises:
        BrokenContract: it is no receipt: another number of points, or values that are not finite.
    """
    applied = receipt.applied_rad
    _check_array("a receipt", applied, np.dtype(np.float64), (machine.points,), machine)
    if not np.isfinite(applied).all():
        raise _broken(
            machine,
            f"a receipt for cycle {cycle} whose function is not finite: whether and what it took shows in "
            "its next reading",
        )
    if not all(map(_is_number, (receipt.cycle, receipt.committed_ns, receipt.fence))):
        raise _broken(machine, f"a receipt for cycle {cycle} with numbers that are none")
    if receipt.cycle != cycle:
        return f"its receipt is for cycle {receipt.cycle}, and the function was sent for {cycle}"
    apart = np.abs(applied - phi_hw_rad)
    if (apart <= OTHER_RAD).all():
        return ""
    point = int(apart.argmax())
    return (
        f"its receipt for cycle {cycle} has {np.degrees(applied[point]):.2f}° at point {point}, "
        f"and {np.degrees(phi_hw_rad[point]):.2f}° was sent"
    )


def check_played(receipt: Receipt, reading: Reading) -> str:
    """Hold what a machine plays against what it acknowledged.

    Args:
        receipt: the last one.
        reading: of the cycle that it is for, or the first behind it: a machine holds what it took.

    Returns:
        In words, what it plays instead; empty where it plays that. What is not finite says nothing.
    """
    apart = np.nan_to_num(np.abs(reading.applied_rad - receipt.applied_rad), nan=0.0)
    other = apart > PLAYED_RAD
    if not other.any():
        return ""
    point = int(apart.argmax())
    return (
        f"cycle {reading.cycle} plays {np.degrees(reading.applied_rad[point]):.2f}° at point {point}, and "
        f"{np.degrees(receipt.applied_rad[point]):.2f}° was acknowledged for cycle {receipt.cycle} "
        f"({int(other.sum())} of {other.size} points differ by more than {np.degrees(PLAYED_RAD):g}°)"
    )


def _check_array(
    what: str,
    array: object,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    machine: MachineDescription,
) -> None:
    if not isinstance(array, np.ndarray):
        raise _broken(machine, f"{what} as {type(array).__name__}, which is no array")
    if array.shape != shape or array.dtype != dtype:
        raise _broken(
            machine,
            f"{what} as {array.dtype} {list(array.shape)}, and had described itself with {dtype} "
            f"{list(shape)}: begin a new run once it is what it says",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _broken(machine: MachineDescription, what: str) -> BrokenContract:
    return BrokenContract(f"the machine {machine.name!r} sends {what}")
