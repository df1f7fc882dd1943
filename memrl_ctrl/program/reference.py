"""A user's own reference phases, in the place of the computed optimum.

A CSV file with the columns `ctime_ms,phi2_deg`: the physical phase phi_2 (not phi_hw) that counts as
right at a ctime. The format is described in `docs/programs.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.controls_files import PICKLES
from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.table import TIME, read_columns

FloatArray = NDArray[np.float64]

COLUMN = "phi2_deg"
_BINARY = (*PICKLES, ".npy", ".npz", ".mat", ".h5", ".hdf5")
_PICKLE_BYTE = b"\x80"
"""What every pickle of protocol 2 or later begins with."""


@dataclass(frozen=True, kw_only=True)
class ReferencePhases:
    """Reference phases over ctime, straight between the rows of the file."""

    phi2_deg: PiecewiseLinear
    """phi_2, degrees, unwrapped: from row to row the shorter way round."""
    path: Path
    """File they were read from."""

    def at_rad(self, ctime_ms: Any) -> FloatArray:
        """Return phi_2 at some ctimes, same shape, rad, in (-pi, pi].

        Raises:
            ProgramError: a ctime before the first row or after the last.
        """
        try:
            phase = np.radians(self.phi2_deg.at(ctime_ms))
        except ValueError as error:
            raise self._uncovered(str(error)) from error
        return wrap(phase)

    def need(self, first_ms: float, last_ms: float) -> None:
        """Refuse a reference that does not cover a stretch of the cycle.

        Raises:
            ProgramError: says what it covers and what is needed.
        """
        if first_ms < self.phi2_deg.start_ms or last_ms > self.phi2_deg.end_ms:
            raise self._uncovered(f"needed is {first_ms:g} to {last_ms:g} ms")

    def _uncovered(self, problem: str) -> ProgramError:
        low, high = self.phi2_deg.start_ms, self.phi2_deg.end_ms
        return ProgramError(
            self.path, f"reference phases cover ctime {low:g} to {high:g} ms; {problem}"
        )


def load_reference(path: str | Path) -> ReferencePhases:
    """Read reference phases from a CSV file with the columns ctime_ms and phi2_deg.

    Raises:
        ProgramError: with the line and what was expected; pickles and other binary files are refused.
    """
    path = Path(path)
    if path.suffix.lower() in _BINARY or _begins_as_pickle(path):
        raise ProgramError(
            path,
            f"pickles and other binary files are not read, they may run code or hide their units; "
            f"expected a CSV file with the columns {TIME},{COLUMN}",
        )
    columns = read_columns(path, (TIME, COLUMN), (TIME, COLUMN), increasing=TIME)
    unwrapped = np.unwrap(columns[COLUMN], period=360.0)
    return ReferencePhases(
        phi2_deg=PiecewiseLinear(ctime_ms=columns[TIME], value=unwrapped), path=path
    )


def _begins_as_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1) == _PICKLE_BYTE
    except (OSError, ValueError):
        return False  # reading it as text says what is wrong
