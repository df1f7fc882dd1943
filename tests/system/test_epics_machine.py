"""The machine over PV Access beside its contract: who may write, what is refused, who is gone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("p4p", reason="needs the extra 'epics' (p4p)")

from p4p import Type, Value
from p4p.client.thread import Context, RemoteError

from memrl_backends.epics import open_backend, structures
from memrl_backends.epics.client import EpicsBackend, EpicsSource
from memrl_backends.epics.server import EpicsServer
from memrl_ctrl.cli import main
from memrl_ctrl.errors import (
    ConnectionFailed,
    FileError,
    RefusalReason,
    Refused,
    Standstill,
    UsageError,
)
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.registry import open_source
from memrl_ctrl.testing import FakeBackend
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Disengaged, Runtime
from memrl_deploy.summary import CycleView

from .machine_process import started


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fencing numbers of this test alone."""
    monkeypatch.setenv("MEMRL_CTRL_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@contextmanager
def served(backend: FakeBackend | None = None, **options: Any) -> Iterator[EpicsServer]:
    server = EpicsServer(
        FakeBackend(points=5, n_slices=32) if backend is None else backend,
        **{"port": 0, "broadcast_port": 0, "period_s": 0.0, **options},
    )
    thread, failures = started(server.run)
    assert server.ready.wait(20)
    try:
        yield server
    finally:
        server.stop()
        thread.join()
    assert not failures


def controller(server: EpicsServer, name: str = "test") -> EpicsBackend:
    opened = open_backend(address=f"127.0.0.1:{server.port}", name=name)
    assert isinstance(opened, EpicsBackend)
    return opened


@contextmanager
def foreign(server: EpicsServer) -> Iterator[Context]:
    """A client that is not of this project."""
    context = Context(
        "pva",
        conf={"EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{server.port}", "EPICS_PVA_ADDR_LIST": "",
              "EPICS_PVA_AUTO_ADDR_LIST": "NO"},
        useenv=False,
    )  # fmt: skip
    try:
        yield context
    finally:
        context.close()


def test_a_second_controller_is_refused_by_name() -> None:
    """Whoever is in control is named; who comes after them has a larger fencing number."""
    with served() as server:
        first, second = controller(server, "morning"), controller(server, "evening")
        reading = first.start()
        with pytest.raises(Refused, match="'morning' is in control") as refused:
            second.start()
        assert refused.value.reason is RefusalReason.FENCED
        with pytest.raises(Refused, match="'morning' is in control"):
            second.submit(reading.applied_rad, reading.cycle + 1, 1.0)
        granted = first._fence
        receipt = first.submit(reading.applied_rad + 0.1, reading.cycle + 1, 1.0)
        assert receipt.fence == granted  # from the first reply on, not only from the second
        first.close()
        later = second.start()
        np.testing.assert_allclose(later.applied_rad, reading.applied_rad + 0.1)
        assert second.submit(later.applied_rad, later.cycle + 1, 1.0).fence > receipt.fence
        second.close()


def fence_of_a_start() -> int:
    """Serve anew, and return the fencing number of who takes control."""
    with served() as server:
        backend = controller(server)
        backend.start()
        fence = backend._fence
        backend.close()
    return fence


def test_fencing_numbers_grow_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is started again with its clock a year back gives larger numbers than before; the first
    one ever is not below the present time in ms, from which earlier versions counted."""
    now_ms = time.time_ns() // 1_000_000
    first = fence_of_a_start()
    assert first >= now_ms
    own_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: own_ns() - 365 * 86_400 * 10**9)
    assert time.time_ns() // 1_000_000 < now_ms
    second = fence_of_a_start()
    assert second > first
    monkeypatch.setattr(time, "time_ns", lambda: own_ns() + 365 * 86_400 * 10**9)
    assert fence_of_a_start() > max(second, now_ms + 364 * 86_400 * 1000)


def test_without_fencing_numbers_nobody_is_given_control(state: Path) -> None:
    """Where they cannot be kept, a machine does not start, and one that runs out of them refuses."""
    state.mkdir()
    (state / "fence-epics").write_text("nonsense")
    with pytest.raises(FileError, match="'nonsense' is no fencing number"):
        EpicsServer(FakeBackend(points=5), port=0)
    (state / "fence-epics").unlink()
    with served() as server:
        backend = controller(server)
        (state / "fence-epics").write_text("nonsense")
        server._fences._next = server._fences._end  # the block that was had is used up
        with pytest.raises(Refused, match="nobody can be given control") as refused:
            backend.start()
        assert refused.value.reason is RefusalReason.NOT_ARMED
        backend.close()


def test_control_ends_by_itself() -> None:
    """Who sleeps through the time of its control is refused when another has taken it."""
    with served() as server:
        server.lease_s = 0.3
        first, second = controller(server, "asleep"), controller(server, "awake")
        reading = first.start()
        time.sleep(0.5)
        newer = second.start()
        with pytest.raises(Refused, match="'awake' is in control"):
            first.submit(reading.applied_rad + 0.2, reading.cycle + 1, 1.0)
        after = second.observe()
        np.testing.assert_array_equal(after.applied_rad, newer.applied_rad)
        first.close()
        second.close()


def test_a_machine_that_is_not_armed_takes_nothing() -> None:
    """Not armed: described as such, refused at the client, at the server, and to a plain put."""
    with served(arm=False) as server:
        backend = controller(server)
        assert not backend.description.writable
        with pytest.raises(Refused, match="is not armed") as refused:
            backend.start()
        assert refused.value.reason is RefusalReason.READ_ONLY
        with pytest.raises(Refused, match="the machine is not armed"):
            backend._request(structures.ACQUIRE)
        with foreign(server) as context, pytest.raises(RemoteError, match="not armed"):
            context.put("MEMRL:FUNCTION", np.zeros(5))
        assert backend.observe().cycle > 0
        backend.close()


def test_a_loop_whose_machine_is_disarmed_leaves_it(tmp_path: Path) -> None:
    """Three functions that are refused end the run; armed again, the machine is not written to any more."""
    with served() as server:

        class Disarms:
            def __init__(self) -> None:
                self.outcomes: list[str] = []

            def cycle(self, view: CycleView) -> None:
                self.outcomes.append(view.outcome)
                server.armed = len(self.outcomes) < 4

            def note(self, text: str) -> None:
                pass

            def close(self) -> None:
                pass

        view = Disarms()
        policy = OnnxPolicy.load(proportional_policy(n_slices=32, gain_rad=0.5))
        summary = Runtime(
            ClosedLoop(controller(server)), policy, records=tmp_path, cycles=20, view=view
        ).run()
        assert view.outcomes == [*["written"] * 4, *["refused (read-only), held"] * 2]
        assert isinstance(summary.error, Disengaged)
        assert "3 times 'refused (read-only)' in a row: the machine is not armed" in str(
            summary.error
        )
        commits, server.armed = server.commits, True
        time.sleep(0.2)
        assert server.commits == commits


def test_off_loopback_nothing_is_armed_by_itself() -> None:
    """An address that others can reach takes setpoints only where it is said."""
    backend = FakeBackend(points=5)
    assert not EpicsServer(backend, address="0.0.0.0", port=0).armed  # noqa: S104
    assert EpicsServer(backend, address="0.0.0.0", port=0, arm=True).armed  # noqa: S104
    assert EpicsServer(backend, port=0).armed


def test_plain_clients_read_and_put() -> None:
    """`pvget` and `pvput` work on ordinary arrays; a limit is refused with its sentence."""
    with served() as server, foreign(server) as context:
        applied = context.get("MEMRL:FUNCTION")
        assert applied.raw["display.units"] == "rad"
        context.put("MEMRL:FUNCTION", np.asarray(applied) + 0.1)
        deadline = time.monotonic() + 20
        while not np.allclose(context.get("MEMRL:READBACK"), np.asarray(applied) + 0.1):
            assert time.monotonic() < deadline
        with pytest.raises(RemoteError, match=r"refused \(step\): point 0 would move by"):
            context.put("MEMRL:FUNCTION", np.asarray(applied) + 3.0)
        with pytest.raises(RemoteError, match=r"refused \(unknown-point\)"):
            context.put("MEMRL:FUNCTION", np.zeros(4))
        with pytest.raises(RemoteError, match=r"refused \(not-finite\)"):
            context.put("MEMRL:FUNCTION", np.full(5, np.nan))
        agent = controller(server, "agent")
        with pytest.raises(Refused, match=r"'put by .* at 127\.0\.0\.1' is in control"):
            agent.start()
        agent.close()


@pytest.mark.parametrize(
    "request_value",
    [
        Value(Type([("do", "s")]), {"do": "format"}),
        Value(Type([("do", "s")]), {"do": "submit"}),
        Value(Type([("do", "s"), ("session", "s")]), {"do": "submit", "session": "x" * 1000}),
        Value(Type([("do", "as"), ("cycle", "s")]), {"do": ["submit"], "cycle": "next"}),
        Value(Type([("phi_hw_rad", "as")]), {"phi_hw_rad": ["a"]}),
        Value(
            Type([("do", "s"), ("session", "s"), ("cycle", "l"), ("deadline_s", "d")]),
            {"do": "submit", "session": "x", "cycle": 2, "deadline_s": float("nan")},
        ),
        Value(
            Type([("do", "s"), ("session", "s"), ("cycle", "L"), ("phi_hw_rad", "ad")]),
            {"do": "hold", "session": "x", "cycle": 2**64 - 1, "phi_hw_rad": np.zeros(20_000)},
        ),
    ],
)
def test_what_is_no_request_is_refused(request_value: Value) -> None:
    """Whatever is sent, the answer is a typed refusal, nothing is written, and the machine goes on."""
    with served() as server, foreign(server) as context:
        before = context.get("MEMRL:READING")
        reply = context.rpc("MEMRL:REQUEST", request_value, timeout=20)
        assert reply.refused in {reason.value for reason in RefusalReason}
        assert reply.detail
        backend = controller(server)
        newer = backend.observe()
        assert newer.cycle >= before.cycle
        np.testing.assert_array_equal(newer.applied_rad, before.applied_rad)
        backend.close()


def test_a_file_of_limits_holds_for_every_client(tmp_path: Path) -> None:
    """Narrower than the backend's, told to clients, and kept against an RPC and a plain put, the travel
    in a window too."""
    file = tmp_path / "limits.yaml"
    file.write_text("step_rad: 0.3\nrate: {travel_rad: 0.5, cycles: 9999}\n")
    with served(limits=file) as server, foreign(server) as context:
        backend = controller(server)
        assert backend.description.limits.step_rad == 0.3
        reading = backend.start()
        with pytest.raises(Refused, match="allowed") as refused:
            backend.submit(reading.applied_rad + 0.4, reading.cycle + 1, 1.0)
        assert refused.value.reason is RefusalReason.STEP
        after = backend.play(reading.applied_rad + 0.3)
        with pytest.raises(Refused, match="would have travelled") as refused:
            backend.submit(after.applied_rad - 0.25, after.cycle + 1, 1.0)
        assert refused.value.reason is RefusalReason.RATE
        backend.close()
        with pytest.raises(RemoteError, match=r"refused \(step\)"):
            context.put("MEMRL:FUNCTION", after.applied_rad + 0.4)
        with pytest.raises(RemoteError, match=r"refused \(rate\)"):
            context.put("MEMRL:FUNCTION", after.applied_rad + 0.25)
        np.testing.assert_array_equal(context.get("MEMRL:FUNCTION"), after.applied_rad)


def test_looking_has_no_means_to_write() -> None:
    """A source from the registry has no way to submit."""
    with served() as server:
        source = open_source("epics", address=f"127.0.0.1:{server.port}")
        assert type(source) is EpicsSource
        assert not hasattr(source, "submit")
        assert not source.description.writable
        assert source.observe().cycle > 0
        source.close()


def test_flags_arrive_and_are_an_alarm() -> None:
    """Quality flags go over the wire, and ordinary clients see an alarm."""

    def spoil(reading: Any) -> Any:
        reading.quality[2] = 4
        reading.profile[2] = np.nan
        return reading

    with served(FakeBackend(points=5, n_slices=32, alter=spoil)) as server:
        backend = controller(server)
        assert list(backend.observe().usable) == [True, True, False, True, True]
        with foreign(server) as context:
            alarm = context.get("MEMRL:READING")["alarm"]
        assert (alarm["severity"], alarm["message"]) == (2, "1 profiles not usable")
        backend.close()


def test_no_cycle_is_a_timeout_and_a_machine_that_is_gone_is_another() -> None:
    """A machine that plays nothing is told from one that has stopped."""
    with served(period_s=60.0) as server:
        backend = controller(server)
        assert backend.observe().cycle == 1
        with pytest.raises(Standstill, match=r"plays no cycle after 1 within 0\.3 s"):
            backend.observe(timeout_s=0.3)
    with pytest.raises(ConnectionFailed, match="has gone: the connection broke"):
        backend.observe(timeout_s=20.0)
    backend.close()


def test_nobody_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked for, and what to look at; an address that is none is refused at once."""
    monkeypatch.setattr("memrl_backends.epics.client.CONNECT_S", 0.3)
    with pytest.raises(
        ConnectionFailed, match=r"nobody answers as X:\* at 127.0.0.1:9: is `memrl-ctrl"
    ):
        open_backend(prefix="X:", address="127.0.0.1:9")
    with pytest.raises(UsageError, match=r"address takes HOST or HOST:PORT, not 'here:now'"):
        open_backend(address="here:now")


def test_the_command_serves_a_scenario() -> None:
    """`memrl-ctrl machine-epics` as a process: driven, and stopped by a signal."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "memrl_ctrl", "machine-epics", "--scenario", "two-hands",
         "--points", "5", "--slices", "64", "--port", "0", "--period", "0", "--prefix", "PSB:"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert popen.stdout is not None
        found = re.search(r"ready as PSB:\* at (\S+): program psb-2gev", popen.stdout.readline())
        assert found
        backend = open_backend(prefix="PSB:", address=found[1])
        assert isinstance(backend, EpicsBackend)
        first = backend.start()
        after = backend.play(first.applied_rad + 0.05)
        assert after.cycle > first.cycle
        assert after.profile.shape == (5, 64)
        backend.close()
        popen.send_signal(signal.SIGTERM)
        out, errors = popen.communicate(timeout=60)
    finally:
        popen.kill()
    assert (popen.returncode, errors) == (0, "")
    assert "took 1 functions" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--address", "nowhere"], "--address takes the address of an interface"),
        (["--port", "99999"], "--port must be 0 to 65535"),
        (["--scenario", "psbb"], "did you mean 'psb'?"),
        (["--limits", "nowhere.yaml", "--points", "3"], "nowhere.yaml"),
    ],
)
def test_a_machine_that_cannot_be_is_one_sentence(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which option, what is allowed; nothing is bound."""
    assert main(["machine-epics", *options]) == (3 if "--limits" in options else 2)
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
