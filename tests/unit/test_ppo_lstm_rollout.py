"""PPO-LSTM: advantages by hand, sequences that stay in their episodes, rewards that are scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.agents.rollout import RewardScale, Rollout, advantages, places, sequences


def rollout(reward: list[float], value: list[float], **more: Any) -> Rollout:
    steps = len(reward)
    column = {
        "terminated": [False] * steps, "ended": [False] * steps, "valid": [True] * steps,
        "bootstrap": [0.0] * steps, "following": 0.0, **more,
    }  # fmt: skip
    nothing = np.zeros((steps, 1, 0), dtype="f4")

    def one(name: str, kind: str) -> Any:
        return np.array(column[name], dtype=kind)[:, None]

    return Rollout(
        observation=nothing, previous=nothing, memory=nothing, truth=nothing, action=nothing,
        allowed=None, log_prob=np.zeros((steps, 1), dtype="f4"),
        value=np.array(value, dtype="f4")[:, None], reward=np.array(reward, dtype="f4")[:, None],
        terminated=one("terminated", "?"), ended=one("ended", "?"), valid=one("valid", "?"),
        bootstrap=one("bootstrap", "f4"), following=np.array([column["following"]], dtype="f4"),
    )  # fmt: skip


def test_advantages_by_hand() -> None:
    """With gamma 0.5 and lambda 0.5: delta_2 = 3 + 0.5*4 - 2 = 3, delta_1 = 2 + 0.5*2 - 1 = 2,
    delta_0 = 1 + 0.5*1 - 0 = 1.5; A_2 = 3, A_1 = 2 + 0.25*3 = 2.75, A_0 = 1.5 + 0.25*2.75 = 2.1875."""
    advantage, target = advantages(
        rollout([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], following=4.0), 0.5, 0.5
    )
    np.testing.assert_allclose(advantage[:, 0], [2.1875, 2.75, 3.0])
    np.testing.assert_allclose(target[:, 0], [2.1875, 3.75, 5.0])


def test_a_time_limit_is_not_an_end() -> None:
    """Where the task ends nothing follows: A = r - V. Where time ends the value of what would have
    followed counts: A = r + gamma V' - V. Nothing of the next episode counts in either."""
    ended = {"ended": [False, True, False], "following": 100.0}
    over, _ = advantages(
        rollout([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], terminated=[False, True, False], **ended),
        0.5,
        0.5,
    )
    np.testing.assert_allclose(over[1:, 0], [1.0, 51.0])
    np.testing.assert_allclose(over[0, 0], 1.0 + 0.5 * 1.0 - 0.0 + 0.25 * 1.0)
    cut, _ = advantages(
        rollout([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], bootstrap=[0.0, 10.0, 0.0], **ended), 0.5, 0.5
    )
    np.testing.assert_allclose(cut[1, 0], 2.0 + 0.5 * 10.0 - 1.0)
    np.testing.assert_allclose(cut[2, 0], 51.0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 9), st.integers(0, 10_000))
def test_sequences_cover_every_step_once(steps: int, rows: int, longest: int, seed: int) -> None:
    """Every step is in exactly one sequence; none crosses an episode's end, holds what is no step, or is
    too long; each but the last of an episode's or row's stretch has the full length."""
    rng = np.random.default_rng(seed)
    ended, valid = rng.random((steps, rows)) < 0.15, rng.random((steps, rows)) < 0.95
    cut = sequences(ended, valid, longest)
    count = np.zeros((steps, rows), dtype=int)
    for row, start, length in zip(cut.row, cut.start, cut.length, strict=True):
        part = slice(start, start + length)
        count[part, row] += 1
        assert not ended[part, row][:-1].any()
        assert valid[part, row].all()
        assert not longest or length <= longest
        last = start + length - 1
        goes_on = last + 1 < steps and not ended[last, row] and valid[last + 1, row]
        assert not goes_on or length == longest
    np.testing.assert_array_equal(count, valid)
    if len(cut):
        pick = rng.permutation(len(cut))[:3]
        time, row, there = places(cut, pick, int(cut.length[pick].max()))
        np.testing.assert_array_equal(there.sum(axis=0), cut.length[pick])
        np.testing.assert_array_equal(time[0], cut.start[pick])
        np.testing.assert_array_equal(row, cut.row[pick])


def test_rewards_are_scaled_by_the_deviation_of_returns() -> None:
    """After many steps the discounted return of what is given has deviation 1; the state comes back."""
    rng = np.random.default_rng(0)
    scale = RewardScale(8, 0.9)
    none, every = np.zeros((64, 8), dtype=bool), np.ones((64, 8), dtype=bool)
    for _ in range(30):
        scale.scale(rng.normal(0.0, 5.0, (64, 8)).astype("f4"), none, every)
    none, every = np.zeros((900, 8), dtype=bool), np.ones((900, 8), dtype=bool)
    scaled = scale.scale(rng.normal(0.0, 5.0, (900, 8)).astype("f4"), none, every)
    returns = np.zeros(8)
    seen = []
    for t in range(900):
        returns = 0.9 * returns + scaled[t]
        seen.append(returns.copy())
    assert abs(np.std(seen[100:]) - 1.0) < 0.08
    none, every = none[:64], every[:64]
    other = RewardScale(8, 0.9)
    other.restore(scale.state())
    reward = rng.normal(size=(64, 8)).astype("f4")
    np.testing.assert_array_equal(
        scale.scale(reward, none, every), other.scale(reward, none, every)
    )
