"""A probe finds what is there, on episodes that it was not fitted to, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memrl_ctrl.training.memory.insight import Block
from memrl_ctrl.training.memory.linear import MOST_FEATURES, PENALTIES, logistic, ridge
from memrl_ctrl.training.memory.probe import Probe, fit_probe
from memrl_ctrl.training.memory.recording import Moments
from memrl_ctrl.training.memory.secrets import Secret
from memrl_ctrl.training.memory.space import Space, actor_units

Floats = NDArray[np.float64]
STEPS = 6


def secret(kind: str, *, shown: bool = True) -> Secret:
    found: Secret = Secret(
        name="s",
        kind=kind,  # type: ignore[arg-type]
        classes=("a", "b") if kind == "class" else (),
        read=lambda: np.zeros(1),
        shown=(lambda: np.ones(1, dtype=np.bool_)) if shown else None,
    )
    return found


def moments(kind: str, *, episodes: int = 60, remembers: int = STEPS, seed: int = 0) -> Moments:
    """Episodes whose secret is observed in step 1, and in the state for `remembers` steps from then on.

    Before and after that the state is noise; the first unit never knows anything.
    """
    rng = np.random.default_rng(seed)
    row, step = np.repeat(np.arange(episodes), STEPS), np.tile(np.arange(STEPS), episodes)
    drawn = {
        "class": rng.integers(2, size=episodes).astype(float),
        "number": rng.uniform(-1.0, 1.0, episodes),
        "angle": rng.uniform(-np.pi, np.pi, episodes),
    }[kind]
    hidden = drawn[row]
    signal = hidden[:, None]
    if kind == "angle":
        signal = np.stack([np.sin(hidden), np.cos(hidden)], axis=1)
    elif kind == "class":
        # Larger than the noise: one read-out serves all lags, also those where there is only noise.
        signal = 8.0 * signal - 4.0
    state = rng.normal(size=(len(row), 4))
    knows = (step >= 1) & (step < 1 + remembers)
    width = signal.shape[1]
    state[knows, 1 : 1 + width] = signal[knows]
    seen = rng.normal(size=(len(row), 2))
    seen[step == 1, :1] = signal[step == 1, :1]
    return Moments(
        row=row,
        step=step,
        observation=seen.astype("f4"),
        state=state.astype("f4"),
        probabilities=None,
        value=None,
        action=np.zeros((len(row), 1), "f4"),
        reward=np.zeros(len(row), "f4"),
        hidden=hidden[:, None],
        lag=(step - 1)[:, None],
    )


def probed(kind: str, **how: int) -> Probe:
    found = fit_probe(moments(kind, **how), secret(kind), 0, np.ones(4, dtype=np.bool_))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["class", "number", "angle"])
def test_what_the_state_holds_is_read_on_other_episodes(kind: str) -> None:
    """All of it from the memory, little from the present, nothing before it was seen."""
    found = probed(kind)
    assert found.overall.memory > 0.98
    low, high = found.interval
    assert low <= found.overall.memory <= high
    none = 0.5 if kind == "class" else 0.0
    assert found.overall.observation < none + 0.2
    assert found.overall.chance == pytest.approx(none, abs=0.12)
    assert found.before is not None
    assert found.before.memory < none + 0.25
    assert found.episodes == (36, 24)
    if kind == "angle":
        assert found.error_deg is not None
        assert found.error_deg[0] < 3.0 < found.error_deg[1]


def test_the_score_falls_when_it_is_forgotten() -> None:
    """Held for two steps: right at lag 0 and 1, chance from lag 2 on."""
    by_lag = {row.first: row for row in probed("class", remembers=2, episodes=200).by_lag}
    assert sorted(by_lag) == [0, 1, 2, 3, 4]
    assert min(by_lag[0].memory, by_lag[1].memory) > 0.95
    assert max(by_lag[2].memory, by_lag[4].memory) < 0.7
    assert by_lag[0].decisions == 80


def test_what_is_in_sight_does_not_count_as_remembered() -> None:
    """With one step in sight only, and nothing after, the overall score is chance."""
    found = probed("class", remembers=1, episodes=200)
    assert found.by_lag[0].memory > 0.9
    assert found.overall.memory < 0.65


def test_units_that_do_not_count_are_not_read() -> None:
    """The first unit alone knows nothing."""
    units = np.array([True, False, False, False])
    found = fit_probe(moments("number"), secret("number"), 0, units)
    assert found is not None
    assert found.overall.memory < 0.1


def test_what_never_differs_is_not_probed() -> None:
    """Nor what is too rare, or never known."""
    same = moments("number")
    same.hidden[:] = 1.0
    everything = np.ones(4, dtype=np.bool_)
    assert fit_probe(same, secret("number"), 0, everything) is None
    same.hidden[:] = np.nan
    assert fit_probe(same, secret("number"), 0, everything) is None
    assert fit_probe(moments("number", episodes=9), secret("number"), 0, everything) is None


@pytest.mark.parametrize("kind", ["class", "number", "angle"])
def test_decoding_gives_the_secret_back(kind: str) -> None:
    """Probabilities sum to one; numbers and angles come in their unit."""
    data = moments(kind)
    said = probed(kind).decode(data.state)
    knows = data.lag[:, 0] >= 0
    if kind == "class":
        np.testing.assert_allclose(said.sum(axis=1), 1.0)
        assert np.mean(said.argmax(axis=1)[knows] == data.hidden[knows, 0]) > 0.97
    else:
        error = said[knows, 0] - data.hidden[knows, 0]
        error = np.angle(np.exp(1j * error)) if kind == "angle" else error
        assert np.median(np.abs(error)) < 0.05


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 1_000))
def test_ridge_is_the_minimum(features: int, outputs: int, seed: int) -> None:
    """Its slope is zero: mean of x (w x + b - y) + penalty w = 0 on standardised features, mean error 0."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(1.0, 3.0, (80, features)), rng.normal(size=(80, outputs))
    found = ridge(x, y, np.arange(80) // 4)
    scaled = found.scaled(x)
    error = scaled @ found.weights + found.offset - y
    np.testing.assert_allclose(error.mean(axis=0), 0.0, atol=1e-9)
    slope = scaled.T @ error / len(x) + found.penalty * found.weights
    np.testing.assert_allclose(slope, 0.0, atol=1e-9)
    assert found.penalty in PENALTIES


def test_noise_gets_the_strong_penalty() -> None:
    """More features than samples a fold, none of which means anything: the read-out stays near the mean."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 200)), rng.normal(size=(120, 1))
    found = ridge(x, y, np.arange(120) // 3)
    assert found.penalty >= 10.0
    assert np.square(found(rng.normal(size=(500, 200)))).mean() < 0.2


def test_logistic_regression_matches_the_known_posterior() -> None:
    """Two normal clouds of deviation 1 at -1 and 1: log odds 2 x, over 4,000 samples."""
    rng = np.random.default_rng(0)
    classes = rng.integers(2, size=4_000)
    x = rng.normal(2.0 * classes - 1.0, 1.0)[:, None]
    found = logistic(x, classes, np.arange(4_000) // 10, 2)
    raw = found(np.array([[-1.0], [0.0], [1.0]]))
    odds = raw[:, 1] - raw[:, 0]
    np.testing.assert_allclose(odds, [-2.0, 0.0, 2.0], atol=0.2)


def test_many_features_are_replaced_by_components() -> None:
    """A signal in one strong direction of a picture is still read."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(300, 1))
    x = y @ rng.normal(size=(1, 2_000)) + 0.1 * rng.normal(size=(300, 2_000))
    found = ridge(x[:200], y[:200], np.arange(200) // 5)
    assert found.scaled.turned is not None
    assert found.scaled.turned.shape[1] <= MOST_FEATURES
    assert np.corrcoef(found(x[200:])[:, 0], y[200:, 0])[0, 1] > 0.99


def test_units_are_ordered_within_their_blocks() -> None:
    """Each unit once; those that vary alike stand together, silent ones last; the critic is not projected."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 400))
    noise = 0.01 * rng.normal(size=(400, 6))
    actor = np.stack([one, two, one, two, 0 * one, one], axis=1) + noise * [1, 1, 1, 1, 0, 1]
    critic = 100.0 * rng.normal(size=(400, 3))
    blocks = (Block(name="actor h1", size=6), Block(name="critic h1", size=3))
    space = Space.of(np.concatenate([actor, critic], axis=1).astype("f4"), blocks)
    assert sorted(space.order[:6]) == list(range(6))
    assert sorted(space.order[6:]) == [6, 7, 8]
    assert space.order[5] == 4
    kinds = ["two" if unit in {1, 3} else "one" for unit in space.order[:5]]
    assert kinds in (["two"] * 2 + ["one"] * 3, ["one"] * 3 + ["two"] * 2)
    assert actor_units(blocks).tolist() == [True] * 6 + [False] * 3
    assert sum(space.explained) > 0.99
    plane = space.plane(np.concatenate([actor, critic], axis=1).astype("f4"))
    assert np.abs(np.corrcoef(plane[:, 0], one)[0, 1]) > 0.98
    drawn = space.drawn(np.concatenate([actor, critic], axis=1).astype("f4"))
    assert [part.shape for part in drawn] == [(6, 400), (3, 400)]
