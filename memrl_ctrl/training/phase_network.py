"""Training of the feed-forward network of the classical controllers: profile to phase error.

    python -m memrl_ctrl.training.phase_network FILE.npz

draws conditions uniformly from the operating range of the machine `psb`, offsets from the whole circle,
and fits direction and sharpness of a von Mises distribution of the phase error by maximum likelihood
(C. M. Bishop, Pattern Recognition and Machine Learning, section 2.3.8). No program is used. Some minutes on
one core; the same seed brings the same file on the same machine and versions.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.outputs import output_file

N_SLICES = 128
ROWS = 2048
ROUNDS = 24
PHASES = 16
"""Samples drawn: rounds times rows times phases."""
NEAR_RAD = 0.25
EPOCHS = 12
BATCH = 512
HIDDEN = (256, 128)
LEARNING_RATE = 2e-3
SEED = 7
OPTIONS: dict[str, Any] = {
    "machine": "psb",
    "n_slices": N_SLICES,
    "filling": (0.2, 1.25),
    "intensity": (1e11, 1e13),
    "noise": (0.005, 0.05),
    "require_reference": True,
    "episode_length": 1000,
    "max_step_deg": 180.0,
}
"""Of `memrl/BeamPhase-v0`: as the policies' training, with more noise."""

Floats = NDArray[np.float32]


def draw(rounds: int, seed: int) -> tuple[Floats, Floats]:
    """Return observations [n, N_SLICES + 1] and phase errors [n], rad."""
    task = BeamPhase(ROWS, **OPTIONS)
    seen, errors = [], []
    try:
        for k in range(rounds):
            task.start(seed + k, None)
            moves = np.random.default_rng(seed + k)
            for _ in range(PHASES):
                error = task.phase_error_rad()
                known = np.isfinite(error)
                seen.append(task.observation()[known])
                errors.append(error[known].astype(np.float32))
                # Half of the phases near the optimum, where a controller spends its time.
                near = -error + moves.normal(0.0, NEAR_RAD, ROWS)
                anywhere = moves.uniform(-math.pi, math.pi, ROWS)
                go = np.where((moves.random(ROWS) < 0.5) & known, near, anywhere)
                task.play(go / task.max_step_rad)
    finally:
        task.close()
    return np.concatenate(seen), np.concatenate(errors)


def loss_of(out: Tensor, error: Tensor) -> Tensor:
    """Return the mean negative log likelihood of a von Mises distribution, a constant left out.

    Args:
        out: kappa times the cosine and sine of its direction [n, 2].
        error: [n], rad.
    """
    kappa = out.norm(dim=1).clamp_min(1e-6)
    fits = out[:, 0] * torch.cos(error) + out[:, 1] * torch.sin(error)
    # log I0(kappa) = log(i0e(kappa)) + kappa
    loss: Tensor = (torch.log(torch.special.i0e(kappa)) + kappa - fits).mean()
    return loss


def train(path: Path, *, rounds: int = ROUNDS, epochs: int = EPOCHS) -> dict[str, float]:
    """Train and write the weights; return what was reached on data that were held out."""
    begun = time.perf_counter()
    torch.manual_seed(SEED)
    seen, error = (torch.from_numpy(each) for each in draw(rounds, SEED))
    held_seen, held_error = (torch.from_numpy(each) for each in draw(2, SEED + 100_000))
    mean, scale = seen.mean(dim=0), seen.std(dim=0).clamp_min(1e-3)
    layers: list[nn.Module] = []
    sizes = (N_SLICES + 1, *HIDDEN)
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(sizes[-1], 2))
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    total = epochs * math.ceil(len(seen) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    inputs = (seen - mean) / scale
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(seen)), BATCH):
            optimiser.zero_grad()
            loss = loss_of(network(inputs[rows]), error[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        out = network((held_seen - mean) / scale)
        off = torch.atan2(out[:, 1], out[:, 0]) - held_error
        off_deg = torch.rad2deg(torch.atan2(off.sin(), off.cos()).abs())
    arrays: dict[str, Any] = {"mean": mean.numpy(), "scale": scale.numpy()}
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for k, layer in enumerate(linear):
        arrays |= {f"weight{k}": layer.weight.detach().numpy().T}
        arrays |= {f"bias{k}": layer.bias.detach().numpy()}
    with output_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
    return {
        "samples": float(len(seen)),
        "seconds": time.perf_counter() - begun,
        "held_out_median_deg": float(off_deg.median()),
        "held_out_p95_deg": float(off_deg.quantile(0.95)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"{train(Path(sys.argv[1]))}\n")
