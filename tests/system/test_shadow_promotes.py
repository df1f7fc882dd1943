"""From shadow beside operators who keep moving to PROMOTE, HOLD or REJECT, all by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import yaml

from memrl_ctrl.metrics import asymmetry
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.statistics import measure_statistics
from memrl_ctrl.policy.write import finish, proportional_policy, write_file
from memrl_ctrl.registry import open_backend
from memrl_deploy.report.thresholds import load_thresholds
from tests.system.machine_process import process

POINTS, SLICES, SEED = 8, 64, 5
MACHINE = {"program": "psb-2gev", "points": POINTS, "n_slices": SLICES}
BEAM = {"intensity": 1.5e12, "filling": 0.6}
OFFSET_DEG, JUMP_DEG, MOVE_DEG, NOISE = 30.0, 24.0, 4.0, 0.005
ARRIVING, DELAY, HALF = 30, 3, 60
"""Cycles in which the operators come to the optimum; that pass before they see a jump; between two jumps."""
CYCLES = 420
DECLARED = """
min_cycles: 300
max_refused_rate: 0.02
max_unanswered_rate: 0.02
max_late_rate: 1.0              # a computer that runs tests is no control system
max_unseen_rate: 0.9
max_decision_p99_ms: 60000.0
"""


def cli(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "memrl_ctrl", *map(str, arguments)],
        env={**os.environ, "MEMRL_CTRL_STATE": str(folder), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    """Wait for its end, which has to be a good one."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def campaign(folder: Path) -> Path:
    """Write a scenario: the offset jumps to and fro, and operators follow it point by point."""
    backend = open_backend(
        "twin", scenario="psb", seed=SEED, **MACHINE, **BEAM, offset_deg=OFFSET_DEG, period_s=0.0
    )
    reading = backend.start()
    assert reading.truth is not None
    goal = np.degrees(reading.truth.reference_rad) + OFFSET_DEG
    way = (goal - np.degrees(reading.applied_rad)) / ARRIVING
    backend.close()
    assert np.isfinite(way).all()
    moves: list[dict[str, Any]] = [
        {"at_cycle": 3, "for_cycles": ARRIVING, "points": point, "change_deg": float(way[point])}
        for point in range(POINTS)
    ]
    jump, size = ARRIVING + 20, int(JUMP_DEG / MOVE_DEG)
    for begins, change in ((jump, MOVE_DEG), (jump + HALF, -MOVE_DEG)):
        moves.append({
            "at_cycle": begins + DELAY, "every_cycles": 2 * HALF, "for_cycles": size,
            "change_deg": change,
        })  # fmt: skip
    jumps = {
        "fault": "offset_jump", "at_cycle": jump, "every_cycles": 2 * HALF, "for_cycles": HALF,
        "offset_deg": JUMP_DEG,
    }  # fmt: skip
    scenario = {
        "kind": "scenario",
        "description": "An offset that jumps, and operators who follow it.",
        "like": "psb",
        "seed": SEED,
        "machine": MACHINE,
        "beam": BEAM,
        "rf": {"offset_deg": OFFSET_DEG},
        "measurement": {"noise": NOISE},
        "faults": [*({"fault": "operator", **move} for move in moves), jumps],
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(scenario, sort_keys=False))
    return path


def policies(folder: Path) -> tuple[Path, Path]:
    """Write a policy that goes to where the bunch is symmetric, and one that goes away from it."""
    backend = open_backend(
        "blond", **MACHINE, **BEAM, offset_deg=OFFSET_DEG, seed=SEED, noise=NOISE
    )
    backend.start()
    truth = backend.play(np.zeros(POINTS)).truth
    assert truth is not None
    goal = truth.reference_rad + np.radians(OFFSET_DEG)
    seen, away, skew = [], [], []
    for shift in -0.6 + 1.4 * np.sin(0.3 * np.arange(400)):  # no step is too large
        reading = backend.play(goal + shift)
        seen.append(beam_observation(reading.profile, reading.synchronous_phase_rad, SLICES))
        if abs(shift) < 0.4:
            away.append(np.full(POINTS, shift))
            skew.append(asymmetry(reading.profile))
    backend.close()
    statistics = measure_statistics(np.concatenate(seen))
    gain = -float(np.polyfit(np.concatenate(skew), np.concatenate(away), 1)[0])
    files = []
    for name, factor in (("good", 0.4), ("wrong", -0.4)):
        data = proportional_policy(n_slices=SLICES, gain_rad=factor * gain, name=name)
        manifest = msgspec.structs.replace(OnnxPolicy.load(data).manifest, statistics=statistics)
        told = finish(onnx.load_from_string(data), manifest)[0]
        files.append(write_file(folder / f"{name}.onnx", told))
    return files[0], files[1]


