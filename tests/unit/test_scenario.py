"""Scenario files: what they say is what is played, and what is wrong in one is one sentence with its line."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from memrl_backends.blond import open_backend as open_blond
from memrl_backends.twin import KINDS, available, load_scenario, open_backend
from memrl_backends.twin.faults import FrozenProfile, OffsetJump, Operator
from memrl_backends.twin.scenario import SECTIONS, dump
from memrl_ctrl.cli import main
from memrl_ctrl.errors import FileError, MemrlError, UnknownNameError
from memrl_ctrl.registry import open_backend as open_registered

NOT_OF_A_SCENARIO = {
    "machine",  # a scenario is of a program; unrelated conditions are training's
    "rows",
    "along_cycle",
    "seed",  # stands at the top of the file
    "turns",  # of unrelated conditions
    "require_reference",
    "distinct",
    "slew_share",  # a machine cuts by its limits; unrelated conditions have none
    "slew_deg",
    "hold_chance",
    "other_chance",
    "other_deg",
    "one_bunch",  # of unrelated conditions of a program
    "flat_share",  # of a machine's operating range
    "offset_kinds",  # drawn anew for training; a scenario says what its offset does
    "threads",  # how it is computed, not what
}


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text("kind: scenario\n" + text)
    return path


def test_every_option_of_the_simulation_has_one_place():
    """The sections hold every option of the simulation once, under its own name."""
    listed = [name for section in SECTIONS.values() for name in section]
    assert len(listed) == len(set(listed))
    options = set(inspect.signature(open_blond).parameters)
    assert set(listed) == options - NOT_OF_A_SCENARIO


@pytest.mark.parametrize("name", list(available()))
def test_shipped_scenarios_can_be_played(name):
    """Each has a description, opens, plays, and says of itself what was read."""
    scenario = load_scenario(name)
    assert len(scenario.description) > 20
    backend = open_backend(scenario=name, n_slices=64, seed=1)
    assert np.isfinite(backend.start().applied_rad).all()
    assert backend.observe().cycle == 2
    assert yaml.safe_load(dump(scenario))["kind"] == "scenario"


def test_the_rough_day_has_every_fault():
    """The example that shows everything shows everything."""
    assert {fault.kind for fault in load_scenario("rough-day").faults} == set(KINDS)


def test_what_a_file_says_is_what_is_opened(tmp_path):
    """Options and faults arrive as they are written, units as in their names."""
    path = written(
        tmp_path,
        """
description: two
  lines
seed: 11
machine: {program: psb-2gev, points: 4, n_slices: 64, fidelity: matched}
timing: {period_s: 0.9, reading_at_s: 0.5}
beam: {intensity: 1e12, filling: [0.6, 0.7], emittance_scatter: 0.01, intensity_effects: false}
rf: {offset_deg: 33, v2_error: [-0.01, 0.02], settling_ms: 2}
measurement: {noise: 0.03, monitor: {preset: wcm, bits: 8, gain: [0.9, 1.1]}}
faults:
  - {fault: offset_jump, at_cycle: [4, 9], offset_deg: -20, for_cycles: 2}
  - {fault: frozen_profile, probability: 0.5, points: [0, 2], flagged: true}
