"""Episodes that choose among conditions whose reference was found once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memrl_backends.blond import open_backend
from memrl_ctrl.errors import UsageError
from memrl_ctrl.metrics import asymmetry

RANGES: dict[str, Any] = {"machine": "psb", "n_slices": 64, "filling": (0.3, 0.9)}


def references(rows: int, seed: int, **options: Any) -> tuple[list[float], list[float]]:
    """References and offsets of two episodes."""
    with_bank = open_backend(rows=rows, **RANGES, **options)
    found, offsets = [], []
    for episode in range(2):
        truth = with_bank.start(seed=seed + episode).truth
        assert truth is not None
        found += truth.reference_rad.tolist()
        offsets += truth.offset_rad.tolist()
    return found, offsets


def test_episodes_choose_among_so_many() -> None:
    """Two episodes of 40 rows meet the same seven conditions, with an offset of each one's own."""
    found, offsets = references(40, 0, distinct=7)
    assert len(set(found)) == 7
    assert len(set(offsets)) == 80
    assert len(set(references(40, 0)[0])) == 80


def test_every_process_has_the_same() -> None:
    """Neither the number of rows nor the seed changes what is chosen among."""
    assert set(references(40, 0, distinct=7)[0]) == set(references(64, 5, distinct=7)[0])


def test_the_conditions_belong_to_their_reference() -> None:
    """At its reference phase each condition's profile is symmetric: nothing was mixed up."""
    backend = open_backend(
        rows=30, distinct=5, monitor="ideal", noise=0.0, offset_deg=0.0, **RANGES
    )
    truth = backend.start(seed=1).truth
    assert truth is not None
    limits = backend.description.limits
    for _ in range(4):
        held = backend.held_rad
        allowed = limits.restrict(truth.reference_rad, held, None).phi_hw_rad
        reading = backend.play(allowed)
    assert reading.truth is not None
    assert np.abs(reading.truth.phase_error_rad).max() < 1e-9
    assert np.abs(asymmetry(reading.profile)).max() < 1e-2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 4, "machine": "psb", "distinct": -1}, "must be 0 to 1,000,000"),
        ({"program": "psb-2gev", "distinct": 5}, "for unrelated conditions"),
        ({"program": "psb-2gev", "rows": 4, "along_cycle": True, "distinct": 5}, "for unrelated"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    """One sentence each."""
    with pytest.raises(UsageError, match=said):
        open_backend(**options)
