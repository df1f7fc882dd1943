"""`memrl-ctrl bench loop`: the whole loop on a twin in a process of its own, beside the bare floors."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import zmq
from cyclopts import Parameter
from numpy.typing import NDArray

from memrl_ctrl import progress, registry
from memrl_ctrl.backend import FloatArray
from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.values import Count, OutputFolder
from memrl_ctrl.errors import ConnectionFailed, MachineError, TraceError
from memrl_ctrl.outputs import STDOUT, scratch_folder
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.runner import open_session
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace import JOURNAL_NAME
from memrl_ctrl.trace.untrusted import verify_untrusted
from memrl_deploy.memory_use import MemoryUse
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.pacing import SECTIONS
from memrl_deploy.runtime import Runtime, stopped_by_signals
from memrl_deploy.summary import CycleView, RunSummary
from memrl_deploy.twin import START_S, twin

POINTS, SLICES, POLICY_SLICES, UNITS = 30, 1000, 128, 128
SEGMENT_CYCLES = 5000
"""Cycles of one run; its trace is verified and removed before the next one: about 0.6 GB on the disk."""
SEGMENTS_AT_LEAST = 4
FLOORS_EACH_SEGMENT = 250
RARE_FLOORS_EACH_SEGMENT = 50
PAUSE_S = 0.007
"""Time between two decisions of the loop, about: what a decision needs has left the caches until then."""
RARELY = ", after a pause"
TOLD_EVERY = 100
PERCENTS = (50.0, 99.0, 99.9, 100.0)
COLUMNS = ("median ms", "p99 ms", "p99.9 ms", "max ms")
FLOORS = ("round trip of a reading", "onnxruntime step", "write and fdatasync")
"""What no decision can do without."""
SETPOINT_BYTES = 512
"""Length of a request that carries a setpoint of 30 points, with its head."""


@dataclass
class Measured:
    """What the segments brought, as far as they came.

    Its own memory is taken at the start: it would be taken for the loop's.
    """

    times_ns: NDArray[np.int64]
    """By section [cycles, sections]; the first `cycles` rows are filled."""
    memory: MemoryUse
    cycles: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    """As in the summaries of the runs."""
    floors_ms: dict[str, list[float]] = field(default_factory=dict)
    journal_bytes: int = 0
    reason: str = ""

    @classmethod
    def of(cls, cycles: int) -> Measured:
        """Make room for so many cycles."""
        return cls(
            times_ns=np.full((cycles, len(SECTIONS)), 0, dtype=np.int64),
            memory=MemoryUse(cycles),
        )

    def take(self, times_ns: NDArray[np.int64]) -> None:
        """Keep the times of a segment."""
        self.times_ns[self.cycles : self.cycles + len(times_ns)] = times_ns
        self.cycles += len(times_ns)


class Watch:
    """A view that looks at the memory now and then."""

    def __init__(self, measured: Measured, total: int) -> None:
        self._measured = measured
        self._total = total
        self._cycles = 0

    def cycle(self, view: CycleView) -> None:
        """Count it."""
        self._cycles += 1
        self._measured.memory.cycle()
        if self._cycles % TOLD_EVERY == 0:
            progress.report(self._cycles, self._total)

    def note(self, text: str) -> None:
        """What went wrong is counted by the run."""

    def close(self) -> None:
        """Nothing is left to do."""


def run(
    json_path: Path | None = None,
    *,
    cycles: Annotated[Count, Parameter()] = 100_000,
    folder: Annotated[OutputFolder | None, Parameter()] = None,
) -> dict[str, Any]:
    """Decision time of the closed loop over ZeroMQ, recorded durably, beside the sum of its bare floors.

    A twin (30 points x 1000 slices, float32) in a process of its own plays as fast as it is written to,
    over loopback with CURVE; its simulation takes only what the loop leaves of the cores, as a machine's
    own computers would. The policy has an LSTM of 128 units. A decision begins when the reading is
    received; its time is given until the commit is sent (`p50_ms`, ...) and until it is answered
    (`answered_p50_ms`, ...); both are held against the floors. Every 5,000 cycles a new run begins;
    its trace is verified and removed, and the floors are measured. Ctrl-C prints what was measured until
    then.

    Args:
        json_path: file for the JSON, or None.
        cycles: cycles that are decided.
        folder: where to record; the disk of that folder is measured.
    """
    measured = Measured.of(cycles)
    console = Terminal(stderr=str(json_path) == STDOUT)
    with scratch_folder(folder) as place, ExitStack() as ending, suppress(KeyboardInterrupt):
        ending.enter_context(work_bar(console, "closed loop"))
        shape = ("--points", str(POINTS), "--slices", str(SLICES), "--seed", "5")
        endpoint = ending.enter_context(twin(place, "--low-priority", *shape))
        echo = ending.enter_context(_echo_process())
        data = proportional_policy(
            n_slices=POLICY_SLICES, gain_rad=0.5, lstm_units=UNITS, name="bench"
        )
        floors = Floors(place, echo, data, ending)
        policy = OnnxPolicy.load(data)
        _segments(measured, place, endpoint=endpoint, policy=policy, cycles=cycles, floors=floors)
    if not measured.cycles or not measured.floors_ms:
        raise MachineError("stopped before anything was measured")
    return _published(measured, cycles, json_path, console)


def _segments(
    measured: Measured,
    place: Path,
    *,
    endpoint: str,
    policy: OnnxPolicy,
    cycles: int,
    floors: Floors,
) -> None:
    """Run segment after segment; each trace is verified, then removed.

    Raises:
        MachineError: a segment ended with an error.
        TraceError: a cycle is not in the trace.
    """
    segment = min(SEGMENT_CYCLES, max(1, cycles // SEGMENTS_AT_LEAST))
    watch = Watch(measured, cycles)
    while measured.cycles < cycles and not measured.reason:
        count = min(segment, cycles - measured.cycles)
        backend = registry.open_backend("zmq", endpoint=endpoint, keys=place / "keys")
        runtime = Runtime(
            ClosedLoop(backend), policy, records=place / "records", cycles=count, view=watch
        )
        measured.memory.begin_run()
        with stopped_by_signals(runtime):
            summary = runtime.run()
        measured.missed += summary.missed
        measured.take(summary.times_ns)
        size = checked_and_removed(summary)
        measured.journal_bytes += size
        if summary.error is not None:
            raise summary.error
        if summary.cycles < count or runtime.stop_cause:
            measured.reason = runtime.stop_cause or summary.reason
        floors.measure(measured.floors_ms, size // max(summary.cycles, 1))


def checked_and_removed(summary: RunSummary) -> int:
    """Verify a run's journal, hold it against the run's own count, remove its folder; return its bytes.

    It is verified by a process of its own: the memory that this takes is not the loop's.

    Raises:
        TraceError: it is damaged, or lacks a cycle that was acknowledged.
    """
    if summary.trace is None or summary.trace_problem:
        raise summary.error or MachineError(summary.trace_problem or "the run left no trace")
    run_folder = summary.trace if summary.trace.is_dir() else summary.trace.parent
    journal = run_folder / JOURNAL_NAME
    report = verify_untrusted(journal)
    if not report.whole or report.cycles < summary.cycles:
        raise TraceError(
            journal,
            f"holds {report.cycles} of {summary.cycles} acknowledged cycles: {report.damage}",
        )
    size = journal.stat().st_size
    shutil.rmtree(run_folder)
    return size


class Floors:
    """The bare operations that no loop can do without, each measured in the same run.

    Args:
        place: folder on the disk that is recorded to.
        echo: pipe to the process that answers; it has sent its port and public key.
        policy: bytes of the policy file.
        ending: closes what is opened here.
    """

    def __init__(self, place: Path, echo: Connection, policy: bytes, ending: ExitStack) -> None:
        port, key = echo.recv()
        self._file = os.open(place / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        ending.callback(os.close, self._file)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        ending.callback(context.destroy, linger=0)
        self._socket = context.socket(zmq.DEALER)
        self._socket.curve_serverkey = key
        self._socket.curve_publickey, self._socket.curve_secretkey = zmq.curve_keypair()
        self._socket.rcvtimeo = int(START_S * 1e3)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._session = open_session("bench", policy)
        self._feed = {
            node.name: np.zeros((POINTS, *node.shape[1:]), dtype=np.float32)
            for node in self._session.get_inputs()
        }

    def measure(self, into: dict[str, list[float]], record_bytes: int) -> None:
        """Take each floor some hundred times at once, and some fifty times as rarely as the loop does.

        Args:
            into: times by floor, ms; added to.
            record_bytes: bytes that a cycle takes in the journal.
        """
        record = secrets.token_bytes(record_bytes)
        os.ftruncate(self._file, 0)
        kinds: dict[str, Callable[[], Any]] = {
            "round trip of a reading": lambda: self._ask(b"reading"),
            "round trip of a setpoint": lambda: self._ask(bytes(SETPOINT_BYTES)),
            "onnxruntime step": lambda: self._session.run(None, self._feed),
            "write and fdatasync": lambda: self._write(record),
        }
        for name, call in kinds.items():
            call()
            taken = [_timed_ms(call) for _ in range(FLOORS_EACH_SEGMENT)]
            into.setdefault(name, []).extend(taken)
            rare = [_timed_ms(call, after_s=PAUSE_S) for _ in range(RARE_FLOORS_EACH_SEGMENT)]
            into.setdefault(name + RARELY, []).extend(rare)

    def _ask(self, request: bytes) -> None:
        self._socket.send(request)
        self._socket.recv()

    def _write(self, record: bytes) -> None:
        os.write(self._file, record)
        os.fdatasync(self._file)


def _timed_ms(call: Callable[[], Any], after_s: float = 0.0) -> float:
    if after_s:
        time.sleep(after_s)
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1e3


def _published(
    measured: Measured, cycles: int, json_path: Path | None, console: Terminal
) -> dict[str, Any]:
    times_ms = measured.times_ns[: measured.cycles] / 1e6
    answered = times_ms[:, 1:].sum(axis=1)
    sent = answered - times_ms[:, SECTIONS.index("answer")]
    floors = {name: float(np.median(times)) for name, times in measured.floors_ms.items()}
    whole = sum(floors[name] for name in FLOORS)
    rare = sum(floors[name + RARELY] for name in FLOORS)
    figures = {
        "cycles": float(sent.size),
        **_figures("", sent),
        **_figures("answered_", answered),
        "ratio_to_floors_median": float(np.median(sent)) / whole,
        "ratio_to_rare_floors_median": float(np.median(sent)) / rare,
        "answered_ratio_to_floors_median": float(np.median(answered)) / whole,
        "deadline_misses": float(measured.missed.total()),
        "rss_mb_per_100k_cycles": measured.memory.slope_per_100k(),
        "rss_mb_per_run": measured.memory.growth_per_run(),
        "journal_bytes_per_cycle": measured.journal_bytes / sent.size,
        "load_1min": os.getloadavg()[0],
    }
    rows = [_row("decision, reading received to commit sent", sent)]
    rows += [_row("decision, reading received to commit answered", answered)]
    rows += [_row(f"floor: {name}", np.array(times)) for name, times in measured.floors_ms.items()]
    rows += [
        _row(f"section {name}", taken)
        for name, taken in zip(SECTIONS[1:], times_ms.T[1:], strict=True)
    ]
    kinds = ", ".join(f"{count} {kind}" for kind, count in measured.missed.most_common())
    missed = f"{measured.missed.total()} cycles{f' ({kinds})' if kinds else ''}"
    slope, growth = figures["rss_mb_per_100k_cycles"], figures["rss_mb_per_run"]
    memory = (
        f"memory {slope:+.2f} MB in 100,000 cycles"
        if np.isfinite(slope)
        else "too few cycles to say how memory grows"
    )
    if np.isfinite(growth):
        memory += f", {growth:+.2f} MB from run to run"
    notes = [
        f"{sent.size} of {cycles} cycles{': ' + measured.reason if measured.reason else ''}; "
        f"{POINTS} x {SLICES} float32, CURVE, each cycle durable before its setpoint is sent; "
        f"{missed} missed; load {figures['load_1min']:.1f}.",
        f"Medians over the sum of the floors (a reading's round trip, step, write): until sent "
        f"{figures['ratio_to_floors_median']:.2f}, until answered "
        f"{figures['answered_ratio_to_floors_median']:.2f}; until sent over those taken as rarely as in the "
        f"loop {figures['ratio_to_rare_floors_median']:.2f}; {memory}.",
    ]
    return publish(
        name="loop",
        columns=("what", *COLUMNS),
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=notes,
        console=console,
    )


def _percentiles(taken_ms: FloatArray, *names: str) -> dict[str, float]:
    values = np.percentile(taken_ms, PERCENTS)
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _figures(prefix: str, taken_ms: FloatArray) -> dict[str, float]:
    names = (f"{prefix}{name}_ms" for name in ("p50", "p99", "p999", "max"))
    return _percentiles(taken_ms, *names)


def _row(what: str, taken_ms: FloatArray) -> dict[str, Any]:
    taken = _percentiles(taken_ms, *COLUMNS)
    return {"what": what} | {name: round(value, 4) for name, value in taken.items()}


@contextmanager
def _echo_process() -> Iterator[Connection]:
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=_echo, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(START_S):
            raise ConnectionFailed(f"the echo did not start within {START_S:g} s")
        yield here
    finally:
        process.terminate()
        process.join()
        here.close()


def _echo(pipe: Connection) -> None:
    """Answer a request for a reading with as many bytes as one has, everything else with itself."""
    reply = secrets.token_bytes(POINTS * SLICES * 4)
    public, secret = zmq.curve_keypair()
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.curve_server, socket.curve_publickey, socket.curve_secretkey = True, public, secret
    pipe.send((socket.bind_to_random_port("tcp://127.0.0.1"), public))
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    while True:
        identity, request = socket.recv_multipart()
        socket.send_multipart([identity, reply if request == b"reading" else request])


def _end_with(pipe: Connection) -> None:
    """End this process when whoever holds the other end of a pipe is gone."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(0)
