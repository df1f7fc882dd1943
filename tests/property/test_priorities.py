"""Prioritised sampling draws as it says: proportional to priority^alpha, with exact weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memrl_ctrl.agents.priorities import Priorities, PriorityTree

shapes = st.tuples(st.integers(1, 5), st.integers(1, 37))
leaves = shapes.flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)))
)


def tree_of(values: np.ndarray) -> PriorityTree:
    tree = PriorityTree(columns=values.shape[0], rows=values.shape[1])
    column, row = np.indices(values.shape).reshape(2, -1)
    tree.set(column, row, values.ravel())
    return tree


@settings(max_examples=100, deadline=None)
@given(leaves)
def test_every_node_is_the_sum_of_its_children(values: np.ndarray) -> None:
    """Whatever the shape, each node is exactly the sum of its two children, and nothing is lost."""
    tree = tree_of(values)
    inner = np.arange(1, tree.nodes.size // 2)
    np.testing.assert_array_equal(
        tree.nodes[inner], tree.nodes[2 * inner] + tree.nodes[2 * inner + 1]
    )
    np.testing.assert_array_equal(tree.leaves, values)
    np.testing.assert_allclose(tree.column_totals, values.sum(axis=1), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(leaves, st.integers(0, 2**31), st.booleans())
def test_draws_are_stratified_and_never_empty(
    values: np.ndarray, seed: int, separate: bool
) -> None:
    """Nothing of priority 0 is drawn; the stated probability is the leaf's share; drawn together,
    each leaf comes within one draw of its share."""
    tree = tree_of(values)
    if not values.any():
        with pytest.raises(ValueError, match="nothing that could be sampled"):
            tree.draw(4, np.random.default_rng(seed))
        return
    size = 400
    drawn = tree.draw(size, np.random.default_rng(seed), separate=separate)
    value = values[drawn.column, drawn.row]
    assert (value > 0.0).all()
    if separate:
        filled = np.flatnonzero(values.any(axis=1))
        share = value / values.sum(axis=1)[drawn.column] / filled.size
        counts = np.bincount(drawn.column, minlength=values.shape[0])[filled]
        assert np.ptp(counts) <= 1
    else:
        share = value / values.sum()
        counts = np.zeros(values.shape)
        np.add.at(counts, (drawn.column, drawn.row), 1)
        assert np.abs(counts - size * values / values.sum()).max() <= 2.0 + 1e-6
    np.testing.assert_allclose(drawn.probability, share, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.lists(
        st.tuples(st.sampled_from(["admit", "remove", "update"]), st.integers(0, 23)),
        min_size=1,
        max_size=60,
    ),
)
def test_priorities_follow_their_history(
    alpha: float, beta: float, history: list[tuple[str, int]]
) -> None:
    """After any admissions, removals and updates, leaves are priority^alpha of a plain dictionary,
    the count is right, and weights are (N P)^-beta over the largest."""
    priorities = Priorities(columns=3, rows=8, alpha=alpha, epsilon=0.01)
    plain: dict[int, float] = {}
    largest = 1.0
    for step, (what, place) in enumerate(history):
        column, row = np.array([place // 8]), np.array([place % 8])
        if what == "admit":
            priorities.admit(column, row)
            plain[place] = largest
        elif what == "remove":
            priorities.remove(column, row)
            plain.pop(place, None)
        else:
            error = 0.3 * step
            priorities.update(column, row, np.array([-error]))
            if place in plain:
                plain[place] = error + 0.01
                largest = max(largest, plain[place])
    expected = np.zeros(24)
    for place, priority in plain.items():
        expected[place] = priority**alpha
    np.testing.assert_allclose(priorities.tree.leaves.ravel(), expected, rtol=1e-12)
    assert priorities.count == len(plain)
    if not plain:
        return
    drawn = priorities.draw(32, np.random.default_rng(0))
    weight = priorities.weights(drawn.probability, beta)
    raw = (len(plain) * expected[drawn.column * 8 + drawn.row] / expected.sum()) ** -beta
    np.testing.assert_allclose(weight, raw / raw.max(), rtol=1e-9)


def test_a_leaf_named_twice_counts_once() -> None:
    """Updates of one batch may name a row several times: the last error holds, the count stays."""
    priorities = Priorities(columns=1, rows=4, alpha=1.0, epsilon=0.0)
    priorities.admit(np.array([0, 0, 0]), np.array([1, 1, 2]))
    assert priorities.count == 2
    priorities.update(np.array([0, 0]), np.array([1, 1]), np.array([5.0, 3.0]))
    np.testing.assert_array_equal(priorities.tree.leaves, [[0.0, 3.0, 1.0, 0.0]])
    priorities.remove(np.array([0, 0]), np.array([2, 2]))
    assert priorities.count == 1


def test_new_rows_get_the_largest_priority_seen() -> None:
    """What is admitted after a large error is drawn as often as that one was."""
    priorities = Priorities(columns=1, rows=3, alpha=0.5, epsilon=0.0)
    priorities.admit(np.array([0]), np.array([0]))
    priorities.update(np.array([0]), np.array([0]), np.array([16.0]))
    priorities.update(np.array([0]), np.array([0]), np.array([1.0]))
    priorities.admit(np.array([0]), np.array([2]))
    np.testing.assert_array_equal(priorities.tree.leaves, [[1.0, 0.0, 4.0]])


def test_the_state_comes_back() -> None:
    """A restored tree draws the same rows; another shape is refused."""
    rng = np.random.default_rng(3)
    first = Priorities(columns=2, rows=10, alpha=0.6, epsilon=1e-6)
    column, row = np.indices((2, 10)).reshape(2, -1)
    first.admit(column, row)
    first.update(column, row, rng.random(20))
    second = Priorities(columns=2, rows=10, alpha=0.6, epsilon=1e-6)
    second.restore(first.state())
    one, other = (p.draw(64, np.random.default_rng(1)) for p in (first, second))
    np.testing.assert_array_equal(one.row, other.row)
    np.testing.assert_array_equal(one.probability, other.probability)
    assert (second.count, second.largest) == (first.count, first.largest)
    with pytest.raises(ValueError, match="shape"):
        Priorities(columns=2, rows=9, alpha=0.6, epsilon=1e-6).restore(first.state())
