"""`memrl-ctrl bench information`: how well the readings themselves tell the phase error.

At the optimum a model that knows the program, and of the bunch nothing but the profile, fits one profile
of each condition; what its posterior leaves open of the phase error is what one reading says. Errors of
several readings of a bunch that stays as it is are independent: those of n together are smaller by the
square root of n. A policy does not know the program; it has seen, on its way, profiles at other phases,
which tell a little more of the bunch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from memrl_ctrl import progress
from memrl_ctrl.angles import wrap
from memrl_ctrl.beam.fit import fit_profile, suggest_delta_rad, suggested_sigma_rad
from memrl_ctrl.beam.measurement import WCM
from memrl_ctrl.bench.beam.command import SEED
from memrl_ctrl.bench.beam.conditions import PROGRAMS, Condition, Part, chosen, parts
from memrl_ctrl.bench.beam.figures import WITHIN_DEG
from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.values import Count, JsonFile, Seed
from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.errors import BeamError, UsageError
from memrl_ctrl.outputs import STDOUT
from memrl_ctrl.terminal import Terminal

Floats = NDArray[np.float64]
Advance = Callable[[int], None]

CONDITIONS = ("still", "random-still")
EPISODES = 500
READINGS = (1, 2, 3, 4, 5, 10, 30)
MOVES = 4
"""Shots in which a phase that starts anywhere is brought to its optimum."""
THERE_DEG = 1.0
"""So near it is taken to be there."""
BATCH = 16
"""Profiles that are fitted together."""
COLUMN_WITHIN = f"within {WITHIN_DEG:g} deg, %"
QUANTILES = {"median": 0.5, "p95": 0.95}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What single readings tell, degrees."""

    sigma_deg: Floats
    """Standard deviation of the phase error that the posterior leaves [n]."""
    error_deg: Floats
    """What the fit itself was wrong by [n]."""


def run(
    json_path: Annotated[JsonFile | None, Parameter(show=False)] = None,
    *,
    conditions: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    episodes: Annotated[Count, Parameter()] = EPISODES,
    seed: Annotated[Seed, Parameter()] = SEED,
) -> dict[str, Any]:
    """What the readings tell of the phase error, at best: of one reading, and of several together.

    A model that knows the program fits one profile of each condition at its optimum. What its posterior
    leaves open of the phase error is what one such reading tells; several readings of the same bunch tell it
    better by the square root of their number.

    Parameters
    ----------
    conditions
        Of `memrl-ctrl bench beam`: those that leave the machine and the readings as they are known. Without
        it still and random-still.
    episodes
        Points of each condition.
    seed
        Of machine, bunches and noise.
    """
    console = Terminal(stderr=str(json_path) == STDOUT)
    met = chosen(list(conditions or CONDITIONS))
    for each in met:
        _check(each)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    notes = []
    advance = _counter(len(met) * episodes)
    with work_bar(console, "fits"):
        for each in met:
            told = _told(each, episodes, seed, advance)
            points = told.sigma_deg.size
            wrong = {name: np.quantile(np.abs(told.error_deg), q) for name, q in QUANTILES.items()}
            notes.append(
                f"{each.name}: {points} of {episodes} points, the others without an optimum that is reached; "
                f"the single fits themselves are wrong by {wrong['median']:.2f} degrees in the median, "
                f"{wrong['p95']:.2f} at 95 %."
            )
            figures[f"{each.name}.points"] = float(points)
            figures |= {
                f"{each.name}.fit_{name}_deg": float(value) for name, value in wrong.items()
            }
            for count in READINGS:
                row: dict[str, Any] = {"condition": each.name, "readings": count}
                for name, share in QUANTILES.items():
                    value = quantile_deg(told.sigma_deg / np.sqrt(count), share)
                    row[f"{name}, deg"] = value
                    figures[f"{each.name}.{count}.{name}_deg"] = value
                within = share_within(told.sigma_deg / np.sqrt(count))
                figures[f"{each.name}.{count}.share_within_2_deg"] = within
                rows.append({**row, COLUMN_WITHIN: f"{100.0 * within:.1f}"})
    return publish(
        name="information",
        columns=("condition", "readings", *(f"{name}, deg" for name in QUANTILES), COLUMN_WITHIN),
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=notes,
        console=console,
    )


