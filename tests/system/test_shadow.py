"""Shadow over ZeroMQ: everything is seen and recorded, and nothing in the process could write."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.zmq import MachineServer
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl import registry
from memrl_ctrl.backend import BeamBackend, Receipt
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.modes import ClosedLoop, Shadow
from memrl_deploy.runtime import Runtime

N = 64
WRITING = ("submit", "play", "start")
PLAIN = (type, types.ModuleType, str, bytes, int, float, np.ndarray)


class Operated(FakeBackend):
    """A fake machine that counts what a client writes."""

    taken = 0

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        self.taken += 1
        return super().submit(phi_hw_rad, cycle, deadline_s)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Operated, str, Path]]:
    keys = tmp_path / "keys"
    make_folder(keys)
    machine = Operated(points=30, n_slices=N, offset_rad=0.6)
    server = MachineServer(machine, endpoint="tcp://127.0.0.1:0", period_s=0.05, keys=keys)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield machine, str(server.endpoint), keys
    server.stop()
    thread.join()


def parts(thing: Any) -> list[object]:
    """Return what can be reached from an object in one step."""
    if isinstance(thing, dict):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    found: list[object] = list(getattr(thing, "__dict__", {}).values())
    if isinstance(thing, types.MethodType):
        found += [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        found += [cell.cell_contents for cell in thing.__closure__ or ()]
    slots = (slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ()))
    return found + [getattr(thing, slot, None) for slot in slots]


def reachable(root: object) -> Iterator[object]:
    """Yield every object that can be reached through attributes, containers and bound methods."""
    seen: dict[int, object] = {}
    waiting: list[object] = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) not in seen and not isinstance(thing, PLAIN):
            seen[id(thing)] = thing
            yield thing
            waiting.extend(parts(thing))


def writers(root: object) -> list[object]:
    """Return the reachable objects of this project that could write to a machine."""
    return [
        thing
        for thing in reachable(root)
        if type(thing).__module__.startswith(("memrl_", "test_"))
        and (
            isinstance(thing, (BeamBackend, ClosedLoop))
            or any(callable(getattr(thing, name, None)) for name in WRITING)
        )
    ]


def test_no_object_in_shadow_could_write(
    served: tuple[Operated, str, Path], tmp_path: Path
) -> None:
    """From the runtime in shadow no writing method of a machine can be reached; in closed loop one can."""
    _, endpoint, keys = served
    policy = OnnxPolicy.load(proportional_policy(n_slices=N))
    source = registry.open_source("zmq", endpoint=endpoint, keys=keys)
    shadow = Runtime(Shadow(source), policy, records=tmp_path)
    try:
        assert writers(shadow) == []
        assert sum(1 for _ in reachable(shadow)) > 20
    finally:
        source.close()
    backend = registry.open_backend("zmq", endpoint=endpoint, keys=keys)
    try:
        assert writers(Runtime(ClosedLoop(backend), policy, records=tmp_path))
    finally:
        backend.close()


def test_shadow_sees_records_and_leaves_the_machine_alone(
    served: tuple[Operated, str, Path], tmp_path: Path
) -> None:
    """The command recommends for every cycle it sees, and the machine takes nothing from it."""
    machine, endpoint, keys = served
    policy = write_file(tmp_path / "p.onnx", proportional_policy(n_slices=N, gain_rad=1.5))
    command = [
        sys.executable, "-m", "memrl_ctrl", "shadow", "--policy", str(policy), "--endpoint",
        endpoint, "--keys", str(keys), "--record", str(tmp_path / "r"), "--cycles", "8",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shadow  recommended") == 8
    assert machine.taken == 0
    (trace,) = (tmp_path / "r").glob("*-shadow/trace.h5")
    with TraceReader(trace) as reader:
        assert len(reader) == 8
        for record in reader:
            assert record.written_rad is None
            assert not record.reading.applied_rad.any()
            assert np.abs(record.measures["recommended_rad"]).max() > 0.1
