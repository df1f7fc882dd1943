"""Classical controllers: pure functions of what they see and of their memory."""

from __future__ import annotations

import numpy as np
import pytest

from memrl_ctrl import controllers
from memrl_ctrl.angles import wrap
from memrl_ctrl.beam import Conditions, ProfileFit, matched_profiles, reference_optimum
from memrl_ctrl.beam.fit import fit_profile
from memrl_ctrl.beam.measurement import IDEAL
from memrl_ctrl.controllers import catalogue, network
from memrl_ctrl.controllers.core import LARGEST_STEP_RAD, N_SLICES, Driven
from memrl_ctrl.controllers.fit import unsmoothed
from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.errors import MismatchError, UnknownNameError
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.program import load_program

NAMES = controllers.available()
QUICK = [name for name in NAMES if name != "fit-damped"]
"""Those that are played: `fit-damped` is `fit` with another number."""
SLOW = ("fit", "fit-damped")


def points(rows: int) -> Conditions:
    """Points of a shipped program, as the control system knows them."""
    program = load_program("psb-2gev")
    at = program.at(np.linspace(300.0, 780.0, rows))
    return at.conditions(program.machine.ring)


def driven_of(name: str, rows: int) -> Driven:
    """A controller with the memory of `rows` rows, told what it needs."""
    driven = controllers.drive(name)
    driven.inform(points(rows))
    driven.reset(rows)
    return driven


def observations(rows: int, seed: int) -> np.ndarray:
    """Bunches of some widths and skews, with noise."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(-np.pi, np.pi, N_SLICES)
    width = rng.uniform(0.6, 1.2, (rows, 1))
    skew = rng.uniform(-0.5, 0.5, (rows, 1))
    profile = np.maximum(0.0, 1.0 - (phase / width / 1.5) ** 2) * (1.0 + skew * phase)
    profile += rng.normal(0.0, 0.02, profile.shape)
    profile /= profile.mean(axis=1, keepdims=True)
    return np.concatenate([profile, np.full((rows, 1), 0.1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("name", QUICK)
def test_rows_do_not_touch_each_other(name: str) -> None:
    """A row alone gets the same changes as among others, shot after shot."""
    rows, shots = (3, 1) if name in SLOW else (5, 6)
    many, one = driven_of(name, rows), controllers.drive(name)
    one.inform(points(rows).take(np.array([2])))
    one.reset(1)
    applied = np.zeros((rows, 1), dtype=np.float32)
    for shot in range(shots):
        seen = observations(rows, shot)
        together = many.act(seen, applied)
        alone = one.act(seen[2:3], applied[2:3])
        np.testing.assert_allclose(alone[0], together[2], atol=1e-5)
        applied = 0.9 * together


@pytest.mark.parametrize("name", QUICK)
def test_a_row_that_is_not_shown_neither_moves_nor_learns(name: str) -> None:
    """An observation of zeros brings no change and leaves the memory as it was."""
    driven = driven_of(name, 3)
    applied = driven.act(observations(3, 0), np.zeros((3, 1), dtype=np.float32))
    before = driven.memory
    seen = observations(3, 1)
    seen[1] = 0.0
    action = driven.act(seen, applied)
    assert action[1, 0] == 0.0
    for key, array in driven.memory.items():
        np.testing.assert_array_equal(array[1], before[key][1])


@pytest.mark.parametrize("name", QUICK)
def test_same_memory_brings_the_same_answer(name: str) -> None:
    """Put back to a memory, a controller repeats its answer bit for bit, within its largest step."""
    rows, shots = (2, 1) if name in SLOW else (4, 3)
    driven = driven_of(name, rows)
    applied = np.zeros((rows, 1), dtype=np.float32)
    for shot in range(shots):
        applied = driven.act(observations(rows, shot), applied)
    held = driven.memory
    first = driven.act(observations(rows, 9), applied)
    driven.memory = held
    np.testing.assert_array_equal(driven.act(observations(rows, 9), applied), first)
    assert np.abs(first).max() <= np.float32(LARGEST_STEP_RAD)


def test_settings_decide_the_digest() -> None:
    """The same controller with another gain is another one."""
    from memrl_ctrl.controllers.network import ConstantGain

    assert Driven(ConstantGain(gain=0.4)).digest != Driven(ConstantGain(gain=0.5)).digest


def test_unknown_controller_is_named() -> None:
    """A controller that does not exist is refused with those that do."""
    with pytest.raises(UnknownNameError, match=r"no controller 'hodl'.*did you mean 'hold'"):
        controllers.make("hodl")


def test_kalman_weighs_by_what_is_known() -> None:
    """The first measurement counts whole; a standing phase is then averaged, not followed."""
    driven = controllers.drive("network-kalman")
    driven.reset(1)
    none = np.zeros((1, 1), dtype=np.float32)
    seen = observations(1, 3)
    first = driven.act(seen, none)
    direct = controllers.drive("network-decaying")
    direct.reset(1)
    np.testing.assert_allclose(first, direct.act(seen, none), atol=1e-6)
    precision = driven.memory["precision_in"][0, 0]
    driven.act(seen, none)
    assert driven.memory["precision_in"][0, 0] > precision


@pytest.mark.parametrize("name", SLOW)
def test_a_model_needs_the_points(name: str) -> None:
    """A controller with a model that was not told the points, or of other ones, says so."""
    driven = controllers.drive(name)
    driven.reset(2)
    none = np.zeros((2, 1), dtype=np.float32)
    with pytest.raises(
        MismatchError, match=f"controller '{name}' works with a model of each point"
    ):
        driven.act(observations(2, 0), none)
    driven.inform(points(3))
    with pytest.raises(MismatchError, match="knows 3 points, and 2 are asked for"):
        driven.act(observations(2, 0), none)


class Told:
    """In the place of the network: says the phase errors that it is given, 1 degree uncertain."""

    digest = "told"

    def __init__(self) -> None:
        self.error_deg = 0.0

    def __call__(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = len(observation)
        return np.full(rows, np.radians(self.error_deg)), np.full(rows, np.radians(1.0) ** 2)


def test_kalman_begins_anew_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small innovation is averaged; one that cannot be is followed whole, in the same shot."""
    told = Told()
    monkeypatch.setattr(network, "phase_network", lambda: told)
    kalman = Driven(network.Kalman(walk_deg=0.1, noise_factor=1.0, floor_deg=0.0, gate=5.0))
    kalman.reset(1)
    none, seen = np.zeros((1, 1), dtype=np.float32), observations(1, 0)
    for _ in range(10):
        kalman.act(seen, none)
    told.error_deg = 2.0
    assert 0.05 < np.degrees(-kalman.act(seen, none)[0, 0]) < 0.8
    told.error_deg = 40.0
    assert np.degrees(-kalman.act(seen, none)[0, 0]) == pytest.approx(40.0)


