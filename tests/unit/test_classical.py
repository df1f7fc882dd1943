"""The classical rung of the fallback: a registered controller leads, is recorded, and replays to the bit."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.controllers import drive
from memrl_ctrl.errors import MismatchError, UnknownNameError, UsageError
from memrl_ctrl.registry import open_backend
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import CycleRecord, TraceReader
from memrl_deploy.classical import FALLBACK_KEY, ClassicalController, described, make_classical
from memrl_deploy.cli import FallbackOptions
from memrl_deploy.fallback import FallbackConfig
from memrl_deploy.guard import GuardConfig
from memrl_deploy.replaying import GUARD_KEY, ReplayResult, replay_trace
from memrl_deploy.summary import RunSummary

from .online_loop import Collect, Spy, closed_loop

SLICES = 128
CONFIG = FallbackConfig(hold_cycles=2, recover_cycles=1, classical_cycles=6, restore_cycles=20)
WRONG_FROM = 4
"""Cycle from which the readback lies."""


GUARD = GuardConfig(drift_rad=0.05)
"""So near that the policy soon wants beyond: trouble of the policy, of which no reading is doubted."""


def as_it_is(reading: Reading) -> Reading:
    return reading


def lies(reading: Reading) -> Reading:
    wrong = 2.0 if reading.cycle > WRONG_FROM else 0.0
    return replace(reading, readback_rad=reading.applied_rad + wrong)


def descend(
    records: Path,
    name: str,
    *,
    view: Collect | None = None,
    digest: str | None = None,
    alter: Callable[[Reading], Reading] = as_it_is,
    guard: GuardConfig = GUARD,
) -> tuple[RunSummary, Spy]:
    """Run into trouble that stays, with this controller on the ladder."""
    backend = Spy(n_slices=SLICES, offset_rad=0.8, noise=0.01, alter=alter)
    classical = ClassicalController(drive(name), backend.description)
    settings = described(CONFIG, classical)
    if digest is not None:
        settings["controller_sha256"] = digest
    runtime = closed_loop(
        backend,
        records,
        cycles=24,
        fallback=CONFIG,
        classical=classical,
        view=view or Collect(),
        guard=guard,
        configuration={FALLBACK_KEY: settings, GUARD_KEY: asdict(guard)},
    )
    return runtime.run(), backend


def led_in(trace: TraceReader) -> list[CycleRecord]:
    """Return the cycles in which the controller led."""
    return [
        record
        for record in trace
        if any(event.get("rung") == "classical" for event in record.events)
    ]


def replayed(summary: RunSummary, **options: Any) -> ReplayResult:
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        return replay_trace(trace, **options)


@pytest.mark.parametrize("name", ["asymmetry-pi", "extremum-seeking", "network-kalman"])
def test_a_controller_leads_on_its_rung_and_replays(name: str, tmp_path: Path) -> None:
    """Between holding and restoring it moves the machine within the limits; a replay gives the bits."""
    summary, backend = descend(tmp_path, name)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        rungs = [event["rung"] for record in trace for event in record.events if "rung" in event]
        led = led_in(trace)
    assert rungs[:9] == ["hold"] * 2 + ["classical"] * 6 + ["restore"]
    limits, ctime = backend.description.limits, backend.description.ctime_ms
    moves = []
    for record in led:
        assert record.written_rad is not None
        limits.check(record.written_rad, record.reading.applied_rad, ctime)
        moves.append(np.abs(record.written_rad - record.reading.applied_rad).max())
    assert max(moves) > 0.01
    result = replayed(summary)
    assert result.identical
    assert (result.fallback_cycles, result.unknown_fallback) == (6, 0)
    middle = replayed(summary, from_cycle=led[3].cycle)
    assert middle.identical
    assert middle.fallback_cycles == 3


def test_a_controller_moves_nothing_by_what_the_guard_doubts(tmp_path: Path) -> None:
    """A readback that lies at every point: what it would do is not known, so that the rung only holds."""
    summary, _ = descend(tmp_path, "asymmetry-pi", alter=lies, guard=GuardConfig())
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        led = led_in(trace)
        assert len(led) == CONFIG.classical_cycles
        for record in led:
            np.testing.assert_array_equal(record.written_rad, record.reading.applied_rad)
    assert replayed(summary).identical


@pytest.mark.parametrize("name", ["asymmetry-pi", "network-kalman"])
def test_a_controller_is_not_led_by_a_reading_that_comes_again(name: str, tmp_path: Path) -> None:
    """What the guard knows for frozen is shown to the rung's controller as little as to the policy."""
    kept: list[np.ndarray] = []

    def stands_still(reading: Reading) -> Reading:
        kept.append(reading.profile)
        return replace(reading, profile=kept[min(len(kept), WRONG_FROM) - 1])

    summary, _ = descend(tmp_path, name, alter=stands_still, guard=GuardConfig())
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        led = led_in(trace)
        where = np.array([record.reading.applied_rad for record in trace])
    assert len(led) == CONFIG.classical_cycles
    for record in led:
        np.testing.assert_array_equal(record.written_rad, record.reading.applied_rad)
    assert np.abs(where[WRONG_FROM] - where[0]).max() > 0.1  # it was on its way when it came again
    np.testing.assert_allclose(where[-1], where[0], atol=np.radians(0.1))
    result = replayed(summary)
    assert result.identical
    assert result.fallback_cycles == CONFIG.classical_cycles


