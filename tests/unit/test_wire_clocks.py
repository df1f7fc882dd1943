"""The time of day decides nothing: it may jump while a machine is served, forward or back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.zmq import MachineServer, ZmqBackend, open_backend, wire
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.errors import RefusalReason, Refused
from memrl_ctrl.testing import FakeBackend

DAY_NS = 86_400 * 10**9


class WallClock:
    """The time of day as everything in this process sees it, which a test may set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift_ns = 0
        self.own_ns: Callable[[], int] = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: self.own_ns() + self.shift_ns)
        monkeypatch.setattr(time, "time", lambda: (self.own_ns() + self.shift_ns) * 1e-9)


@contextmanager
def served(keys: Path, **options: Any) -> Iterator[MachineServer]:
    """Serve a fake machine that waits for its controller, in a thread."""
    make_folder(keys)
    server = MachineServer(
        FakeBackend(points=3, n_slices=16),
        endpoint="tcp://127.0.0.1:0", period_s=0.0, keys=keys, **options,
    )  # fmt: skip
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@pytest.mark.parametrize("jump_ns", [400 * DAY_NS, -400 * DAY_NS])
def test_a_jump_of_the_time_of_day_changes_no_right_and_no_deadline(
    jump_ns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lease, fencing number, deadlines, an idempotency key and a new handshake hold across a jump; a
    deadline that has passed is late still."""
    clock = WallClock(monkeypatch)
    with served(tmp_path / "keys") as server:
        backend = open_backend(
            endpoint=str(server.endpoint), keys=tmp_path / "keys", timeout_s=10.0
        )
        assert isinstance(backend, ZmqBackend)
        first, link = backend.start(), backend.link
        fence = backend._fence
        asked: dict[str, Any] = {
            "session": link.session, "fence": fence, "cycle": first.cycle + 1, "key": "once",
                 "deadline_ns": link.server_clock_ns(60.0)}  # fmt: skip
        function = {"phi_hw_rad": first.applied_rad + 0.1}
        receipt, _ = link.request(wire.Submit(sequence=link.next_sequence(), **asked), function)
        assert isinstance(receipt, wire.ReceiptMessage)
        clock.shift_ns = jump_ns

        played = backend.observe()
        np.testing.assert_array_equal(played.applied_rad, function["phi_hw_rad"])
        again, _ = link.request(wire.Submit(sequence=link.next_sequence(), **asked), function)
        assert isinstance(again, wire.ReceiptMessage)
        assert (again.cycle, again.fence) == (receipt.cycle, fence)
        after = backend.play(played.applied_rad + 0.1)
        np.testing.assert_array_equal(after.applied_rad, played.applied_rad + 0.1)
        assert backend._fence == fence
        past = wire.Submit(
            session=link.session, sequence=link.next_sequence(), fence=fence,
            cycle=after.cycle + 1, deadline_ns=link.server_clock_ns(-0.001),
        )  # fmt: skip
        with pytest.raises(Refused, match="the deadline passed") as refused:
            link.request(past, {"phi_hw_rad": after.applied_rad})
        assert refused.value.reason is RefusalReason.LATE

        late = open_backend(
            endpoint=str(server.endpoint), keys=tmp_path / "keys", timeout_s=10.0, read_only=True
        )
        assert late.link.server_clock_ns() == pytest.approx(time.monotonic_ns(), abs=5e9)
        late.close()
        other = open_backend(endpoint=str(server.endpoint), keys=tmp_path / "keys", timeout_s=10.0)
        assert isinstance(other, ZmqBackend)
        with pytest.raises(Refused, match="is in control"):
            other.start()
        other.close()
        backend.close()


def test_a_lease_expires_though_the_time_of_day_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who falls silent loses control in its time, however far back the time of day was set meanwhile."""
    clock = WallClock(monkeypatch)
    with served(tmp_path / "keys", patience_s=0.4) as server:
        where: dict[str, Any] = {
            "endpoint": str(server.endpoint),
            "keys": tmp_path / "keys",
            "timeout_s": 10.0,
        }
        silent, other = open_backend(**where), open_backend(**where)
        assert isinstance(silent, ZmqBackend)
        assert isinstance(other, ZmqBackend)
        silent.start()
        clock.shift_ns = -400 * DAY_NS
        time.sleep(0.6)
        other.start()
        assert other._fence > silent._fence
        silent.close()
        other.close()


def test_a_stamp_is_the_time_of_day_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reading whose stamp lies years before the one before it is taken as the newest."""
    clock = WallClock(monkeypatch)
    with served(tmp_path / "keys") as server:
        backend = open_backend(
            endpoint=str(server.endpoint), keys=tmp_path / "keys", timeout_s=10.0
        )
        assert isinstance(backend, ZmqBackend)
        before = backend.start()
        clock.shift_ns = -400 * DAY_NS
        after = backend.play(before.applied_rad)
        assert after.cycle == before.cycle + 1
        assert after.received_ns > before.received_ns
        assert before.stamp_ns - after.stamp_ns > 399 * DAY_NS
        backend.close()
