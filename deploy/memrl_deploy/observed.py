"""What a policy saw in training: its environment played anew, for the statistics in its file.

Needs what training needs (extra `train`); the simulation of the beam is played, never a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MemrlError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.policy.statistics import ObservationStatistics, measure_statistics
from memrl_ctrl.training.evaluation import open_for

ROWS = 256
"""Environments that play together."""
STEPS = 80
"""Shots of each: 20,480 observations, of which the half that gives the edges leaves 10 beyond them."""
RANDOM_PROBABILITY = 0.5
"""Chance of a random action instead of the policy's, in the rows that explore."""
SEED = 7_000_003
"""Of these episodes, beside those of training and evaluation."""
SIMULATION = "blond"
"""Backend that may be played: whatever else a policy was trained on may be a machine."""
FIDELITY = "matched"
"""Fidelity that is fast enough for it."""

Observations = NDArray[np.float32]


def statistics_of(
    policy: OnnxPolicy, *, steps: int = STEPS, seed: int = SEED
) -> tuple[ObservationStatistics | None, str]:
    """Measure what the training of a beam policy showed it.

    Args:
        policy: the exported policy; its memory is reset.
        steps: shots that each of 256 environments plays.
        seed: of the episodes and of the random actions.

    Returns:
        The statistics, and an empty text; or None, and why there are none.
    """
    manifest = policy.manifest
    refusal = _refusal(manifest)
    if refusal:
        return None, refusal
    try:
        return measure_statistics(observations_of(policy, steps=steps, seed=seed)), ""
    except (MemrlError, ValueError) as error:
        return None, f"its training environment cannot be played: {error}"


def observations_of(policy: OnnxPolicy, *, steps: int = STEPS, seed: int = SEED) -> Observations:
    """Play the training environment of a policy [steps * 256, n_slices + 1].

    In every other pair of rows half of the actions are drawn at random: a policy that has converged
    would show only what it leads to. Even and odd rows, of which `measure_statistics` makes the
    components and the edges, hold the same mixture of different episodes.

    Raises:
        MemrlError: the environment cannot be made as it was.
    """
    manifest = policy.manifest
    rng = np.random.default_rng(seed)
    stepper = open_for(policy, manifest.training.task, ROWS, _options(manifest))
    try:
        task = stepper.task
        seen = stepper.reset(seed).observation
        policy.reset(ROWS)
        previous = np.zeros((ROWS, *manifest.action.shape), dtype=np.float32)
        explores = (np.arange(ROWS) // 2 % 2 == 1)[:, None]
        found = np.empty((steps, ROWS, seen.shape[1]), dtype=np.float32)
        for shot in range(steps):
            found[shot] = seen
            unit = task.unit_of(policy.act(seen, previous))
            drawn = rng.uniform(-1.0, 1.0, unit.shape).astype(np.float32)
            wild = explores & (rng.random((ROWS, 1)) < RANDOM_PROBABILITY)
            step = stepper.step(np.where(wild, drawn, unit))
            seen, previous = step.observation, step.applied.copy()
            if step.started.any():
                policy.reset(ROWS, step.started)
                previous[step.started] = 0.0
    finally:
        stepper.close()
    return found.reshape(steps * ROWS, -1)


def _options(manifest: PolicyManifest) -> Mapping[str, Any]:
    environment = manifest.training.configuration.get("environment", {})
    options: Mapping[str, Any] = environment.get("options", {})
    return options


def _refusal(manifest: PolicyManifest) -> str:
    """Return why a policy's training cannot be played again; empty if it can."""
    training = manifest.training
    if manifest.observation.kind != "beam-phase":
        return "it is no policy for the beam"
    if training.algorithm == "none" or "environment" not in training.configuration:
        return "it was not trained"
    options = _options(manifest)
    backend = options.get("backend", SIMULATION)
    if backend != SIMULATION:
        return f"it was trained on backend {backend!r}, which an export leaves alone"
    fidelity = options.get("fidelity", FIDELITY)
    if fidelity != FIDELITY:
        return f"it was trained at fidelity {fidelity!r}, which takes too long to play again"
    return ""
