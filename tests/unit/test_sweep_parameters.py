"""Parameters of a sweep: what is drawn lies where it may, and becomes the setting it stands for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memrl_ctrl.config import ConfigError
from memrl_ctrl.errors import MemrlError
from memrl_ctrl.training.sweep.parameters import Parameter, parameter_of
from memrl_ctrl.training.sweep.study import quiet

numbers = st.floats(1e-6, 1e6, allow_nan=False)


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    kind = draw(st.sampled_from(["choice", "uniform", "log-uniform", "integer", "quantised"]))
    if kind == "choice":
        item = (
            st.integers(-5, 5) | st.floats(0, 1) | st.text(max_size=3) | st.booleans() | st.none()
        )
        values = draw(
            st.lists(item | st.lists(st.integers(1, 64), max_size=2), min_size=1, max_size=5)
        )
        assume(len({repr(value) for value in values}) == len(values))
        return parameter_of("x", values)
    low, high = sorted((draw(numbers), draw(numbers)))
    group: dict[str, Any] = {"distribution": kind, "min": low, "max": high}
    if kind == "integer":
        group |= {
            "min": math.ceil(low),
            "max": math.ceil(high) + 1,
            "step": draw(st.integers(1, 9)),
        }
        group["log"] = draw(st.booleans())
    if kind == "quantised":
        group |= {"step": draw(st.floats(1e-3, 10.0)), "log": draw(st.booleans())}
    try:
        return parameter_of("x", group)
    except ConfigError:
        assume(False)
        raise


@given(parameters(), st.integers(0, 2**31))
def test_what_is_drawn_is_a_setting_that_can_be_drawn(parameter: Parameter, seed: int) -> None:
    """Every draw of Optuna's distribution gives a setting within the bounds, of the right kind, and that
    setting can be drawn again."""
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn = study.ask({"x": parameter.as_optuna()}).params["x"]
    setting = parameter.value(drawn)
    assert parameter.value(parameter.drawn_from(setting)) == setting
    if parameter.distribution == "choice":
        assert setting in parameter.values
        return
    low, high = parameter.extremes()
    assert low <= setting <= high
    assert parameter.low <= setting * (1 + 1e-9)
    assert setting <= parameter.high * (1 + 1e-9)
    assert isinstance(setting, int) == (parameter.distribution == "integer")
    if parameter.distribution == "quantised":
        assert math.isclose(setting / parameter.step, round(setting / parameter.step), rel_tol=1e-6)


@given(parameters(), st.integers(0, 2**31))
def test_random_settings_can_be_drawn_too(parameter: Parameter, seed: int) -> None:
    """What validity is tried with is nothing else than what a sampler can draw."""
    setting = parameter.random(np.random.default_rng(seed))
    assert parameter.value(parameter.drawn_from(setting)) == setting


@given(parameters())
def test_a_parameter_is_read_back_equal(parameter: Parameter) -> None:
    """A sweep folder's file says the same as the file that the sweep came from."""
    assert parameter_of("x", parameter.as_plain()) == parameter


def test_a_grid_is_everything_that_can_be_drawn() -> None:
    """Choices, integers and multiples in order; a real number has no grid, and the sentence says so."""
    assert parameter_of("x", [[8], [16, 16]]).grid() == ("[8]", "[16, 16]")
    assert parameter_of("x", [1, 2.5]).grid() == (1, 2.5)
    integer = {"distribution": "integer", "min": 1, "max": 8, "step": 3}
    assert parameter_of("x", integer).grid() == (1, 4, 7)
    quantised = {"distribution": "quantised", "min": 0.05, "max": 0.3, "step": 0.1}
    parameter = parameter_of("x", quantised)
    assert [parameter.value(one) for one in parameter.grid()] == [0.1, 0.2, 0.3]
    with pytest.raises(ConfigError, match="'x' is uniform 0 to 1; a grid needs choices"):
        parameter_of("x", {"distribution": "uniform", "min": 0, "max": 1}).grid()


def test_choices_that_python_takes_for_equal_stay_apart() -> None:
    """1 and true are two choices, and so are lists."""
    for values in ([1, True], [[1], [1.0]], [None, "null"]):
        parameter = parameter_of("x", values)
        settings = [parameter.value(label) for label in parameter.grid()]
        assert [(type(one), repr(one)) for one in settings] == [
            (type(one), repr(one)) for one in values
        ]


def test_words_say_what_can_be_drawn() -> None:
    """For the sentence that says what changed."""
    assert parameter_of("x", [8, "a"]).words() == 'one of 8, "a"'
    log = {"distribution": "log-uniform", "min": 1e-4, "max": 0.01}
    assert parameter_of("x", log).words() == "log-uniform 0.0001 to 0.01"
    steps = {"distribution": "quantised", "min": 1, "max": 9, "step": 2, "log": True}
    assert parameter_of("x", steps).words() == "quantised 1 to 9 in steps of 2, logarithmic"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (3, "is 3; expected a list of choices, or a group with distribution"),
        ({"min": 0}, "has no distribution; there is: choice, uniform"),
        ({"distribution": "normal"}, "no distribution of parameter 'x': 'normal'"),
        ({"distribution": "unifrom"}, "did you mean 'uniform'"),
        ({"distribution": "uniform", "min": 0}, "uniform needs max"),
        ({"distribution": "uniform", "min": 0, "max": 1, "q": 1}, "uniform has no key 'q'"),
        ({"distribution": "uniform", "min": 1, "max": 1}, "min 1 is not below max 1"),
        ({"distribution": "uniform", "min": "a", "max": 1}, "min is 'a'; expected a number"),
        ({"distribution": "uniform", "min": 0, "max": math.inf}, "max is inf; it must be finite"),
        ({"distribution": "log-uniform", "min": 0, "max": 1}, "logarithmic min must be above 0"),
        ({"distribution": "integer", "min": 0.5, "max": 3}, "min, max and step must be integers"),
        ({"distribution": "quantised", "min": 0, "max": 1}, "quantised needs step"),
        (
            {"distribution": "quantised", "min": 3, "max": 4, "step": 10},
            "no two multiples of 10 lie",
        ),
        (
            {"distribution": "integer", "min": 1, "max": 3, "log": 2},
            "log is 2; it is true or false",
        ),
        ({"distribution": "integer", "min": 1, "max": 3, "step": 0}, "step must be above 0, not 0"),
        ({"distribution": "choice"}, "choice needs `values`, a list"),
        ([], "has no values to choose from"),
        ([1, 2, 1], "has the value 1 twice"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(value: Any, sentence: str) -> None:
    """One sentence names the parameter, what is wrong, and what is allowed."""
    with pytest.raises(MemrlError) as caught:
        parameter_of("x", value)
    assert sentence in str(caught.value)
    assert "'x'" in str(caught.value)
