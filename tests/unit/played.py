"""Readings of a machine that plays what operators set, a cycle every 1.2 s."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading


def played(sample: Reading, cycle: int, applied_rad: NDArray[np.float64]) -> Reading:
    """Return a sample as the reading of a cycle in which this was set, applied and read back."""
    return replace(
        sample,
        cycle=cycle,
        stamp_ns=1_700_000_000_000_000_000 + cycle * 1_200_000_000,
        setpoint_rad=applied_rad,
        applied_rad=applied_rad,
        readback_rad=applied_rad,
        quality=np.zeros(applied_rad.size, dtype=np.uint16),
        profile=np.abs(sample.profile),
    )
