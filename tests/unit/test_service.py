"""What a run needs as a service: logs, metrics, systemd, options from a file."""

from __future__ import annotations

import io
import json
import shutil
import socket
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from memrl_ctrl.cli import main
from memrl_ctrl.errors import UsageError
from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_deploy.logs import JsonView
from memrl_deploy.metrics import MetricsView, host_and_port
from memrl_deploy.service import SystemdView, Views
from memrl_deploy.summary import CycleView


def a_cycle(**what: object) -> CycleView:
    values: dict[str, object] = {
        "mode": "shadow",
        "cycle": 7,
        "decided": 3,
        "recommended_rad": np.array([0.5, np.nan]),
        "applied_rad": np.array([0.1, 0.0]),
        "asymmetry": np.array([np.nan, np.nan]),
        "stages": {"step": 2},
        "outcome": "recommended",
        "decision_ms": 1.7,
    }
    return CycleView(**{**values, **what})  # type: ignore[arg-type]


def test_each_line_of_the_log_is_one_json_object() -> None:
    """A cycle, a note with a line break and the end are a line each; what is not finite is null."""
    stream = io.StringIO()
    view = JsonView(stream)
    view.cycle(a_cycle())
    view.note("late: by\n1 s")
    view.close()
    cycle, note, ended = map(json.loads, stream.getvalue().splitlines())
    assert (cycle["event"], cycle["cycle"], cycle["guard"]) == ("cycle", 7, {"step": 2})
    assert cycle["largest_step_rad"] == pytest.approx(0.4)
    assert cycle["largest_asymmetry"] is None
    assert (note["level"], note["text"]) == ("warning", "late: by\n1 s")
    assert ended["event"] == "ended"


def test_metrics_are_served_while_the_view_is_open() -> None:
    """Counters, the histogram and the mode are what the loop showed; afterwards nobody answers."""
    pytest.importorskip("prometheus_client")
    view = MetricsView("127.0.0.1:0", "shadow")
    url = f"http://127.0.0.1:{view.port}/metrics"
    try:
        view.cycle(a_cycle())
        view.cycle(a_cycle(cycle=8, mode="closed-loop", outcome="written"))
        view.note("timeout: nothing came")
        with urllib.request.urlopen(url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
    finally:
        view.close()
    for line in (
        "memrl_cycles_total 2.0",
        'memrl_outcomes_total{outcome="written"} 1.0',
        'memrl_guard_points_total{stage="step"} 4.0',
        'memrl_strikes_total{kind="timeout"} 1.0',
        'memrl_decision_seconds_bucket{le="0.0015"} 0.0',
        'memrl_decision_seconds_bucket{le="0.002"} 2.0',
        'memrl_mode{mode="closed-loop"} 1.0',
        'memrl_mode{mode="shadow"} 0.0',
        "memrl_last_cycle 8.0",
    ):
        assert line in lines
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=20)


def test_the_traces_bytes_and_the_room_for_it_are_served(tmp_path: Path) -> None:
    """The journal's length is the last cycle's; the room is that of its disk, NaN where nobody knows."""
    pytest.importorskip("prometheus_client")
    folder = tmp_path / "run"
    folder.mkdir()
    trace = SimpleNamespace(folder=folder, size_bytes=1234)
    view = MetricsView("127.0.0.1:0", "shadow")

    def served() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{view.port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        named = (line.split() for line in lines if line.startswith("memrl_trace"))
        return {name: float(value) for name, value in named}

    try:
        assert np.isnan(served()["memrl_trace_free_bytes"])
        view.cycle(a_cycle(trace=trace))
        trace.size_bytes = 2345
        view.cycle(a_cycle(cycle=8, trace=trace))
        found = served()
        assert found["memrl_trace_bytes"] == 2345.0
        room = shutil.disk_usage(folder)
        assert 0.0 < found["memrl_trace_free_bytes"] <= room.total
        folder.rmdir()
        assert np.isnan(served()["memrl_trace_free_bytes"])
    finally:
        view.close()


@pytest.mark.parametrize("address", ["9464", "host:", ":9464", "host:70000", "host:-1", "host:x"])
def test_an_address_that_cannot_be_is_refused_in_a_sentence(address: str) -> None:
    """A wrong --metrics says what is allowed."""
    with pytest.raises(UsageError, match=r"takes HOST:PORT .* 127\.0\.0\.1:9464"):
        host_and_port(address)


def test_a_port_that_is_taken_is_refused_in_a_sentence() -> None:
    """Two runs cannot serve at one port."""
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match="cannot listen there"):
            MetricsView(address, "shadow")


def test_systemd_hears_ready_then_life_then_stopping(tmp_path: Path) -> None:
    """Ready comes with the first cycle, the watchdog with later ones; a systemd that is gone is no error."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(20)
        view = Views([SystemdView(str(path), watchdog_us=1)])
        view.cycle(a_cycle())
        view.cycle(a_cycle(cycle=8))
        view.note("late: one")
        first, second, note = (systemd.recv(999).decode() for _ in range(3))
        assert first.startswith("READY=1\n")
        assert second.startswith("WATCHDOG=1\n")
        assert note == "STATUS=late: one"
        view.close()
        assert systemd.recv(999) == b"STOPPING=1"
    gone = SystemdView(str(path))
    gone.cycle(a_cycle())
    gone.close()


def test_no_systemd_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NOTIFY_SOCKET nothing is said to anybody."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert SystemdView.of_environment() is None


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_file(tmp_path / "p.onnx", proportional_policy(n_slices=16))


def test_options_come_from_a_file_and_the_command_line_wins(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--config gives the options; --cycles beside it is the one that counts; the log is JSON."""
    config = tmp_path / "deploy.yaml"
    config.write_text(
        f"policy: {policy}\nbackend: blond\ncycles: 9\nrecord: {tmp_path / 'r'}\n"
        "log-format: json\nseed: 3\n"
    )
    assert main(["deploy", "--config", str(config), "--cycles", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines].count("cycle") == 2


@pytest.mark.parametrize(
    ("content", "said", "code"),
    [
        ("polcy: x\n", "Did you mean --policy?", 2),
        ("- a\n", "holds no options", 3),
        ("a: [\n", "cannot be read", 3),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(
    content: str, said: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown names bring a suggestion; what is no YAML of options is said so."""
    config = tmp_path / "c.yaml"
    config.write_text(content)
    assert main(["shadow", f"--config={config}"]) == code
    error = capsys.readouterr().err
    assert said in error.replace("\n", " ")
    assert "Traceback" not in error


def test_config_without_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """--config at the end of the line says what is missing."""
    assert main(["deploy", "--config"]) == UsageError.exit_code
    assert "takes a YAML file" in capsys.readouterr().err
