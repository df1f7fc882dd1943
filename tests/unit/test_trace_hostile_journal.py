"""What stands in a journal's documents is what they have to be, or the record that holds it is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import CycleRecord, JournalWriter, codec, recover, verify


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[3]", "null", '[{"a":1}]'])
def test_events_that_are_none_cost_their_cycle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Lists in lists without end among them: the cycle is lost, and located, and no other."""

    def written(events: Sequence[Any]) -> str:
        return text if events else "[]"

    header = sample_header()
    with (
        monkeypatch.context() as patch,
        JournalWriter(tmp_path / "trace.journal", header) as journal,
    ):
        patch.setattr(codec, "_events_json", written)
        for cycle in range(100, 106):
            events = ({"kind": "operator"},) if cycle == 102 else ()
            journal.append(dataclasses.replace(sample_cycle(header, cycle), events=events))
    report = verify(tmp_path)
    (place,) = report.damage
    assert (report.cycles, place.after_cycle) == (5, 101)
    assert "the record cannot be read: " in place.text
    assert recover(tmp_path).report.cycles == 5


def test_a_header_of_other_documents_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that is a list is no configuration: whoever reads a header can rely on that."""
    with monkeypatch.context() as patch:
        patch.setattr(codec, "json_text", lambda value: "[]")
        with JournalWriter(tmp_path / "trace.journal", sample_header()):
            pass
    with pytest.raises(TraceError, match="the journal's header is lost"):
        verify(tmp_path)


def test_an_action_is_one_number_a_point() -> None:
    """A record whose action has no number, or two, is refused before it is written."""
    record = sample_cycle(sample_header(), 100)
    assert record.policy is not None
    for width in (0, 2):
        policy = dataclasses.replace(record.policy, action=np.zeros((3, width), dtype=np.float32))
        with pytest.raises(ValueError, match="action has shape"):
            CycleRecord(
                reading=record.reading,
                mode=record.mode,
                policy=policy,
                verdicts=record.verdicts,
                proposed_rad=record.proposed_rad,
            )
