"""`memrl-ctrl bench wire`: what the machine interface costs beside bare sockets, and beside observers."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import zmq

from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq import wire
from memrl_backends.zmq.client import ZmqBackend, open_backend
from memrl_backends.zmq.keys import load_client, load_server, make_folder
from memrl_backends.zmq.server import MachineServer
from memrl_ctrl.backend import FloatArray
from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.values import Count, SomeSeconds, real
from memrl_ctrl.frames import MAX_BYTES, pack

POINTS, SLICES = 30, 1000
PERIOD_S = 1.2
OBSERVERS = 50
BLOCK = 50
"""Round trips of one kind before the other kind's turn."""
WARM_UP = 200
START_S = 60.0
"""How long a process may take to start."""


def run(
    json_path: Path | None = None,
    *,
    round_trips: Annotated[int, real(1000, 1_000_000)] = 6000,
    turns: Count = 3,
    turn_s: SomeSeconds = 6.0,
) -> dict[str, Any]:
    """Round trip of a reading against bare pyzmq, and what 50 observers cost the controller.

    A machine of 30 points x 1000 slices in a process of its own, period 1.2 s, CURVE, loopback. The
    round trip is a snapshot: request packed, sent, answered, checked and made a reading. Bare pyzmq
    sends and receives the same bytes through DEALER and ROUTER with CURVE, untouched, to another
    process, in turns of 50.

    Parameters
    ----------
    round_trips
        Of each kind.
    turns
        With observers, and as many without, in turns.
    turn_s
        Duration of a turn, s.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as ending:
        keys = Path(name) / "keys"
        make_folder(keys)
        machine = ending.enter_context(_process(_serve, keys))
        endpoint = str(machine.recv())
        backend = open_backend(endpoint=endpoint, keys=keys)
        ending.callback(backend.close)
        if not isinstance(backend, ZmqBackend):
            raise TypeError(f"{endpoint} is opened as {type(backend).__name__}")
        ours_s, bare_s = _compare(backend, keys, round_trips, ending)
        readings = str(endpoints.parse(endpoint).at(backend.link.welcome.readings_port))
        alone_s, beside_s = _observed(backend, readings, keys, turns, turn_s)
    ratio = float(np.median(ours_s) / np.median(bare_s))
    p99_ratio = statistics.median(_p99(b) / _p99(a) for a, b in zip(alone_s, beside_s, strict=True))
    rows = [
        _row("bare pyzmq, CURVE", bare_s),
        _row("machine interface, CURVE", ours_s),
        _row("machine interface, alone", np.concatenate(alone_s)),
        _row(f"machine interface, {OBSERVERS} observers", np.concatenate(beside_s)),
    ]
    return publish(
        name="wire",
        columns=tuple(rows[0]),
        rows=rows,
        figures={
            "round_trip_median_ratio": ratio,
            "round_trip_p999_ms": float(np.quantile(ours_s, 0.999) * 1e3),
            "p99_ratio_with_50_observers": p99_ratio,
        },
        json_path=json_path,
        notes=[
            f"{POINTS} x {SLICES} float32, in turns of {BLOCK}; the last two rows: {turns} turns of "
            f"{turn_s:g} s each, period {PERIOD_S:g} s, the ratio of p99 is the median over the turns.",
        ],
    )


def _row(what: str, taken_s: FloatArray) -> dict[str, Any]:
    median, p99, p999 = np.quantile(taken_s, [0.5, 0.99, 0.999]) * 1e3
    return {
        "round trip": what,
        "median ms": round(float(median), 3),
        "p99 ms": round(float(p99), 3),
        "p99.9 ms": round(float(p999), 3),
    }


def _p99(taken_s: FloatArray) -> float:
    return float(np.quantile(taken_s, 0.99))


# Measuring


def _compare(
    backend: ZmqBackend, keys: Path, round_trips: int, ending: ExitStack
) -> tuple[FloatArray, FloatArray]:
    request, reply = _same_bytes(backend)
    echo = ending.enter_context(_process(_echo, keys, reply))
    port = echo.recv()
    own = load_client(keys, wire.Role.CONTROLLER)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ending.callback(context.destroy, linger=0)
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    socket.curve_serverkey, socket.curve_publickey = own.server, own.public
    socket.curve_secretkey = own.secret
    socket.connect(f"tcp://127.0.0.1:{port}")

    def bare() -> None:
        socket.send(request)
        socket.recv()

    kinds: tuple[Callable[[], Any], ...] = (backend.snapshot, bare)
    for call in kinds:
        _timed(call, WARM_UP)
    taken: tuple[list[FloatArray], ...] = ([], [])
    for _ in range(round_trips // BLOCK):
        for call, blocks in zip(kinds, taken, strict=True):
            blocks.append(_timed(call, BLOCK))
    return np.concatenate(taken[0]), np.concatenate(taken[1])


def _same_bytes(backend: ZmqBackend) -> tuple[bytes, bytes]:
    """Return a request and a reply as long as those of the machine interface."""
    message, arrays = backend.link.request(
        wire.SnapshotRequest(session=backend.link.session, sequence=backend.link.next_sequence())
    )
    request = wire.SnapshotRequest(session=2**62, sequence=10**4)
    return pack(request), pack(message, arrays)


def _timed(call: Callable[[], Any], count: int) -> FloatArray:
    taken = np.empty(count)
    for index in range(count):
        began = time.perf_counter()
        call()
        taken[index] = time.perf_counter() - began
    return taken


def _observed(
    backend: ZmqBackend, readings: str, keys: Path, turns: int, turn_s: float
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Measure in turns without and with observers."""
    alone, beside = [], []
    for _ in range(turns):
        alone.append(_for_a_while(backend, turn_s))
        with _process(_watch, keys, readings) as observers:
            observers.recv()  # all of them have had a reading
            beside.append(_for_a_while(backend, turn_s))
    return alone, beside