def test_constant_gain_takes_a_large_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of a small error, all of a large one."""
    told = Told()
    monkeypatch.setattr(network, "phase_network", lambda: told)
    constant = Driven(network.ConstantGain(gain=0.25, capture_deg=10.0))
    constant.reset(1)
    for error_deg, wanted_deg in ((8.0, -2.0), (-12.0, 12.0), (170.0, -90.0)):
        told.error_deg = error_deg
        action = constant.act(observations(1, 0), np.zeros((1, 1), dtype=np.float32))
        assert np.degrees(action[0, 0]) == pytest.approx(wanted_deg)


def test_tuned_settings_are_used() -> None:
    """What stands in the package's file is what a controller made by its name has."""
    for name, settings in catalogue.tuned().items():
        made = controllers.make(name).settings
        assert {key: made[key] for key in settings} == settings


def test_the_network_finds_the_phase_error() -> None:
    """Near the optimum, on a program that it was not trained on: 0.7 degree, as it says itself."""
    task = BeamPhase(64, program="psb-1p4gev", n_slices=N_SLICES, noise=0.02, max_step_deg=180.0)
    try:
        task.start(1, None)
        away = np.random.default_rng(0).uniform(-0.1, 0.1, 64)
        task.play(wrap(away - task.phase_error_rad()) / task.max_step_rad)
        found, variance = network.phase_network()(task.observation())
        off = wrap(found - task.phase_error_rad())
    finally:
        task.close()
    assert np.degrees(np.median(np.abs(off))) < 0.7
    assert 0.5 < np.median(np.abs(off) / np.sqrt(variance)) / 0.674 < 2.0


def test_a_fit_sees_the_noise_that_was_measured_however_a_profile_was_shifted() -> None:
    """What centring takes from the highest harmonics is given back: right solutions are not poor."""
    rows = 24
    at = points(rows)
    bunches = at.replace(emittance_evs=0.8, intensity=3e12)
    right = reference_optimum(bunches)
    there = np.isfinite(right)
    at, bunches = at.take(there), bunches.take(there).replace(phi2_rad=right[there])
    line = matched_profiles(bunches, N_SLICES).line_density
    rng = np.random.default_rng(7)
    peak = line.max(axis=1, keepdims=True)
    noisy = (line + 0.02 * peak * rng.standard_normal(line.shape)).astype(np.float32)
    seen = beam_observation(noisy, np.zeros(len(at)), N_SLICES)[:, :-1]

    def fitted(profiles: np.ndarray) -> ProfileFit:
        return fit_profile(profiles, at.machine, at, trigger="unknown", monitor=IDEAL)

    true = 0.02 * peak[:, 0] / noisy.mean(axis=1)
    before, after = fitted(seen), fitted(unsmoothed(seen))
    assert np.median(before.noise / true) < 0.8
    assert 0.9 < np.median(after.noise / true) < 1.15
    assert np.mean(before.verdict == "poor") > 0.3
    assert np.mean(after.verdict == "poor") < 0.15
    error = np.abs(wrap(after.phi2_rad - bunches.phi2_rad))
    assert np.degrees(np.median(error)) < 2.0


def test_a_profile_without_noise_stays_as_it_is() -> None:
    """Nothing in the highest harmonics says nothing of a shift, and nothing is divided by zero."""
    flat = np.ones((2, N_SLICES), dtype=np.float32)
    np.testing.assert_allclose(unsmoothed(flat), flat, atol=1e-6)
