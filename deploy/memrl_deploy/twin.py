"""A simulated machine in a process of its own, for what runs a loop against one from beginning to end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memrl_ctrl.errors import ConnectionFailed
from memrl_deploy import companion

START_S = 600.0
"""How long a process may take to start on a busy computer; the first start compiles."""
READY = re.compile(r"ready at (tcp://\S+):")


@contextmanager
def twin(place: Path, *options: str) -> Iterator[str]:
    """Run `memrl-ctrl machine` at full speed and give its endpoint; its keys are in `place/keys`.

    Args:
        place: folder for its keys, state and output.
        options: further options of the command.

    Raises:
        ConnectionFailed: it did not start; with what it said.
    """
    log = place / "machine.log"
    arguments = ["--endpoint", "tcp://127.0.0.1:0", "--period", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, no shell
            [sys.executable, "-m", companion.__name__, "machine", *arguments, *options],
            stdin=subprocess.PIPE,  # nothing is written: its end tells the twin that we are gone
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "MEMRL_CTRL_STATE": str(place)},
            start_new_session=True,  # Ctrl-C is for whoever runs the loop
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not (found := READY.search(log.read_text())):
            if process.poll() is not None:
                raise ConnectionFailed(f"the twin did not start: {log.read_text().strip()}")
            if time.monotonic() > deadline_s:
                raise ConnectionFailed(
                    f"the twin did not start within {START_S:g} s: is the computer busy with other things?"
                )
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.communicate()
