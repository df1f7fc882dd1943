"""`memrl-ctrl bench loop`: what it says of a short run, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memrl_ctrl.cli import main


def test_a_short_run_gives_all_figures_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sent comes before answered, percentiles rise, every cycle is recorded in its size."""
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "loop", "--cycles", "120", "--folder", "here", "--json", "out.json"]) == 0
    figures = json.loads(Path("out.json").read_text())["figures"]
    assert figures["cycles"] == 120
    for prefix in ("", "answered_"):
        rising = [figures[f"{prefix}{name}_ms"] for name in ("p50", "p99", "p999", "max")]
        assert 0.0 < rising[0] < rising[1] <= rising[2] <= rising[3]
    assert figures["p50_ms"] < figures["answered_p50_ms"]
    assert figures["answered_ratio_to_floors_median"] > figures["ratio_to_floors_median"] > 1.0
    # The policy stands in the trace of each of the four short segments.
    assert 20_000 < figures["journal_bytes_per_cycle"] < 100_000
    assert figures["rss_mb_per_100k_cycles"] is None  # one sample: too few to say
    said = capsys.readouterr().out
    assert "120 of 120 cycles" in said
    assert "section answer" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "out.json"]
    assert not list(Path("here").iterdir())
