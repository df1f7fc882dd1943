"""What `replay --twin` says would have happened is what happens when the loop is closed on the same twin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.trace import TraceReader

from .machine_process import process

CYCLES, OFFSET_DEG, EMITTANCE_EVS = 40, 40.0, 1.2
MACHINE = (
    *("--period", "0", "--points", "8", "--slices", "128", "--quiet"),
    *("--offset-deg", str(OFFSET_DEG), "--emittance-evs", str(EMITTANCE_EVS)),
    *("--intensity", "1.5e12"),
)


def cli(folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "memrl_ctrl", *map(str, arguments)],
        env={**os.environ, "MEMRL_CTRL_STATE": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def asymmetry(trace: Path, *, written: bool) -> np.ndarray:
    """Mean |asymmetry| of each cycle, from the first on, or from the first that wrote."""
    with TraceReader(trace) as reader:
        first = np.flatnonzero(reader.array("target_cycle") >= 0)[0] if written else 0
        skew = np.abs(reader.array("measures/asymmetry")[first : first + CYCLES])
    assert skew.shape[0] == CYCLES
    return np.asarray(np.nanmean(skew, axis=1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same machine twice, known to nobody: once the policy looks on, once it leads."""
    folder = tmp_path_factory.mktemp("twice")
    policy = write_file(folder / "good.onnx", proportional_policy(n_slices=64, gain_rad=0.5))
    write_file(folder / "wrong.onnx", proportional_policy(n_slices=64, gain_rad=-0.5))
    engaging = ("--engage-after", 1, "--blend", 0)
    found = {}
    # Who looks on is not waited for. Who leads is, on a busy computer too: a cycle played meanwhile would
    # make the loop slower than the one that is simulated.
    for command, cycles, idle_s, options in (
        ("shadow", CYCLES, 0.05, ()),
        ("deploy", CYCLES + 10, 5.0, engaging),
    ):
        with process(folder, *MACHINE, "--idle", str(idle_s)) as machine:
            cli(
                folder, command, "--policy", policy, "--endpoint", machine.ready(), "--cycles",
                cycles, *options, "--record", folder / command, "--quiet",
            )  # fmt: skip
        (found[command],) = (folder / command).glob("*")
    return found


def counterfactual(trace: Path, *options: object) -> dict[str, Any]:
    out = trace / "counterfactual.json"
    cli(trace, "replay", trace, "--twin", "--cycles", CYCLES, "--json", out, *options)
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def test_the_interval_of_the_gain_covers_what_closing_the_loop_brings(
    runs: dict[str, Path],
) -> None:
    """From the shadow run alone: offset and bunch are found, and the gain is that of the closed loop."""
    looked, led = (
        asymmetry(runs["shadow"], written=False),
        asymmetry(runs["deploy"], written=True),
    )
    found = counterfactual(runs["shadow"])
    assert found["credible"]
    assert found["asymmetry_recorded"] == pytest.approx(looked.mean(), rel=1e-6)
    for fit in found["fits"]:
        # The function generator's slope and the voltages' errors make some degrees of offset.
        assert abs(np.degrees(fit["offset_rad"]) - OFFSET_DEG) < 10.0
        assert fit["emittance_evs"] == pytest.approx(EMITTANCE_EVS, rel=0.1)
    gain = looked.mean() - led.mean()
    assert gain > 0.15
    assert found["gain"]["low"] < gain < found["gain"]["high"]
    assert found["gain"]["high"] - found["gain"]["low"] < 0.15  # it does not cover everything


def test_a_policy_that_goes_the_other_way_is_told_by_the_bunch_that_it_makes(
    runs: dict[str, Path],
) -> None:
    """The other zero of the circle has as little asymmetry, but no longer bunch: bunching tells."""
    good = counterfactual(runs["shadow"])
    wrong = counterfactual(runs["shadow"], "--policy", runs["shadow"].parents[1] / "wrong.onnx")
    assert wrong["gain"]["value"] > 0.05
    assert good["bunching_gain"]["low"] > 0.02
    assert not good["shortens"]
    assert wrong["bunching_gain"]["high"] < 0.01