""",
    )
    scenario = load_scenario(path)
    assert (scenario.description, scenario.seed) == ("two lines", 11)
    assert (scenario.period_s, scenario.reading_at_s) == (0.9, 0.5)
    assert scenario.options == {
        "program": "psb-2gev", "points": 4, "n_slices": 64, "fidelity": "matched",
        "intensity": 1e12, "filling": [0.6, 0.7], "emittance_scatter": 0.01,
        "intensity_effects": False, "offset_deg": 33.0, "v2_error": [-0.01, 0.02],
        "settling_ms": 2.0, "noise": 0.03,
        "monitor": {"preset": "wcm", "bits": 8, "gain": [0.9, 1.1]},
    }  # fmt: skip
    assert scenario.faults == (
        OffsetJump(at_cycle=(4, 9), offset_deg=-20.0, for_cycles=2),
        FrozenProfile(probability=0.5, points=(0, 2), flagged=True),
    )
    backend = open_backend(scenario=path)
    reading = backend.start()
    assert reading.profile.shape == (4, 64)
    assert reading.truth.intensity == pytest.approx(1e12)
    assert np.degrees(reading.truth.offset_rad).mean() == pytest.approx(33.0, abs=2.0)


def test_options_win_over_the_scenario(tmp_path):
    """What is given beside a scenario replaces its own."""
    path = written(tmp_path, "machine: {points: 3, n_slices: 64}\nrf: {offset_deg: 10}\nseed: 1\n")
    backend = open_backend(scenario=path, offset_deg=-50.0, points=2)
    truth = backend.start().truth
    assert np.allclose(truth.offset_rad, math.radians(-50.0))
    assert truth.offset_rad.size == 2


def test_the_same_scenario_and_seed_are_the_same_machine():
    """Opened twice: identical readings, faults included; the seed may come from the file."""

    def run() -> list[np.ndarray]:
        backend = open_backend(scenario="rough-day", n_slices=64, points=8)
        return [backend.start().profile, *(backend.observe().profile for _ in range(40))]

    for a, b in zip(run(), run(), strict=True):
        assert np.array_equal(a, b, equal_nan=True)


def test_rows_leave_out_what_belongs_to_a_cycle(tmp_path):
    """The same scenario trains on unrelated conditions."""
    path = written(tmp_path, "machine: {points: 3, n_slices: 64}\nrf: {settling_cycles: 0.5}\n")
    backend = open_backend(scenario=path, rows=6, seed=1)
    assert backend.description.points == 6
    assert backend.description.ctime_ms is None
    backend.start()


def test_a_scenario_builds_on_another(tmp_path):
    """`like` begins with another scenario; what stands below it changes or adds."""
    written(
        tmp_path, "rf: {offset_deg: 5, v1_error: 0.01}\nfaults: [{fault: operator, at_cycle: 3}]\n",
        "base.yaml",
    )  # fmt: skip
    path = written(
        tmp_path,
        "like: ./base.yaml\nrf: {offset_deg: 7}\nfaults: [{fault: offset_jump, at_cycle: 2}]\n",
    )
    scenario = load_scenario(path)
    assert scenario.options == {"offset_deg": 7.0, "v1_error": 0.01}
    assert scenario.faults == (Operator(at_cycle=(3,)), OffsetJump(at_cycle=(2,)))
    assert load_scenario("rough-day").options == load_scenario("psb").options
    written(tmp_path, "like: ./mine.yaml\n", "base.yaml")
    with pytest.raises(
        FileError, match=r"base.yaml, line 2: like: '\./mine.yaml' builds on this file"
    ):
        load_scenario(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beem: {}", r"line 2: beem: is no field here; allowed: .*; did you mean 'beam'\?"),
        ("rf:\n  ofset_deg: 3", r"line 3: rf.ofset_deg: is no field here; .*did you mean 'offset_deg'"),
        ("rf: {offset_deg: much}", r"line 2: rf.offset_deg: expected a number, not 'much'"),
        ("beam: [1]", "line 2: beam: expected 'field: value' lines below it"),
        ("faults: 3", "line 2: faults: expected a list"),
        ("faults: [{fault: dead_pickip, at_cycle: 1}]", "did you mean 'dead_pickup'"),
        ("faults:\n  - {fault: operator, at_cycle: 3, change: 4}", r"line 3: .*did you mean 'change_deg'"),
        ("faults: [{at_cycle: 3}]", r"line 2: faults\[0\]: field faults\[0\].fault is missing"),
        ("faults: [{fault: operator}]", r"line 2: faults\[0\]: operator: give either at_cycle or a"),
        ("faults: [{fault: operator, at_cycle: 0}]", "at_cycle counts from 1"),
        ("faults: [{fault: operator, at_cycle: 1.5}]", "expected a whole number"),
        ("faults: [{fault: frozen_profile, at_cycle: 2, flagged: 1}]", "allowed: true, false"),
        ("faults: [{fault: nan_profile, at_cycle: 2, share: 2}]", "share must be above 0, to 1, not 2"),
        ("timing: {reading_at_s: 0.4}", r"timing.reading_at_s: needs period_s above 0 beside it"),
        ("timing: {period_s: 1, reading_at_s: 2}", "2 is not allowed; it must be at most 1"),
        ("seed: -1", "seed: expected a whole number from 0 to 4294967295"),
        ("like: psbb", "like: no scenario 'psbb'; .*did you mean 'psb'"),
        ("rf: {offset_deg: 1, offset_deg: 2}", "rf.offset_deg: stands twice; keep one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, said):
    """Which file, line and field, what is allowed, and what was meant."""
    with pytest.raises(FileError, match=said) as error:
        load_scenario(written(tmp_path, text))
    assert "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beam: {intensity: 1e17}", r"intensity must be 0 to 1e\+15 protons, not 1e\+17"),
        (
            "beam: {intensity_scatter: 0.9}",
            "intensity_scatter must be 0 to 0.3 of the drawn value, not",
        ),
        ("rf: {v1_error: 0.9}", "v1_error must be -0.5 to 0.5 of the programmed voltage, not 0.9"),
        ("rf: {settling_ms: -1}", "settling_ms must be 0 to 1000 ms, not -1"),
        ("measurement: {monitor: {bitz: 3}}", "did you mean 'bits'"),
        ("measurement: {monitor: wcn}", "no monitor 'wcn'"),
        ("machine: {fidelity: matchd}", "did you mean 'matched'"),
        ("faults: [{fault: operator, at_cycle: 2, points: [40]}]", "is at point 40; there are 30"),
        ("faults: [{fault: missing_reading, at_cycle: 1}]", "a run begins with its first reading"),
    ],
)
def test_what_the_simulation_refuses_is_said_of_the_file(tmp_path, text, said):
    """A value that is no machine's is refused when the scenario is opened, with the file."""
    with pytest.raises(FileError, match=said) as error:
        open_backend(scenario=written(tmp_path, text))
    assert "mine.yaml" in str(error.value)


