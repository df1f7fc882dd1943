"""What is sampled is what was stored: for any lengths of episodes, any ring size, any history."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.agents.batch import Batch
from memrl_ctrl.agents.priorities import PrioritySettings
from memrl_ctrl.agents.replay import Replay

COLUMNS = 3


def record(
    capacity: int,
    calls: int,
    seed: int,
    *,
    priorities: PrioritySettings | None = None,
    n_state: int = 0,
) -> Replay:
    """Store episodes of random lengths; observations hold (column, episode, step), and the action
    applied before step t is t, so that any mix-up shows."""
    rng = np.random.default_rng(seed)
    replay = Replay(
        capacity=capacity, columns=COLUMNS, n_observation=3, n_action=1, n_truth=1,
        n_state=n_state, priorities=priorities,
    )  # fmt: skip
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
            state=np.stack((episode, step), axis=1) if n_state else None,
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


def drawable_rows(replay: Replay, history: int) -> set[tuple[int, int]]:
    """Rows that can be drawn, from the definition: followed by a row of the same episode, with their
    history still there."""
    found = set()
    for column in range(COLUMNS):
        written = int(replay.written[column])
        oldest = max(written - replay.rows, 0)
        for row in range(oldest, written - 1):
            at = row % replay.rows
            whole = row - oldest >= min(int(replay.age[column, at]), history)
            if whole and not replay.tail[column, at]:
                found.add((column, at))
    return found


@settings(max_examples=80, deadline=None)
@given(ring, calls, seeds, st.integers(0, 7), st.booleans())
def test_priorities_stand_at_what_can_be_drawn(
    rows: int, calls: int, seed: int, history: int, separate: bool
) -> None:
    """A row has a priority exactly while it can be drawn, whatever the ring overwrites; what is drawn
    by priority is what was stored."""
    wanted = PrioritySettings(of="rows", history=history, separate=separate)
    replay = record(rows * COLUMNS, calls, seed, priorities=wanted)
    assert replay.priorities is not None
    listed = {(int(c), int(r)) for c, r in np.argwhere(replay.priorities.tree.leaves > 0.0)}
    assert listed == drawable_rows(replay, history)
    assert replay.priorities.count == len(listed)
    if not listed:
        return
    rng = np.random.default_rng(seed)
    batch = replay.sample_windows(64, history, rng, beta=0.5)
    check(batch)
    assert batch.drawn is not None
    error = 10.0 * rng.random(64)
    replay.update_priorities(batch.drawn, error)
    where = batch.drawn.column[-1], batch.drawn.row[-1]
    expected = (error[-1] + wanted.epsilon) ** wanted.alpha
    assert replay.priorities.tree.leaves[where] == pytest.approx(expected, rel=1e-12)
    if history:
        check(replay.sample_parts(16, 3, history, rng))


@settings(max_examples=80, deadline=None)
@given(ring, calls, seeds)
def test_priorities_of_whole_episodes(rows: int, calls: int, seed: int) -> None:
    """An episode has a priority from its end until the ring overwrites its start."""
    wanted = PrioritySettings(of="episodes")
    replay = record(rows * COLUMNS, calls, seed, priorities=wanted)
    assert replay.priorities is not None
    whole = set()
    for column in range(COLUMNS):
        written = int(replay.written[column])
        oldest = max(written - replay.rows, 0)
        for row in range(oldest, written):
            at = row % replay.rows
            if replay.tail[column, at] and row - replay.age[column, at] >= oldest:
                whole.add((column, row))
    places = np.flatnonzero(replay.priorities.tree.leaves[0] > 0.0)
    assert {(int(c), int(r)) for c, r in replay._tails[places]} == whole
    assert replay.priorities.count == len(whole)
    if whole:
        check(replay.sample_sequences(16, np.random.default_rng(seed), beta=1.0))


@settings(max_examples=80, deadline=None)
@given(ring, calls, seeds, st.integers(1, 6), st.integers(0, 5))
def test_parts_carry_the_memory_of_their_first_row(
    rows: int, calls: int, seed: int, length: int, burn_in: int
) -> None:
    """A part is a stretch of one episode; its decisions begin behind the burn-in, or at the start of
    the episode, and its state is what the policy's memory was at its first row."""
    replay = record(rows * COLUMNS, calls, seed, n_state=2)
    if burn_in + length >= replay.rows:
        return
    try:
        batch = replay.sample_parts(64, length, burn_in, np.random.default_rng(seed))
    except ValueError:
        return  # nothing is stored yet
    check(batch)
    assert batch.sequence is not None
    assert batch.sequence.state is not None
    first = batch.sequence.observation[0].numpy()
    np.testing.assert_array_equal(batch.sequence.state.numpy(), first[:, 1:])
    step = batch.sequence.observation[:-1, :, 2].numpy()
    valid = batch.valid.numpy() > 0
    assert valid.any(axis=0).all()
    begins_late = first[:, 2] > 0
    assert (valid.argmax(axis=0)[begins_late] == burn_in).all()
    # No decision that was stored is left out between the first and the last.
    count = valid.sum(axis=0)
    span = np.where(valid, step, -1).max(axis=0) - np.where(valid, step, 1e9).min(axis=0)
    np.testing.assert_array_equal(span + 1, count)


@settings(max_examples=30, deadline=None)
@given(ring, calls, seeds, st.sampled_from(["rows", "episodes"]))
def test_a_prioritised_buffer_comes_back(
    rows: int, calls: int, seed: int, of: Literal["rows", "episodes"]
) -> None:
    """A restored buffer draws what the saved one would have drawn."""
    wanted = PrioritySettings(of=of, history=2)
    first = record(rows * COLUMNS, calls, seed, priorities=wanted)
    second = Replay(
        capacity=rows * COLUMNS, columns=COLUMNS, n_observation=3, n_action=1, n_truth=1,
        priorities=wanted,
    )  # fmt: skip
    second.restore(first.state())
    assert first.priorities is not None
    if not first.priorities.count:
        return
    batches = [
        replay.sample_windows(8, 2, np.random.default_rng(1), beta=0.4)
        if of == "rows"
        else replay.sample_sequences(8, np.random.default_rng(1), beta=0.4)
        for replay in (first, second)
    ]
    for name in ("observation", "reward", "weight"):
        np.testing.assert_array_equal(getattr(batches[0], name), getattr(batches[1], name))
    plain = Replay(capacity=rows * COLUMNS, columns=COLUMNS, n_observation=3, n_action=1, n_truth=1)
    with pytest.raises(ValueError, match="priorities"):
        plain.restore(first.state())


def test_a_million_beam_transitions_fit() -> None:
    """One million transitions of 128 slices take less than 1.2 GB, with priorities and the stored
    memory of an LSTM of 128 units."""
    replay = Replay(
        capacity=1_000_000, columns=8, n_observation=129, n_action=1, n_truth=2, n_state=256,
        priorities=PrioritySettings(of="rows", history=5),
    )  # fmt: skip
    assert replay.nbytes < 1.2e9
