"""Readings that do not come: where a run waits on, and where it ends."""

from __future__ import annotations

from pathlib import Path

import msgspec

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import Standstill
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, verify
from memrl_deploy.modes import Shadow
from memrl_deploy.runtime import Disengaged, Runtime

from .online_loop import Collect, Looker, N, Spy, closed_loop, policy


def silent_from(first: int, until: int = 10**9) -> Spy:
    """Return a machine from which no reading comes, from one time it is asked to another."""
    asked = 0

    class Silent(Spy):
        def observe(self, timeout_s: float | None = None) -> Reading:
            nonlocal asked
            asked += 1
            if first <= asked < until:
                raise Standstill("the machine is there, but plays no cycle")
            return super().observe(timeout_s)

    return Silent()


def test_three_silent_waits_end_the_run(tmp_path: Path) -> None:
    """Where the machine may be gone, where a time was given, and wherever the loop leads."""
    machine = FakeBackend(points=8, n_slices=N)
    gone = Shadow(Looker([machine.start()], machine))
    still = silent_from(2)
    still.start()
    for runtime in (
        Runtime(gone, policy(), records=tmp_path / "gone"),
        Runtime(Shadow(still), policy(), records=tmp_path / "still", timeout_s=1.0),
        closed_loop(silent_from(1), tmp_path / "led"),
    ):
        summary = runtime.run()
        assert summary.missed == {"timeout": 3}
        assert isinstance(summary.error, Disengaged)
        assert summary.cycles == 1


def test_shadow_waits_until_the_machine_plays_on(tmp_path: Path) -> None:
    """It has nothing to leave: told at the 1st, 2nd, 4th, ... time, and when it goes on; recorded twice."""
    view, machine = Collect(), silent_from(3, until=23)
    machine.start()
    summary = Runtime(Shadow(machine), policy(), records=tmp_path, cycles=5, view=view).run()
    assert summary.error is None
    assert summary.cycles == 5
    assert summary.missed == {"timeout": 20}
    told = [note for note in view.notes if note.startswith("timeout: ")]
    assert len(told) == 5
    assert "plays no cycle; waiting on (told again after twice the time)" in told[0]
    assert "the machine plays again, after 20 times no reading" in view.notes
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        texts = [msgspec.json.decode(text) for text in trace.array("events_json")]
    waited = [(k, e) for k, events in enumerate(texts) for e in events if e["kind"] != "begun"]
    assert [(k, e["kind"]) for k, e in waited] == [(2, "timeout"), (2, "waited")]
    assert waited[1][1]["timeouts"] == 20


def test_a_signal_ends_a_shadow_that_waits(tmp_path: Path) -> None:
    """However long the machine stands still."""

    class Stops(Collect):
        def note(self, text: str) -> None:
            super().note(text)
            if len(self.notes) == 6:
                runtime.stop("stopped by SIGTERM")

    machine = silent_from(2)
    machine.start()
    runtime = Runtime(Shadow(machine), policy(), records=tmp_path, view=Stops())
    summary = runtime.run()
    assert (summary.error, summary.reason) == (None, "stopped by SIGTERM")
    assert summary.cycles == 1
    assert summary.trace is not None
    assert verify(summary.trace).whole
