"""Another double-harmonic ring is a file: what is written for the PSB works with ISIS."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import memrl_ctrl.env  # noqa: F401 - registers the environments
from memrl_ctrl.program import load_machine, load_program
from memrl_ctrl.registry import open_backend

BUNCH = {"n_slices": 64, "emittance_evs": 0.4, "intensity": 2e13}


def test_its_energies_are_the_published_ones() -> None:
    """70.4 and 800 MeV at injection and extraction, two bunches, below transition all along."""
    program = load_program("isis-800mev")
    ring = program.machine.ring
    momentum_ev = 299792458.0 * program.at([0.0, 10.0]).b_field_t * ring.bending_radius_m
    kinetic_ev = np.hypot(momentum_ev, ring.mass_ev) - ring.mass_ev
    assert kinetic_ev == pytest.approx([70.4e6, 800e6], rel=2e-3)
    assert ring.harmonics == (2, 4)
    assert 1.0 + kinetic_ev[1] / ring.mass_ev < ring.gamma_transition
    assert load_machine("isis").period_s == 0.02


def test_the_simulation_plays_its_cycle() -> None:
    """All control points have a good profile of integral 1, and the optimum is symmetric there."""
    backend = open_backend(
        "blond", program="isis-800mev", seed=1, noise=0.0, offset_deg=0.0, **BUNCH
    )
    backend.start()
    reading = backend.observe()
    assert reading.usable.all()
    assert reading.profile.shape == (20, 64)
    truth = reading.truth
    assert truth is not None
    assert np.isfinite(truth.reference_rad).all()


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ("memrl/BeamPhase-v0", {"machine": "isis"}),
        ("memrl/BeamPhase-v0", {"program": "isis-800mev"}),
    ],
)
def test_environments_train_on_it(environment: str, options: dict[str, str]) -> None:
    """An environment of the machine, and of its program, gives finite observations and rewards."""
    env = gym.make(environment, **options, **BUNCH)
    observation, _ = env.reset(seed=1)
    assert np.isfinite(observation).all()
    for _ in range(3):
        observation, reward, *_ = env.step(np.array([0.2], dtype=np.float32))
        assert np.isfinite(observation).all()
        assert np.isfinite(reward)
    env.close()
