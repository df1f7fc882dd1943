"""The import of a real export, where it is at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.program import load_program

EXPORT = Path(__file__).resolve().parents[3] / "shared" / "data" / "psb_isolde"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from memrl_ctrl.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not EXPORT.is_dir(), reason=f"no operational export at {EXPORT}")
def test_a_real_cycle_imports_checks_and_plots(tmp_path: Path) -> None:
    """An operational 1.4 GeV cycle goes through import, check and plot as it comes."""
    out = tmp_path / "isolde.yaml"
    done = run("program", "import", str(EXPORT), "--out", str(out))
    assert done.returncode == 0, done.stderr
    done = run("program", "check", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("machine psb can play isolde")
    done = run("program", "plot", str(out), "--out", str(tmp_path / "isolde.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "isolde.png").stat().st_size > 10_000

    points = load_program(out).at()
    assert len(points) == 30
    assert points.b_field_t[-1] == pytest.approx(0.8627, abs=1e-6)  # 1.4 GeV
    assert points.b_dot_t_per_s.max() == pytest.approx(1.934, abs=0.01)
    assert np.degrees(points.synchronous_phase_rad.max()) < 20.0
    assert points.v1_v.max() == pytest.approx(10046.58, abs=0.01)


@pytest.mark.skipif(not EXPORT.is_dir(), reason=f"no operational export at {EXPORT}")
def test_an_older_version_of_a_real_function(tmp_path: Path) -> None:
    """The dated pair of the phase function is taken when its date is given."""
    out = tmp_path / "old.yaml"
    done = run("program", "import", str(EXPORT), "--out", str(out), "--version", "30-11-2024")
    assert done.returncode == 0, done.stderr
    assert load_program(out).phi_hw_deg.at([277.0, 805.0]).tolist() == [-88.0, -90.4]