@contextmanager
def operated(folder: Path) -> Iterator[str]:
    """Run the twin with its operators; it plays on while nobody controls it."""
    options = ("--scenario", str(campaign(folder)), "--slices", str(SLICES), "--period", "0.04")
    with process(folder, *options, "--quiet") as machine:
        yield machine.ready()


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The campaign: both policies beside the same operators at once."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "declared.yaml").write_text(DECLARED)
    good, wrong = policies(folder)
    with operated(folder) as endpoint:
        runs = {
            name: cli(
                folder, "shadow", "--policy", policy, "--endpoint", endpoint, "--record",
                folder / name, "--cycles", CYCLES, "--quiet",
            )
            for name, policy in (("good", good), ("wrong", wrong))
        }  # fmt: skip
        for run in runs.values():
            said(run)
    return {name: next((folder / name).glob("*-shadow")) for name in runs}


def reported(trace: Path, *options: object) -> tuple[dict[str, Any], str, str]:
    """Return the numbers of a report, what the command said, and the page."""
    out = trace / "report.html"
    text = said(cli(trace, "report", trace, "--no-twin", "--out", out, *options))
    return json.loads(out.with_suffix(".json").read_text()), text, out.read_text()


def test_a_policy_that_leads_the_operators_is_promoted(traces: dict[str, Path]) -> None:
    """Thresholds declared before the run, all of them measured and met: PROMOTE."""
    trace = traces["good"]
    values, text, html = reported(trace, "--thresholds", trace.parents[1] / "declared.yaml")
    assert values["verdict"] == "PROMOTE", values["reasons"]
    assert {one["state"] for one in values["findings"]} == {"met"}
    assert text.startswith("PROMOTE\n- all 13 limits are met")
    # the operators did move, all through the run, and the policy was first
    moves = values["operators_moves"]
    assert moves["moves"] > 3 * POINTS * JUMP_DEG / MOVE_DEG
    assert moves["same_sign"]["value"] > 0.8
    assert moves["lead_cycles_median"] >= DELAY
    assert values["asymmetry"]["excess"]["high"] < 0.0
    assert 'class="verdict PROMOTE"' in html
    assert "declared.yaml" in html


def test_a_policy_that_leads_away_is_rejected(traces: dict[str, Path]) -> None:
    """Beside the same operators: broken limits REJECT, and the reasons name them."""
    trace = traces["wrong"]
    values, text, _ = reported(trace, "--thresholds", trace.parents[1] / "declared.yaml")
    assert values["verdict"] == "REJECT"
    assert text.startswith("REJECT\n")
    assert "operators' moves in the recommended direction" in values["reasons"][0]
    broken = {one["name"] for one in values["findings"] if one["state"] == "broken"}
    assert "min_sign_agreement" in broken


def test_without_thresholds_those_of_the_release_hold_a_run_that_is_too_short(
    traces: dict[str, Path],
) -> None:
    """The shipped file is used and named; what 420 cycles cannot show stays open: HOLD."""
    values, text, html = reported(traces["good"])
    shipped = load_thresholds(None)
    assert values["thresholds"]["sha256"] == shipped.sha256
    assert values["thresholds"]["thresholds"]["min_cycles"] == 3000
    for place in (text, html):
        assert f"the defaults of memrl-ctrl {shipped.release} (thresholds.yaml" in place
    states = {one["name"]: one["state"] for one in values["findings"]}
    assert (states["min_cycles"], states["max_refused_rate"]) == ("open", "open")
    # how fast the computer that runs tests is, is no matter of this test
    slow = "broken" in (states["max_decision_p99_ms"], states["max_late_rate"])
    assert values["verdict"] == ("REJECT" if slow else "HOLD")
    assert not any("beforehand" in reason for reason in values["reasons"])