def test_other_backends_take_faults_but_no_physics(tmp_path):
    """A scenario of faults goes around any backend; options are those of the simulation."""
    path = written(tmp_path, "beam: {intensity: 1e12}\n")
    with pytest.raises(MemrlError, match="no option of backend 'replay': 'intensity'"):
        open_backend(scenario=path, backend="replay", trace="nowhere")
    with pytest.raises(FileError, match="along_cycle does not simulate the low-level RF"):
        open_backend(scenario="two-hands", rows=2, along_cycle=True)
    with pytest.raises(
        UnknownNameError, match=r"no scenario 'rough-dax'.*did you mean 'rough-day'"
    ):
        open_registered("twin", scenario="rough-dax")


def test_the_commands_list_show_and_check(tmp_path, capsys):
    """`memrl-ctrl scenario`: every shipped one by name; a file as it was read; one that is wrong."""
    assert main(["scenario", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in available())
    path = written(tmp_path, "faults: [{fault: operator, at_cycle: 3, change_deg: 4}]\n")
    assert main(["scenario", "show", str(path)]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["faults"] == [{"fault": "operator", "at_cycle": [3], "change_deg": 4.0}]
    assert main(["scenario", "check", str(path)]) == 0
    assert "psb-2gev, 30 points x 1000 slices, 1 fault" in capsys.readouterr().out
    wrong = written(tmp_path, "rf: {ofset_deg: 3}")
    assert main(["scenario", "check", str(wrong)]) == 3
    errors = capsys.readouterr().err
    assert "did you mean 'offset_deg'" in errors
    assert len(errors.splitlines()) == 1


def test_a_shown_scenario_is_one(tmp_path, capsys):
    """What `show` prints can be saved and played."""
    assert main(["scenario", "show", "rough-day"]) == 0
    path = tmp_path / "copy.yaml"
    path.write_text(capsys.readouterr().out)
    copy, original = load_scenario(path), load_scenario("rough-day")
    assert copy.faults == original.faults
    assert (copy.options, copy.seed, copy.period_s) == (original.options, 7, 1.2)
