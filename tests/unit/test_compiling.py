"""Compiled functions where no compiled code can be kept, as in a read-only installation."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_A_FOLDER = """
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []  # as where no folder can be written to
import numpy as np
from memrl_ctrl.metrics import measure
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.profile_sums import ProfileSums
from memrl_ctrl.trace.packing import warm_up
profile = np.maximum(0.0, np.cos(np.linspace(-3.0, 3.0, 64)))[None].astype(np.float32)
warm_up()
print(beam_observation(profile, np.zeros(1), 32).shape[1])
print(ProfileSums.of(profile).finite[0], measure(profile).peak[0] > 0.5)
"""


def test_nothing_has_to_be_kept() -> None:
    """Whatever a reading goes through is compiled anew then, and works."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_FOLDER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["33", "True", "True"]
