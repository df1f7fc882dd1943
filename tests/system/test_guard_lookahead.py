"""The look-ahead in the running loop: a policy that walks away, the process that fits, the replay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl import registry
from memrl_ctrl.backend import BoolArray, Reading
from memrl_ctrl.beam import matched_profiles
from memrl_ctrl.cli import main
from memrl_ctrl.errors import MismatchError, TraceError, UnknownNameError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.program import load_program
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, Verdict
from memrl_deploy.fallback import FallbackConfig
from memrl_deploy.foreseeing import Foresight, Task, foresee, make_foresight, outlook_in
from memrl_deploy.guard import GuardConfig, Outlook
from memrl_deploy.guard.decision import Stage
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Runtime
from memrl_deploy.summary import RunSummary

PROGRAM = "psb-2gev"
POINTS = 8
CTIME = np.linspace(285.0, 805.0, POINTS)
EVS, INTENSITY, OFFSET_DEG = 2.1, 8e12, 40.0
WAIT_S = 120.0
AWAY = proportional_policy(n_slices=128, gain_rad=-0.6)
"""Positive feedback: from everywhere it leads to the side where the bucket is smallest."""


class AtOnce(Foresight):
    """Fits in this process, every fourth cycle: when a fit is there does not depend on the processor."""

    def __init__(self) -> None:
        self._program = load_program(PROGRAM)
        self._event: dict[str, Any] | None = None
        self.ended = False

    def ask(self, reading: Reading, usable: BoolArray) -> None:
        task = Task.of(reading, usable)
        if reading.cycle % 4 == 1 and task is not None:
            self._event = foresee(task, self._program, CTIME)

    def news(self) -> dict[str, Any] | None:
        event, self._event = self._event, None
        return event

    def close(self) -> None:
        pass


def machine() -> Any:
    return registry.open_backend(
        "blond",
        program=PROGRAM,
        points=POINTS,
        n_slices=256,
        emittance_evs=EVS,
        intensity=INTENSITY,
        offset_deg=OFFSET_DEG,
        seed=3,
    )


def run(folder: Path, foresight: Foresight | None) -> RunSummary:
    """The policy that walks away, in closed loop; a hard excess hands over soon."""
    runtime = Runtime(
        ClosedLoop(machine()),
        OnnxPolicy.load(AWAY),
        records=folder,
        cycles=24,
        guard=GuardConfig(),
        fallback=FallbackConfig(hold_cycles=3),
        foresight=foresight,
    )
    return runtime.run()


def least_held(trace: TraceReader) -> float:
    """Return the smallest share of the bunch that a bucket held in any cycle, by the kernel and the truth."""
    program = load_program(PROGRAM)
    shares = []
    for record in trace:
        conditions = program.at(CTIME).conditions(
            program.machine.ring,
            phi2_rad=record.reading.applied_rad - np.radians(OFFSET_DEG),
            emittance_evs=EVS,
            intensity=INTENSITY,
        )
        effects = program.machine.intensity_effects
        matched = matched_profiles(conditions, 64, intensity_effects=effects)
        shares.append(matched.captured_fraction.min())
    return float(min(shares))


def test_a_policy_that_walks_away_does_not_lose_the_beam(tmp_path: Path) -> None:
    """Without the stage a third of the bunch is lost early in the cycle; with it, that stage stops it.

    The run with it is replayed to the bit, from the start and from the middle, and its fits stand in the
    trace.
    """
    blind, seeing = run(tmp_path / "blind", None), run(tmp_path / "seeing", AtOnce())
    assert blind.trace is not None
    assert seeing.trace is not None
    with TraceReader(blind.trace) as trace:
        assert least_held(trace) < 0.67
        verdicts = np.stack([record.verdicts for record in trace])
        assert (verdicts[:, :, Stage.LOOK_AHEAD] == Verdict.NOT_RUN).all()
    with TraceReader(seeing.trace) as trace:
        assert least_held(trace) > 0.77
        verdicts = np.stack([record.verdicts for record in trace])
        others = np.delete(verdicts, Stage.LOOK_AHEAD, axis=2)
        altered = (others == Verdict.ALTERED).any(axis=(0, 1))
        stages = [stage.label for stage in Stage if stage is not Stage.LOOK_AHEAD]
        assert {stages[k] for k in np.flatnonzero(altered)} <= {"coherence", "slope", "step"}
        assert (verdicts[:, :, Stage.LOOK_AHEAD] == Verdict.ALTERED).any()
        fitted = [outlook_in(record.events, POINTS) is not None for record in trace]
        assert sum(fitted) >= 3
        assert replay_trace(trace).identical
        assert replay_trace(trace, from_cycle=int(trace.cycles[9])).identical
    assert any("phases at which the beam would be lost" in change for change in seeing.changes)
    assert not any("beam would be lost" in change for change in blind.changes)


def until(done: Callable[[], Any]) -> Any:
    """Wait for a result."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        found = done()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing within {WAIT_S} s")


