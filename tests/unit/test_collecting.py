"""Python's garbage collector has no say in when the loop decides."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import Standstill
from memrl_deploy import collecting
from memrl_deploy.collecting import EVERY_CYCLES, Collector
from memrl_deploy.modes import Shadow
from memrl_deploy.runtime import Runtime
from memrl_deploy.summary import CycleView

from .online_loop import Collect, Looker, Spy, closed_loop, policy


class Knot:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


class Tying(Collect):
    """A view that leaves such garbage in every cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.knots: list[weakref.ref[Knot]] = []

    def cycle(self, view: CycleView) -> None:
        self.knots.append(weakref.ref(Knot()))


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_is_set_free_again() -> None:
    """Behind the block it is as it was, whatever ended it."""

    def broken() -> None:
        with Collector():
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 0
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_others_have_set_up_stays() -> None:
    """Whoever froze or disabled it before finds it so."""
    gc.disable()
    gc.freeze()
    with Collector():
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_a_block_within_a_block_leaves_it_to_the_outer_one() -> None:
    """Two runs in one process: the first to end does not begin collections in the other."""
    with Collector():
        with Collector():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()


def test_garbage_goes_between_cycles() -> None:
    """What was made since is found after so many cycles, not before."""
    with Collector() as collector:
        knot = weakref.ref(Knot())
        for _ in range(EVERY_CYCLES - 1):
            collector.between_cycles()
        assert knot() is not None
        collector.between_cycles()
        assert knot() is None


def test_a_run_collects_between_its_cycles_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever garbage a cycle leaves, no collection falls into a decision, and nothing piles up."""
    monkeypatch.setattr(collecting, "EVERY_CYCLES", 5)
    deciding = False
    seen: list[bool] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        del info
        if phase == "start":
            seen.append(deciding)

    runtime = closed_loop(Spy(), tmp_path, cycles=22, view=(view := Tying()))
    decide = runtime._decide

    def watched(*arguments: Any) -> None:
        nonlocal deciding
        deciding = True
        decide(*arguments)
        deciding = False

    monkeypatch.setattr(runtime, "_decide", watched)
    threshold = gc.get_threshold()
    gc.set_threshold(10, 2, 2)  # as after hours: a collection is due in every cycle
    gc.callbacks.append(note)
    try:
        runtime.run()
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*threshold)
    assert not any(seen)
    assert seen.count(False) >= 22 // 5
    assert [knot() is None for knot in view.knots[:20]] == [True] * 20
    assert gc.isenabled()


def test_garbage_goes_while_the_machine_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shadow waits for days, and a scrape of the metrics may leave garbage all the same."""
    monkeypatch.setattr(collecting, "EVERY_CYCLES", 5)
    machine = Spy()
    first = machine.start()
    knots: list[weakref.ref[Knot]] = []

    class Standing(Looker):
        """Gives a reading, then none for long, then another."""

        def observe(self, timeout_s: float | None = None) -> Reading:
            if 0 < len(knots) < 12:
                knots.append(weakref.ref(Knot()))
                raise Standstill("the machine stands still")
            knots.append(weakref.ref(Knot()))
            return super().observe(timeout_s)

    source = Standing([first, machine.observe()], machine)
    summary = Runtime(Shadow(source), policy(), records=tmp_path, cycles=2).run()
    assert summary.cycles == 2
    assert summary.missed["timeout"] == 11
    assert all(knot() is None for knot in knots[:8])
