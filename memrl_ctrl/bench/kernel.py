"""Speed of the beam model's kernel, next to BLonD's matching in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from memrl_ctrl import registry
from memrl_ctrl.beam import (
    Conditions,
    Machine,
    Resonator,
    bucket_area_evs,
    matched_profiles,
    reference_optimum,
)
from memrl_ctrl.beam.measurement import IDEAL, WCM, Monitor
from memrl_ctrl.bench.report import publish
from memrl_ctrl.errors import MemrlError

BATCH = 512
SLICES = 1000
FEW_SLICES = 128
REPETITIONS = 21
RIVALS = "memrl_ctrl.benchmark_rivals"
RIVAL = "blond-matching"
RIVAL_CONDITIONS = 3

MACHINE = Machine(
    space_charge_g=2.0,
    impedance=(Resonator(r_shunt_ohm=15.0, frequency_hz=3.0e6, q=0.6, count=36),),
)
"""PSB geometry with space charge and a broad resonator of the size of the Finemet cavities'."""


def mixed_conditions(count: int, seed: int = 1) -> Conditions:
    """Conditions over the PSB's range, [count].

    B 0.25 to 1.1 T, Bdot 0 to 3.5 T/s, V1 7 to 11 kV, V2/V1 0.14 to 0.8, phi2 over the whole
    circle, 0.2 to 0.9 of the bare bucket filled, 0 to 1e13 protons.
    """
    rng = np.random.default_rng(seed)
    v1 = rng.uniform(7.0e3, 11.0e3, count)
    conditions = Conditions(
        b_field_t=rng.uniform(0.25, 1.1, count),
        b_dot_t_per_s=rng.uniform(0.0, 3.5, count),
        v1_v=v1,
        v2_v=v1 * rng.uniform(0.14, 0.8, count),
        phi2_rad=rng.uniform(-np.pi, np.pi, count),
        emittance_evs=1.0,
        intensity=rng.uniform(0.0, 1.0e13, count),
        machine=MACHINE,
    )
    area = np.nan_to_num(bucket_area_evs(conditions), nan=1.0)
    return conditions.replace(emittance_evs=area * rng.uniform(0.2, 0.9, count))


def _median_s(work: Callable[[], Any], repetitions: int) -> float:
    work()  # compiles, and touches the memory once
    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def run(json_path: Path | None = None, *, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """Speed of the matched kernel on one core, next to BLonD's matching with 1e6 macroparticles.

    Args:
        json_path: file for the JSON, or None.
        repetitions: repetitions of each measurement of the kernel; medians are reported.

    Returns:
        What was written (see `memrl_ctrl.bench.report.publish`).
    """
    conditions = mixed_conditions(BATCH)
    full_s = _median_s(lambda: matched_profiles(conditions, SLICES), repetitions) / BATCH
    bare_s = (
        _median_s(
            lambda: matched_profiles(conditions, SLICES, intensity_effects=False), repetitions
        )
        / BATCH
    )
    optimum_s = _median_s(lambda: reference_optimum(conditions), max(3, repetitions // 4)) / BATCH
    solved = matched_profiles(conditions, SLICES)
    figures = {
        "profiles_per_s": 1.0 / full_s,
        "profiles_per_s_zero_intensity": 1.0 / bare_s,
        "optimum_ms": 1.0e3 * optimum_s,
        "converged_fraction": float(np.mean(solved.converged)),
        "iterations_mean": float(np.mean(solved.iterations)),
    }
    rows = [
        _row("kernel, self-consistent", full_s),
        _row("kernel, zero intensity", bare_s),
        _row("reference optimum", optimum_s),
    ]
    notes = [
        f"One core, {SLICES} slices, batch of {BATCH} mixed conditions "
        f"(0 to 1e13 protons, phi_2 over the whole circle), medians of {repetitions}; "
        f"{figures['converged_fraction']:.2%} converged, "
        f"{figures['iterations_mean']:.2f} iterations in the mean.",
    ]
    for n_slices in (FEW_SLICES, SLICES):
        noise_s, chain_s = _measurement_s(conditions, n_slices, repetitions)
        figures[f"noise_us_{n_slices}"] = 1.0e6 * noise_s
        figures[f"monitor_us_{n_slices}"] = 1.0e6 * chain_s
        rows.append(_row(f"noise only, {n_slices} slices", noise_s))
        rows.append(_row(f"monitor with noise, {n_slices} slices", chain_s))
    try:
        rival = registry.load(RIVALS, "benchmark rival", RIVAL)
        measured = rival(_fitting(conditions, RIVAL_CONDITIONS))
    except MemrlError as error:
        notes.append(f"BLonD was not measured: {error}")
    else:
        single_s, converged_s = measured["seconds_1_iteration"], measured["seconds_converged"]
        figures["ratio_to_blond_1_iteration"] = single_s / full_s
        figures["ratio_to_blond_converged"] = converged_s / full_s
        figures["blond_1_iteration_s"] = single_s
        figures["blond_converged_s"] = converged_s
        rows.append(_row("BLonD, 1 iteration", single_s, full_s))
        rows.append(_row("BLonD, 10 iterations", converged_s, full_s))
        notes.append(
            f"BLonD: matched_from_distribution_function with {measured['macroparticles']:.0e} "
            f"macroparticles, median over {measured['profiles']:.0f} of the conditions; its 1 "
            "iteration leaves the induced voltage out. Both are compared with the self-consistent "
            "kernel."
        )
    columns = ("what", "us each", "a second", "times slower")
    return publish(
        name="kernel",
        columns=columns,
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=notes,
    )


def _measurement_s(conditions: Conditions, n_slices: int, repetitions: int) -> tuple[float, float]:
    """Return seconds a profile takes through a monitor with noise only, and through the whole one."""
    solved = matched_profiles(conditions, n_slices)
    density = np.nan_to_num(solved.line_density).astype(np.float32)
    frequency, rng = conditions.rf_frequency_hz, np.random.default_rng(1)

    def seconds(monitor: Monitor) -> float:
        return _median_s(lambda: monitor.measure(density, frequency, rng), repetitions)

    noise_s, chain_s = seconds(IDEAL), seconds(WCM)
    return noise_s / len(conditions), chain_s / len(conditions)


def _fitting(conditions: Conditions, count: int) -> Conditions:
    """Some conditions in which the bunch fits easily, so that BLonD's matching works on them."""
    solved = matched_profiles(conditions, 64)
    gain = np.abs(conditions.energy_gain_ev) / conditions.v1_v
    easy = solved.converged & (solved.captured_fraction == 1.0) & (gain < 0.3)
    easy &= (conditions.intensity > 3.0e12) & (np.abs(solved.asymmetry) < 0.3)
    return conditions.take(np.flatnonzero(easy)[:count])


def _row(what: str, seconds: float, against: float | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "what": what,
        "us each": 1.0e6 * seconds,
        "a second": 1.0 / seconds,
    }
    if against is not None:
        row["times slower"] = seconds / against
    return row
