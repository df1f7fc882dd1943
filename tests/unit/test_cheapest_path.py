"""The cheapest way through a row of choices, against all ways there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from memrl_ctrl.cheapest_path import cheapest_path


def price(places: np.ndarray, cost: np.ndarray, path: tuple[int, ...]) -> float:
    """Return what a path costs, as it is defined."""
    steps = np.arange(len(path))
    chosen = places[steps, path]
    return float(cost[steps, path].sum() + np.abs(np.diff(chosen)).sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("steps", "choices"), [(1, 4), (2, 3), (5, 4), (7, 2)])
def test_no_way_is_cheaper(seed: int, steps: int, choices: int) -> None:
    """Of all paths there are, the one with the least sum of costs and distances."""
    rng = np.random.default_rng(seed)
    places, cost = rng.normal(size=(2, steps, choices))
    every = list(itertools.product(range(choices), repeat=steps))
    best = min(every, key=lambda path: price(places, cost, path))
    assert tuple(cheapest_path(places, cost).tolist()) == best


def test_of_equally_cheap_choices_the_first_is_taken() -> None:
    """The same answer every time, however many there are."""
    assert cheapest_path(np.zeros((4, 3)), np.zeros((4, 3))).tolist() == [0, 0, 0, 0]
    level = np.zeros((2, 3))
    assert cheapest_path(level, np.array([[1.0, 0.0, 0.0], [2.0, 2.0, 1.0]])).tolist() == [1, 2]


def test_a_far_place_is_worth_its_cost_only_if_it_is_cheap_enough() -> None:
    """Distance is paid there and back."""
    places = np.array([[0.0, 5.0]] * 3)
    cost = np.zeros((3, 2))
    cost[[0, 2], 1] = 20.0
    cost[1] = [9.9, 0.0]
    assert cheapest_path(places, cost).tolist() == [0, 0, 0]
    cost[1] = [10.1, 0.0]
    assert cheapest_path(places, cost).tolist() == [0, 1, 0]


def test_arrays_of_any_layout_are_taken() -> None:
    """Views and transposed arrays as well, and nothing in them is changed."""
    rng = np.random.default_rng(3)
    places, cost = rng.normal(size=(2, 6, 5))
    expected = cheapest_path(places, cost)
    kept = cost.copy()
    np.testing.assert_array_equal(cheapest_path(np.asfortranarray(places), cost[:, ::1]), expected)
    np.testing.assert_array_equal(cost, kept)
