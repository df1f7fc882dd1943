"""What a run needs where it runs as a service: several views at once, and systemd's notifications."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console

from memrl_deploy.live import make_view
from memrl_deploy.logs import JsonView
from memrl_deploy.metrics import MetricsView
from memrl_deploy.summary import CycleView, View

WATCHDOG_PART = 0.5
"""The watchdog is told after this part of its time (sd_watchdog_enabled(3) recommends half)."""


def make_views(
    console: Console, mode: str, *, quiet: bool, as_json: bool, metrics: str | None
) -> Views:
    """Return everything that shows a run.

    Args:
        console: where people look.
        mode: of the run.
        quiet: no cycles on the console.
        as_json: JSON lines on standard error instead.
        metrics: `HOST:PORT` for Prometheus, or None.

    Raises:
        UsageError: the address of the metrics cannot be used.
        MissingExtraError: prometheus_client is not installed.
    """
    views: list[View] = []
    if metrics is not None:
        views.append(MetricsView(metrics, mode))
    systemd = SystemdView.of_environment()
    if systemd is not None:
        views.append(systemd)
    if as_json:
        views.append(JsonView(sys.stderr))
    elif not quiet:
        views.append(make_view(console, mode))
    return Views(views)


class Views:
    """Shows a run in several places.

    Args:
        views: each gets everything, in this order.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._views = tuple(views)

    def cycle(self, view: CycleView) -> None:
        """Show a cycle everywhere."""
        for one in self._views:
            one.cycle(view)

    def note(self, text: str) -> None:
        """Show something out of the ordinary everywhere."""
        for one in self._views:
            one.note(text)

    def close(self) -> None:
        """Close all, whatever fails."""
        with ExitStack() as ending:
            for one in self._views:
                ending.callback(one.close)


class SystemdView:
    """Tells systemd that the run is ready with its first cycle, lives, and ends (sd_notify(3)).

    A service of `Type=notify` with `WatchdogSec=` is restarted when no cycle is decided for that long.

    Args:
        address: the variable NOTIFY_SOCKET: a path, or `@` and an abstract name.
        watchdog_us: the variable WATCHDOG_USEC; 0: nobody watches.
    """

    def __init__(self, address: str, watchdog_us: int = 0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._every_s = watchdog_us / 1e6 * WATCHDOG_PART
        self._told_s = 0.0
        self._ready = False

    @classmethod
    def of_environment(cls) -> SystemdView | None:
        """Return one where systemd asks for it, else None."""
        address = os.environ.get("NOTIFY_SOCKET", "")
        watchdog = os.environ.get("WATCHDOG_USEC", "0")
        if not address:
            return None
        return cls(address, int(watchdog) if watchdog.isascii() and watchdog.isdigit() else 0)

    def cycle(self, view: CycleView) -> None:
        """Say that the run is ready, then that it lives."""
        now_s = time.monotonic()
        if not self._ready:
            self._ready = True
            self._say(f"READY=1\nSTATUS={view.mode}, first cycle {view.cycle}")
        elif self._every_s and now_s - self._told_s >= self._every_s:
            self._told_s = now_s
            self._say(f"WATCHDOG=1\nSTATUS={view.mode}, {view.decided} cycles decided")

    def note(self, text: str) -> None:
        """Show it as the service's status."""
        self._say(f"STATUS={text.splitlines()[0] if text else ''}")

    def close(self) -> None:
        """Say that the run is ending."""
        self._say("STOPPING=1")
        self._socket.close()

    def _say(self, text: str) -> None:
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:
            return  # systemd is gone or busy: the loop does not wait for it
