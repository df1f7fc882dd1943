"""`memrl-ctrl bench information`: what readings tell, against normal errors and against the fits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.bench.beam.information import quantile_deg, share_within
from memrl_ctrl.cli import main


def test_the_quantile_of_a_mixture_is_that_of_what_is_drawn_from_it() -> None:
    """Of one deviation it is the normal distribution's; of several that of their errors together."""
    assert quantile_deg(np.full(7, 2.0), 0.5) == pytest.approx(2.0 * 0.67449, rel=1e-4)
    sigma = np.array([0.1, 0.3, 0.4, 5.0])
    drawn = np.abs(np.random.default_rng(1).standard_normal((200_000, 4)) * sigma)
    for share in (0.5, 0.95):
        assert quantile_deg(sigma, share) == pytest.approx(np.quantile(drawn, share), rel=0.02)
    assert share_within(sigma) == pytest.approx(np.mean(drawn <= 2.0), abs=0.002)


def test_readings_tell_more_together_and_less_with_more_noise(tmp_path: Path) -> None:
    """By the square root of their number; 5 % noise tells less than 2 %; fits are as wrong as is said."""
    out = tmp_path / "information.json"
    words = ["bench", "information", "--conditions", "still", "noise-5", "--episodes", "24"]
    assert main([*words, "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures["still.points"] > 16
    one, four = (figures[f"still.{count}.median_deg"] for count in (1, 4))
    assert four == pytest.approx(0.5 * one, rel=1e-6)
    assert figures["noise-5.1.median_deg"] > 1.5 * one
    assert 0.3 * one < figures["still.fit_median_deg"] < 3.0 * one


def test_conditions_whose_readings_are_not_as_known_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The model would be another than what is read."""
    assert main(["bench", "information", "--conditions", "correlated"]) == 2
    assert "take one such as still" in capsys.readouterr().err