def quantile_deg(sigma_deg: Floats, share: float) -> float:
    """Return below what the size of an error lies in a share of all cases.

    Args:
        sigma_deg: standard deviations of normal errors about 0 [n], each as likely.
        share: above 0, below 1.
    """
    return float(
        brentq(lambda x: share_within(sigma_deg, x) - share, 0.0, 10.0 * sigma_deg.max() + 1e-9)
    )


def share_within(sigma_deg: Floats, within_deg: float = WITHIN_DEG) -> float:
    """Return the share of errors that are at most so large.

    Args:
        sigma_deg: standard deviations of normal errors about 0 [n], each as likely.
        within_deg: above 0.
    """
    sigma = np.maximum(sigma_deg, np.finfo(np.float64).tiny)
    return float(np.mean(2.0 * ndtr(within_deg / sigma) - 1.0))


def _check(condition: Condition) -> None:
    """Refuse conditions in which the model, or what is read, is not what is known.

    Raises:
        UsageError: this is one.
    """
    known = not condition.faults and condition.machine is None
    if not known or condition.correlation_slices > 0.0 or "fidelity" in condition.options:
        raise UsageError(
            f"condition {condition.name!r} cannot be told here: its machine or its readings are not "
            "what is known of them; take one such as still, bunch, noise-5, 1e13 or random-still"
        )


def _counter(total: int) -> Advance:
    """Return what tells how far the work is, called with the pieces that were done."""
    done = 0

    def advance(pieces: int) -> None:
        nonlocal done
        done += pieces
        progress.report(min(done, total), total)

    return advance


def _told(condition: Condition, episodes: int, seed: int, advance: Advance) -> Told:
    """Fit a profile of each point at its optimum.

    Raises:
        BeamError: no point has an optimum that is reached, and a fit.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for k, part in enumerate(parts(condition, episodes, PROGRAMS, Path(folder))):
            found.append(_of_part(part, seed + 1000 * k, advance))
    sigma, error = (np.concatenate([one[k] for one in found]) for k in range(2))
    if not sigma.size:
        raise BeamError(
            f"condition {condition.name!r}: no point of {episodes} has a reference optimum that is "
            "reached, and a fit; take more"
        )
    return Told(sigma_deg=sigma, error_deg=error)


def _of_part(part: Part, seed: int, advance: Advance) -> tuple[Floats, Floats]:
    task = BeamPhase(part.episodes, **part.options)
    try:
        task.start(seed, None)
        for _ in range(MOVES):
            wanted = -np.nan_to_num(task.phase_error_rad())
            task.play(np.clip(wanted / task.max_step_rad, -1.0, 1.0))
        away = task.phase_error_rad()
        there = np.flatnonzero(np.abs(np.nan_to_num(away, nan=np.inf)) < np.radians(THERE_DEG))
        profile = task.reading.profile[there]
        known = part.known(task.backend.conditions().take(there))  # type: ignore[attr-defined]
    finally:
        task.close()
    known = known.replace(phi2_rad=0.0, intensity=0.0, emittance_evs=1.0)
    sigma, error = [], []
    for start in range(0, there.size, BATCH):
        some = np.arange(start, min(start + BATCH, there.size))
        fit = fit_profile(
            profile[some], known.machine, known.take(some), trigger="unknown", monitor=WCM
        )
        sigma.append(suggested_sigma_rad(fit))
        error.append(wrap(suggest_delta_rad(fit) + away[there[some]]))
        advance(some.size)
    advance(part.episodes - there.size)
    both = (
        np.degrees(np.stack([np.concatenate(sigma), np.concatenate(error)]))
        if sigma
        else np.empty((2, 0))
    )
    both = both[:, np.isfinite(both).all(axis=0)]
    return both[0], both[1]
