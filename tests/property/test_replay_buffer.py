"""What is sampled is what was stored: for any lengths of episodes, any ring size, any history."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.agents.replay import Batch, Replay

COLUMNS = 3


def record(capacity: int, calls: int, seed: int) -> Replay:
    """Store episodes of random lengths; observations hold (column, episode, step), and the action
    applied before step t is t, so that any mix-up shows."""
    rng = np.random.default_rng(seed)
    replay = Replay(capacity=capacity, columns=COLUMNS, n_observation=3, n_action=1, n_truth=1)
    episode, step = np.zeros(COLUMNS), np.zeros(COLUMNS)

    def seen() -> dict[str, np.ndarray]:
        rows = np.stack((np.arange(COLUMNS), episode, step), axis=1).astype("f4")
        return {
            "observation": rows,
            "previous": step[:, None].astype("f4"),
            "truth": (100 * episode + step)[:, None].astype("f4"),
        }

    for _ in range(calls):
        acts = rng.random(COLUMNS) < 0.8
        ends = acts & (rng.random(COLUMNS) < 0.25)
        replay.add(
            acts,
            **seen(),
            action=(step[:, None] + 0.5).astype("f4"),
            reward=(1000 * episode + step).astype("f4"),
            terminated=ends & (episode % 2 == 0),
        )
        step += acts
        replay.close(ends, **seen())
        episode += ends
        step[ends] = 0.0
    return replay


def check(batch: Batch) -> None:
    """Every decision belongs to one episode, and what follows it is the next step of that one."""
    valid = batch.valid.numpy().ravel() > 0
    now = batch.observation.numpy().reshape(-1, 3)[valid]
    after = batch.next_observation.numpy().reshape(-1, 3)[valid]
    _, episode, step = now.T
    np.testing.assert_array_equal(after, now + np.array([0, 0, 1]))
    np.testing.assert_array_equal(batch.action.numpy().ravel()[valid], step + 0.5)
    np.testing.assert_array_equal(batch.reward.numpy().ravel()[valid], 1000 * episode + step)
    np.testing.assert_array_equal(batch.truth.numpy().ravel()[valid], 100 * episode + step)
    np.testing.assert_array_equal(batch.next_truth.numpy().ravel()[valid], 100 * episode + step + 1)
    ended = batch.terminated.numpy().ravel()[valid] > 0
    assert not ended[episode % 2 == 1].any()


ring = st.integers(8, 60)
calls = st.integers(5, 120)
seeds = st.integers(0, 10_000)


@settings(max_examples=60, deadline=None)
@given(ring, calls, seeds, st.integers(0, 7))
def test_windows_stay_in_their_episode(rows: int, calls: int, seed: int, length: int) -> None:
    """A history holds the steps just before the decision, never another episode's, and is as long
    as acting had it: min(steps since the start, length), whatever the ring has overwritten."""
    replay = record(rows * COLUMNS, calls, seed)
    try:
        batch = replay.sample_windows(64, length, np.random.default_rng(seed))
    except ValueError:
        return  # nothing whole is stored yet
    check(batch)
    if length == 0:
        assert batch.window is None
        return
    for window, current in (
        (batch.window, batch.observation),
        (batch.next_window, batch.next_observation),
    ):
        assert window is not None
        column, episode, step = current.numpy().T
        count = window.count.numpy()
        np.testing.assert_array_equal(count, np.minimum(step, length))
        place = np.arange(length)[:, None]
        there = place < count
        expected = step - count + place
        history = window.observation.numpy()
        np.testing.assert_array_equal(history[..., 2][there], expected[there])
        np.testing.assert_array_equal(
            history[..., 1][there], np.broadcast_to(episode, there.shape)[there]
        )
        np.testing.assert_array_equal(
            history[..., 0][there], np.broadcast_to(column, there.shape)[there]
        )
        # The action that was applied after a step is what the next step saw as applied before it.
        np.testing.assert_array_equal(window.action.numpy()[..., 0][there], expected[there] + 1)


@settings(max_examples=60, deadline=None)
@given(ring, calls, seeds)
def test_sequences_are_whole_episodes(rows: int, calls: int, seed: int) -> None:
    """An episode is drawn from its first step to its last, with its final observation, or not."""
    replay = record(rows * COLUMNS, calls, seed)
    try:
        batch = replay.sample_sequences(32, np.random.default_rng(seed))
    except ValueError:
        return
    check(batch)
    assert batch.sequence is not None
    steps = batch.valid.numpy().sum(0)
    offset = np.arange(len(batch.sequence.observation))[:, None]
    np.testing.assert_array_equal(
        batch.sequence.observation.numpy()[..., 2], np.minimum(offset, steps)
    )
    np.testing.assert_array_equal(
        batch.sequence.previous.numpy()[..., 0], np.minimum(offset, steps)
    )


def test_every_stored_decision_is_drawn_equally_often() -> None:
    """Sampling is uniform over decisions, and reaches the oldest and the newest."""
    replay = record(3 * 30, 200, 1)
    drawn = replay.sample_windows(60_000, 0, np.random.default_rng(2))
    keys, counts = np.unique(drawn.observation.numpy(), axis=0, return_counts=True)
    expected = 60_000 / len(keys)
    assert len(keys) > 40
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_breaking_off_joins_no_episodes() -> None:
    """After a break a new episode begins; no decision leads from the old one into it."""
    replay = Replay(capacity=40, columns=1, n_observation=1, n_action=1)
    everyone, zero = np.ones(1, dtype=bool), np.zeros((1, 1), dtype="f4")
    for part in (0.0, 100.0):
        for t in range(4):
            replay.add(
                everyone,
                observation=np.full((1, 1), part + t, dtype="f4"),
                previous=zero,
                action=zero,
                reward=np.zeros(1),
                terminated=np.zeros(1, dtype=bool),
            )
        replay.break_off()
    batch = replay.sample_windows(500, 3, np.random.default_rng(0))
    assert set((batch.next_observation - batch.observation).ravel().tolist()) == {1.0}
    assert set(batch.observation.ravel().tolist()) == {0.0, 1.0, 2.0, 100.0, 101.0, 102.0}


def test_state_and_restore() -> None:
    """A restored buffer gives the same samples."""
    replay = record(90, 80, 3)
    other = Replay(capacity=90, columns=COLUMNS, n_observation=3, n_action=1, n_truth=1)
    other.restore({name: array.copy() for name, array in replay.state().items()})
    a, b = (one.sample_sequences(20, np.random.default_rng(0)) for one in (replay, other))
    assert np.array_equal(a.observation.numpy(), b.observation.numpy())