def _for_a_while(backend: ZmqBackend, turn_s: float) -> FloatArray:
    blocks = []
    ends_s = time.monotonic() + turn_s
    while time.monotonic() < ends_s:
        blocks.append(_timed(backend.snapshot, BLOCK))
    return np.concatenate(blocks)


# Processes


@contextmanager
def _process(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run a function in a process of its own, which gets one end of a pipe and ends with it."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=work, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(START_S):
            raise TimeoutError(f"{work.__name__} did not start within {START_S:g} s")
        yield here
    finally:
        process.terminate()
        process.join()
        here.close()


def _serve(pipe: Connection, keys: Path) -> None:
    from memrl_ctrl.testing import FakeBackend

    server = MachineServer(
        FakeBackend(points=POINTS, n_slices=SLICES, noise=0.02),
        endpoint="tcp://127.0.0.1:0",
        period_s=PERIOD_S,
        keys=keys,
        on_ready=lambda: pipe.send(str(server.endpoint)),
    )
    server.run()


def _echo(pipe: Connection, keys: Path, reply: bytes) -> None:
    own = load_server(keys)
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    socket.curve_server, socket.curve_secretkey = True, own.secret
    pipe.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        identity, _ = socket.recv_multipart()
        socket.send_multipart([identity, reply])


def _watch(pipe: Connection, keys: Path, readings: str) -> None:
    """Be all observers, each with a connection of its own."""
    own = load_client(keys, wire.Role.OBSERVER)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    waiting = set()
    for _ in range(OBSERVERS):
        socket = context.socket(zmq.SUB)
        socket.curve_serverkey, socket.curve_publickey = own.server, own.public
        socket.curve_secretkey = own.secret
        socket.subscribe(wire.TOPIC_READING)
        socket.connect(readings)
        poller.register(socket, zmq.POLLIN)
        waiting.add(socket)
    while True:
        for socket, _ in poller.poll():
            socket.recv_multipart()
            if waiting:
                waiting.discard(socket)
                if not waiting:
                    pipe.send("all")