def test_the_process_fits_beside_the_loop_and_its_end_is_told() -> None:
    """A reading that is handed over comes back as a table, the same as fitted here; then it is killed."""
    backend = machine()
    reading = backend.start()
    backend.close()
    foresight = Foresight(backend.description, PROGRAM)
    try:

        def fitted() -> dict[str, Any] | None:
            foresight.ask(reading, reading.usable)
            return foresight.news()

        event = until(fitted)
        task = Task.of(reading, reading.usable)
        assert task is not None
        # A kernel that was compiled here and one from the cache differ in the last bits.
        here = foresee(task, load_program(PROGRAM), CTIME)
        assert event.keys() == here.keys()
        numbers = [name for name, value in here.items() if isinstance(value, float)]
        assert [event[n] for n in numbers] == pytest.approx([here[n] for n in numbers], rel=1e-9)
        assert event["verdict"] == here["verdict"]
        told, expected = Outlook.of(event, POINTS), Outlook.of(here, POINTS)
        assert told is not None
        assert expected is not None
        np.testing.assert_allclose(told.held.astype(int), expected.held.astype(int), atol=1)
        np.testing.assert_allclose(
            told.asymmetry.astype(int), expected.asymmetry.astype(int), atol=1
        )
        os.kill(foresight._process.pid, signal.SIGKILL)
        event = until(fitted)
        while event["verdict"] != "ended":
            event = until(fitted)
        assert foresight.ended
        assert outlook_in([event], POINTS) is None
        foresight.ask(reading, reading.usable)
        assert foresight.news() is None
    finally:
        foresight.close()
        foresight.close()


def test_the_process_does_not_outlive_the_loop() -> None:
    """Whoever started it is killed in the midst of a fit: it is gone at once."""
    code = (
        "import sys, time; from memrl_ctrl import registry; from memrl_deploy.foreseeing import Foresight\n"
        f"b = registry.open_backend('blond', program={PROGRAM!r}, points={POINTS}); r = b.start()\n"
        f"f = Foresight(b.description, {PROGRAM!r})\n"
        "while True: f.news(); f.ask(r, r.usable); print(f._process.pid, flush=True); time.sleep(0.02)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout is not None
        child = int(loop.stdout.readline())
        for _ in range(100):
            loop.stdout.readline()
        os.kill(loop.pid, signal.SIGKILL)

    def gone() -> bool | None:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return True if state == "Z" else None

    assert until(gone)


def test_what_cannot_be_fitted_is_told_and_leads_to_no_table() -> None:
    """Noise alone is no bunch: an event with a reason. Too few points are not fitted at all."""
    backend = machine()
    reading = backend.start()
    backend.close()
    noise = np.random.default_rng(0).normal(size=reading.profile.shape).astype(np.float32)
    event = foresee(
        Task(cycle=7, points=np.arange(POINTS), profile=noise, phi_hw_rad=reading.readback_rad),
        load_program(PROGRAM),
        CTIME,
    )
    assert event["verdict"] == "not fitted"
    assert event["detail"]
    assert outlook_in([event], POINTS) is None
    assert Task.of(reading, np.arange(POINTS) < 2) is None


def test_where_there_is_nothing_to_look_ahead_with() -> None:
    """Unpaced cycles: silently none. What else stands in the way is said, and refused if it was named."""
    unpaced, paced = FakeBackend().description, FakeBackend(period_s=1.2).description
    unrelated = FakeBackend(period_s=1.2, related=False).description
    assert make_foresight(paced, "off", pace_s=0.0)[1].endswith("--look-ahead off")
    assert make_foresight(unpaced, None, pace_s=0.0) == (None, "")
    assert make_foresight(unrelated, None, pace_s=0.0) == (None, "")
    for machine_, pace_s in ((paced, 0.0), (unpaced, 0.5)):
        foresight, why = make_foresight(machine_, None, pace_s=pace_s)
        assert foresight is None
        assert "does not look ahead: no program 'fake-ramp'" in why
        assert "folder of its file fake-ramp.yaml in the environment variable MEMRL_PROGRAMS" in why
    with pytest.raises(UnknownNameError, match="nothing-such"):
        make_foresight(paced, "nothing-such", pace_s=0.0)
    with pytest.raises(MismatchError, match="unrelated conditions"):
        make_foresight(unrelated, PROGRAM, pace_s=0.0)
    foresight, why = make_foresight(unpaced, PROGRAM, pace_s=0.0)
    assert foresight is not None
    assert not why
    foresight.close()


def test_a_damaged_table_in_a_trace_is_named(tmp_path: Path) -> None:
    """A replay does not go on with half of what was judged by; the sentence names cycle and trace."""
    fake = FakeBackend(points=POINTS, n_slices=128, offset_rad=0.3)
    runtime = Runtime(ClosedLoop(fake), OnnxPolicy.load(AWAY), records=tmp_path, cycles=4)
    runtime._failures.events.append({"kind": "outlook", "cycle": 1, "table": "AAAA"})
    summary = runtime.run()
    assert summary.trace is not None
    with (
        TraceReader(summary.trace) as trace,
        pytest.raises(TraceError, match=r"cycle 1: the table of the outlook of cycle 1 is damaged"),
    ):
        replay_trace(trace)


def test_the_options_say_what_they_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that does not exist and a share above 1 end in one sentence, before anything runs."""
    policy = write_file(tmp_path / "away.onnx", AWAY)
    common = ["deploy", "--policy", str(policy), "--backend", "blond", "--record", str(tmp_path)]
    assert main([*common, "--look-ahead", "nothing-such", "--cycles", "2"]) != 0
    assert "nothing-such" in capsys.readouterr().err
    assert main([*common, "--look-ahead-loss", "1.5"]) != 0
    assert "--look-ahead-loss" in capsys.readouterr().err