def test_a_changed_function_of_the_rung_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record whose function is not what the controller leads to is no identical replay."""
    summary, _ = descend(tmp_path, "asymmetry-pi")
    real = TraceReader.record

    def changed(self: TraceReader, index: int) -> CycleRecord:
        record = real(self, index)
        if any(event.get("rung") == "classical" for event in record.events):
            assert record.written_rad is not None
            return replace(record, written_rad=np.nextafter(record.written_rad, np.inf))
        return record

    monkeypatch.setattr(TraceReader, "record", changed)
    monkeypatch.setattr(
        TraceReader, "__iter__", lambda self: (self.record(index) for index in range(len(self)))
    )
    result = replayed(summary)
    assert not result.identical
    assert result.different_fallback == 6


def test_a_controller_that_is_tuned_otherwise_is_labelled(tmp_path: Path) -> None:
    """Its cycles are counted as not asked again, not as the same."""
    summary, _ = descend(tmp_path, "asymmetry-pi", digest="0" * 64)
    result = replayed(summary)
    assert (result.fallback_cycles, result.unknown_fallback) == (6, 6)


def test_a_cycle_of_the_rung_that_is_not_recorded_leaves_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the disk full while the controller leads, what is recorded still replays to the bit."""
    view, real = Collect(), os.writev

    def full(file: int, parts: Any) -> int:
        if sum(one.mode == "fallback" for one in view.cycles) in (4, 5):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", full)
    summary, _ = descend(tmp_path, "extremum-seeking", view=view)
    assert summary.missed["unrecorded"] == 2
    result = replayed(summary)
    assert result.identical
    assert result.fallback_cycles == 4


def test_the_rung_is_left_out_where_the_default_does_not_fit() -> None:
    """A machine of few slices goes without and says so; a controller that was named is refused."""
    machine = FakeBackend(points=4, n_slices=64).description
    controller, said = make_classical(None, machine)
    assert controller is None
    assert "goes without a classical controller" in said
    with pytest.raises(MismatchError, match="measures only 64"):
        make_classical("asymmetry-pi", machine)
    with pytest.raises(UnknownNameError, match="did you mean"):
        make_classical("asymetry-pi", machine)


def test_holding_too_short_to_recover_is_one_sentence() -> None:
    """The option and what is allowed are named; two cycles are enough."""
    with pytest.raises(UsageError, match="--hold-cycles must be 2 or more, not 1"):
        FallbackOptions(hold_cycles=1).config()
    assert FallbackOptions(hold_cycles=2).config().recover_cycles == 1


def test_a_controller_with_a_model_is_told_of_the_machine_or_refused() -> None:
    """`fit` needs the program: with it the rung decides, without it is refused before anything runs."""
    with pytest.raises(MismatchError, match=r"'fit' (needs the cycle program|works with a model)"):
        make_classical("fit", FakeBackend(points=2, n_slices=128).description)
    machine = open_backend("blond", program="psb-2gev", points=2, n_slices=128, seed=3)
    reading = machine.start()
    controller, _ = make_classical("fit", machine.description)
    assert controller is not None
    controller.begin()
    assert np.abs(controller.propose(reading, np.ones(2, dtype=np.bool_))).max() > 0.0
