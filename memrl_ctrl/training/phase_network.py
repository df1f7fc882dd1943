"""Training of the feed-forward network of the classical controllers: profile to phase error.

    python -m memrl_ctrl.training.phase_network FILE.npz

draws conditions uniformly from the operating range of the machine `psb`, offsets from the whole circle,
and fits direction and sharpness of a von Mises distribution of the phase error by maximum likelihood
(C. M. Bishop, Pattern Recognition and Machine Learning, section 2.3.8). No program is used. Profiles are
kept without noise, and every epoch sees them with noise of its own. Three minutes on one core; the same
seed brings the same file on the same machine and versions.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.outputs import output_file

N_SLICES = 128
ROWS = 2048
ROUNDS = 48
PHASES = 8
"""Samples drawn: rounds times rows times phases."""
SPREADS_RAD = (0.5, 0.1)
"""Phases are drawn about the optimum with these standard deviations, a share of `NEAR` each, where a
controller spends its time; the others anywhere on the circle."""
NEAR = 0.3
EPOCHS = 6
BATCH = 512
HIDDEN = (256, 128)
LEARNING_RATE = 2e-3
WARM_UP = 0.05
SEED = 7
NOISE = (0.005, 0.05)
"""Of a slice, fraction of the peak: drawn log-uniformly for each profile of each epoch."""
BASELINE = 0.005
"""As that of `memrl_ctrl.beam.measurement.WCM`."""
LARGEST_LOG_KAPPA = 14.0
"""A thousandth of a radian: sharper than any profile says."""
OPTIONS: dict[str, Any] = {
    "machine": "psb",
    "n_slices": N_SLICES,
    "filling": (0.2, 1.25),
    "emittance_evs": (0.4, 2.0),
    "intensity": (1e11, 1e13),
    "noise": 0.0,
    "monitor": {
        "baseline": 0.0,
        "trigger_jitter_ns": 0.0,
        "bits": 0,
        "gain": 1.0,
        "gain_drift": 0.0,
    },
    "require_reference": True,
    "episode_length": 1000,
    "max_step_deg": 180.0,
}
"""Of `memrl/BeamPhase-v0`: as the policies' training, but seen without noise."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """Profiles [n, N_SLICES] without noise, synchronous phases and phase errors [n], rad."""

    profile: Floats
    synchronous_phase_rad: Floats
    error_rad: Floats


def draw(rounds: int, seed: int) -> Profiles:
    """Return profiles of `rounds` times `ROWS` conditions, `PHASES` of each."""
    task = BeamPhase(ROWS, **OPTIONS)
    found: list[tuple[Floats, Floats, Floats]] = []
    try:
        for k in range(rounds):
            task.start(seed + k, None)
            moves = np.random.default_rng(seed + k)
            for _ in range(PHASES):
                wanted = _phases(moves) - task.phase_error_rad()
                task.play(np.arctan2(np.sin(wanted), np.cos(wanted)) / task.max_step_rad)
                error = task.phase_error_rad().astype(np.float32)
                known = np.isfinite(error)
                phase = task.reading.synchronous_phase_rad[known].astype(np.float32)
                found.append((task.reading.profile[known], phase, error[known]))
    finally:
        task.close()
    profile, phase, error = (np.concatenate(each) for each in zip(*found, strict=True))
    return Profiles(profile=profile, synchronous_phase_rad=phase, error_rad=error)


def _phases(moves: np.random.Generator) -> NDArray[np.float64]:
    """Return phase errors to go to [ROWS], rad."""
    kind = moves.random(ROWS)
    far, near = SPREADS_RAD
    about = np.where(kind < NEAR, moves.normal(0.0, far, ROWS), moves.normal(0.0, near, ROWS))
    return np.where(kind < 2.0 * NEAR, about, moves.uniform(-math.pi, math.pi, ROWS))


