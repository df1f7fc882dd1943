"""Benchmarks: what is written, and that a missing rival is said and not guessed."""

import json

import numpy as np
import pytest
from rich.console import Console

from memrl_ctrl import registry
from memrl_ctrl.beam import matched_profiles
from memrl_ctrl.bench import kernel
from memrl_ctrl.bench.report import describe_machine, publish
from memrl_ctrl.errors import FileError, MissingExtraError


def test_report_prints_a_table_and_writes_the_same_as_json(tmp_path):
    """Rows, figures, notes, machine and versions reach the file; the table reaches the console."""
    path = tmp_path / "figures.json"
    console = Console(record=True, width=100)
    publish(
        name="x",
        columns=("what", "value"),
        rows=[{"what": "one", "value": 1234.5}, {"what": "two"}],
        figures={"value": 1234.5, "not measured": float("nan")},
        json_path=path,
        notes=["measured once"],
        console=console,
    )
    text = console.export_text()
    assert "1,234" in text
    assert "measured once" in text
    written = json.loads(path.read_text())
    assert written["figures"] == {"value": 1234.5, "not measured": None}
    assert written["rows"][0]["what"] == "one"
    assert written["machine"]["versions"]["numpy"] == np.__version__


def test_report_that_cannot_be_written_is_one_sentence(tmp_path):
    """A place where no file can be made: which file, and why."""
    (tmp_path / "no").touch()
    with pytest.raises(FileError, match="cannot be written"):
        publish(
            name="x",
            columns=("what",),
            rows=[],
            figures={},
            json_path=tmp_path / "no" / "x.json",
            console=Console(quiet=True),
        )


def test_machine_is_described_with_processor_and_cores():
    """Processor, cores and Python are there."""
    machine = describe_machine()
    assert machine["cpu"]
    assert machine["cores"] >= 1


def test_kernel_benchmark_without_blond_gives_its_own_figures(monkeypatch, capsys):
    """Where BLonD is absent the ratios are left out, and the note says why."""

    def absent(*_):
        raise MissingExtraError("BLonD's matching", "BLonD", "blond")

    monkeypatch.setattr(registry, "load", absent)
    monkeypatch.setattr(kernel, "BATCH", 32)
    result = kernel.run(repetitions=1)
    assert result["figures"]["profiles_per_s"] > 0.0
    assert result["figures"]["profiles_per_s_zero_intensity"] > 0.0
    for name in ("noise_us_128", "monitor_us_128", "noise_us_1000", "monitor_us_1000"):
        assert result["figures"][name] > 0.0
    assert "ratio_to_blond_1_iteration" not in result["figures"]
    assert "BLonD was not measured" in result["notes"][1]
    assert "kernel" in capsys.readouterr().out


def test_mixed_conditions_cover_what_they_say_and_converge():
    """Intensity to 1e13, phi2 round the circle, and nearly all have a fixed point."""
    conditions = kernel.mixed_conditions(512)
    assert conditions.intensity.max() > 0.95e13
    assert np.ptp(conditions.phi2_rad) > 0.98 * 2.0 * np.pi
    assert matched_profiles(conditions, 64).converged.mean() > 0.99
