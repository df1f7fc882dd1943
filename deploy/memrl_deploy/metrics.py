"""Prometheus metrics of a run, served on request: counters that the loop sets, and a thread that shows them.

The loop only adds to numbers in memory; whoever scrapes is served by a thread of prometheus_client, so that
a slow or absent scraper never holds a cycle up. Needs the extra `metrics`.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from memrl_ctrl.errors import MissingExtraError, UsageError
from memrl_deploy.summary import CycleView

BUCKETS_S = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
"""Upper edges of the decision time's histogram, s: fine around 2 and 4 ms."""


def host_and_port(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`.

    Raises:
        UsageError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f"--metrics takes HOST:PORT with a port of 0 to 65535, for example 127.0.0.1:9464, "
            f"not {text!r}"
        )
    return host.strip("[]"), int(port)


class MetricsView:
    """A view whose numbers are read over HTTP, in the text format of Prometheus.

    Args:
        address: `HOST:PORT`; port 0 takes a free one.
        mode: of the run.

    Raises:
        UsageError: the address cannot be read, or listened at.
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self, address: str, mode: str) -> None:
        host, port = host_and_port(address)
        try:
            import prometheus_client as prometheus
        except ModuleNotFoundError as error:
            raise MissingExtraError("--metrics", "prometheus_client", "metrics") from error
        registry = prometheus.CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Any:
            return prometheus.Counter(f"memrl_{name}", what, labels, registry=registry)

        self._cycles = counter("cycles", "cycles decided")
        self._outcomes = counter("outcomes", "what became of the decisions", "outcome")
        self._guard = counter("guard_points", "points altered, held or refused", "stage")
        self._strikes = counter("strikes", "failures that count towards giving up", "kind")
        self._decision = prometheus.Histogram(
            "memrl_decision_seconds",
            "time from the reading's arrival to the machine's answer",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._mode = prometheus.Gauge(
            "memrl_mode", "1 for the mode that the run is in", ["mode"], registry=registry
        )
        self._last_cycle = prometheus.Gauge(
            "memrl_last_cycle", "number of the last cycle decided", registry=registry
        )
        self._trace_bytes = prometheus.Gauge(
            "memrl_trace_bytes", "length of the run's journal so far", registry=registry
        )
        free = prometheus.Gauge(
            "memrl_trace_free_bytes", "room left on the disk of the run's trace", registry=registry
        )
        free.set_function(self._free_bytes)
        self._folder: Path | None = None
        self._now = mode
        self._mode.labels(mode).set(1.0)
        try:
            self._server, self._thread = prometheus.start_http_server(port, host, registry)
        except OSError as error:
            raise UsageError(
                f"--metrics {address}: cannot listen there: {error.strerror or error}"
            ) from error
        self.port: int = self._server.server_port

    def cycle(self, view: CycleView) -> None:
        """Count the cycle."""
        self._cycles.inc()
        self._outcomes.labels(view.outcome).inc()
        self._decision.observe(view.decision_ms / 1e3)
        self._last_cycle.set(view.cycle)
        if view.trace is not None:
            self._folder = view.trace.folder
            self._trace_bytes.set(view.trace.size_bytes)
        for stage, points in view.stages.items():
            self._guard.labels(stage).inc(points)
        if view.mode != self._now:
            self._mode.labels(self._now).set(0.0)
            self._mode.labels(view.mode).set(1.0)
            self._now = view.mode

    def note(self, text: str) -> None:
        """Count a strike by its kind, a word or two before a colon; what else is said is no strike."""
        kind, colon, _ = text.partition(":")
        if colon and len(kind.split()) <= 2:
            self._strikes.labels(kind).inc()

    def _free_bytes(self) -> float:
        """Return what is free on the trace's disk, asked by the thread that serves; NaN: not known."""
        try:
            return math.nan if self._folder is None else float(shutil.disk_usage(self._folder).free)
        except OSError:
            return math.nan

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
