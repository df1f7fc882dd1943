"""Angles on the circle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def wrap(angle_rad: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return angles in (-pi, pi], rad, of the same shape."""
    turn = 2.0 * np.pi
    return np.asarray(np.pi - np.mod(np.pi - np.asarray(angle_rad), turn), dtype=np.float64)
