"""From conditions to the compiled solver's arrays, and the solver over many threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from memrl_ctrl.beam import _batch, _fourier, _solver
from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array
from memrl_ctrl.errors import UsageError

TOLERANCE = 1.0e-5
"""Residual of the wake potential at which a fixed point counts as found, per depth of the well."""

tables = lru_cache(maxsize=16)(_fourier.tables)


def grid_tables(harmonics: int) -> Array:
    """Trigonometric tables of the solver's grid."""
    return tables(_solver.GRID, harmonics)


@dataclass(frozen=True)
class Prepared:
    """What the compiled solver takes, for conditions [n]."""

    parameters: Array
    """[n, N_PARAMETERS], mirrored to tilt >= 0."""
    wake: Array
    """[n, 2, harmonics]; [n, 2, 0] where no wake acts."""
    mirrored: npt.NDArray[np.bool_]
    """[n], whether phase was mirrored (phi -> 2 pi - phi), as for Bdot < 0."""
    harmonics: int
    """Harmonics of the potential that the solver carries."""

    @property
    def count(self) -> int:
        """Number of conditions n."""
        return int(self.parameters.shape[0])


def prepare(conditions: Conditions, *, intensity_effects: bool) -> Prepared:
    """The solver's arrays for some conditions."""
    count = len(conditions)
    tilt = conditions.energy_gain_ev
    mirrored = tilt < 0.0
    parameters = np.zeros((count, _solver.N_PARAMETERS))
    parameters[:, _solver.P_C1] = conditions.v1_v
    parameters[:, _solver.P_C2] = 0.5 * conditions.v2_v * np.cos(conditions.phi2_rad)
    sine = 0.5 * conditions.v2_v * np.sin(conditions.phi2_rad)
    parameters[:, _solver.P_S2] = np.where(mirrored, sine, -sine)
    parameters[:, _solver.P_TILT] = np.abs(tilt)
    parameters[:, _solver.P_TARGET] = conditions.emittance_evs / conditions.area_per_root_evs
    wake = np.empty((count, 2, 0))
    harmonics = 2
    if intensity_effects:
        parameters[:, _solver.P_KAPPA] = conditions.space_charge_vrad2
        coefficients = conditions.wake_per_density_vrad()
        if np.any(coefficients):
            harmonics = conditions.machine.wake_harmonics
            wake = np.stack([coefficients.real, coefficients.imag], axis=1)
            wake[mirrored, 1] *= -1.0
    return Prepared(parameters, np.ascontiguousarray(wake), mirrored, harmonics)


def in_threads(work: Callable[[slice], Any], count: int, threads: int) -> None:
    """Call `work` on slices of range(count), in so many threads (compiled code frees the GIL)."""
    if threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1")
    if threads == 1 or count < 2 * threads:
        work(slice(0, count))
        return
    # More pieces than threads, so that a piece of hard conditions does not hold up the rest.
    edges = np.linspace(0, count, min(count, 4 * threads) + 1).astype(int)
    pieces = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        list(pool.map(work, pieces))


@dataclass(frozen=True)
class Solved:
    """What the compiled solver gives, for conditions [n]."""

    results: Array
    """[n, N_RESULTS]."""
    coefficients: Array
    """[n, 2 harmonics], cosine and sine coefficients of the wake potential, V rad, mirrored."""
    profiles: npt.NDArray[np.float32]
    """[n, n_slices], 1/rad, not mirrored."""


def solve(prepared: Prepared, n_slices: int, *, threads: int = 1) -> Solved:
    """Solve prepared conditions; `n_slices` of 0 leaves the profiles out."""
    count, harmonics = prepared.count, prepared.harmonics
    results = np.empty((count, _solver.N_RESULTS))
    coefficients = np.zeros((count, 2 * harmonics))
    profiles = np.empty((count, n_slices), dtype=np.float32)
    table = grid_tables(harmonics)
    slices = tables(max(n_slices, 4), harmonics)

    def work(rows: slice) -> None:
        _batch.solve_batch(
            prepared.parameters[rows],
            prepared.wake[rows],
            prepared.mirrored[rows],
            coefficients[rows],
            table,
            slices,
            _solver.workspace(harmonics),
            TOLERANCE,
            _solver.MAX_ITERATIONS,
            results[rows],
            profiles[rows],
        )

    in_threads(work, count, threads)
    return Solved(results, coefficients, profiles)
