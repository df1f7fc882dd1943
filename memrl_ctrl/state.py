"""Where an installation keeps what is to stay between runs: keys, and nothing that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return the folder for what is kept between runs.

    `$MEMRL_CTRL_STATE`, else `$XDG_STATE_HOME/memrl-ctrl`, else `~/.local/state/memrl-ctrl`.
    """
    if given := os.environ.get("MEMRL_CTRL_STATE"):
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "memrl-ctrl"