def seen(given: Profiles, rng: np.random.Generator, noise: tuple[float, float] = NOISE) -> Floats:
    """Return observations [n, N_SLICES + 1] with noise."""
    count = len(given.profile)
    peak = given.profile.max(axis=1, keepdims=True)
    level = np.exp(rng.uniform(math.log(noise[0]), math.log(noise[1]), (count, 1)))
    profile = rng.standard_normal(given.profile.shape, dtype=np.float32)
    profile *= (level * peak).astype(np.float32)
    profile += given.profile
    profile += (BASELINE * peak * rng.standard_normal((count, 1))).astype(np.float32)
    return beam_observation(profile, given.synchronous_phase_rad.astype(np.float64), N_SLICES)


def loss_of(out: Tensor, error: Tensor) -> Tensor:
    """Return the mean negative log likelihood of a von Mises distribution, a constant left out.

    Args:
        out: along the cosine and sine of its direction, and log kappa [n, 3].
        error: [n], rad.
    """
    kappa = torch.exp(out[:, 2].clamp(max=LARGEST_LOG_KAPPA))
    off = torch.atan2(out[:, 1], out[:, 0]) - error
    # log I0(kappa) = log(i0e(kappa)) + kappa
    loss: Tensor = (torch.log(torch.special.i0e(kappa)) + kappa * (1.0 - torch.cos(off))).mean()
    return loss


def build() -> nn.Sequential:
    """Return the network, its weights drawn."""
    layers: list[nn.Module] = []
    sizes = (N_SLICES + 1, *HIDDEN)
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 3))


def train(path: Path, *, rounds: int = ROUNDS, epochs: int = EPOCHS) -> dict[str, float]:
    """Train and write the weights; return what was reached on data that were held out."""
    begun = time.process_time()
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    drawn = draw(rounds, SEED)
    first = seen(drawn, rng)
    mean = torch.from_numpy(first.mean(axis=0))
    scale = torch.from_numpy(first.std(axis=0)).clamp_min(1e-3)
    error = torch.from_numpy(drawn.error_rad)
    network = build()
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    total = epochs * math.ceil(len(error) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=total, pct_start=WARM_UP
    )
    for epoch in range(epochs):
        inputs = torch.from_numpy(first if epoch == 0 else seen(drawn, rng))
        inputs.sub_(mean).div_(scale)
        for rows in torch.split(torch.randperm(len(inputs)), BATCH):
            optimiser.zero_grad()
            loss = loss_of(network(inputs[rows]), error[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    _write(path, network, mean, scale)
    return {
        "samples": float(len(error)),
        "cpu_seconds": time.process_time() - begun,
        **_held_out(network, mean, scale),
    }


def _held_out(network: nn.Module, mean: Tensor, scale: Tensor) -> dict[str, float]:
    """Return errors of single profiles with 2 % noise, of conditions that were not trained on."""
    drawn = draw(2, SEED + 100_000)
    inputs = torch.from_numpy(seen(drawn, np.random.default_rng(SEED), (0.02, 0.02)))
    with torch.no_grad():
        out = network((inputs - mean) / scale)
    off = torch.atan2(out[:, 1], out[:, 0]) - torch.from_numpy(drawn.error_rad)
    off_deg = torch.rad2deg(torch.atan2(off.sin(), off.cos()).abs())
    near = torch.from_numpy(np.abs(drawn.error_rad) < SPREADS_RAD[1])
    return {
        "held_out_median_deg": float(off_deg.median()),
        "held_out_p95_deg": float(off_deg.quantile(0.95)),
        "held_out_near_median_deg": float(off_deg[near].median()),
        "held_out_near_p95_deg": float(off_deg[near].quantile(0.95)),
    }


def _write(path: Path, network: nn.Sequential, mean: Tensor, scale: Tensor) -> None:
    arrays: dict[str, Any] = {"mean": mean.numpy(), "scale": scale.numpy()}
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for k, layer in enumerate(linear):
        arrays |= {f"weight{k}": layer.weight.detach().numpy().T}
        arrays |= {f"bias{k}": layer.bias.detach().numpy()}
    with output_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"{train(Path(sys.argv[1]))}\n")
