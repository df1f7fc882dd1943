"""Policies that come with memrl-ctrl, by name: for looking at, not for a machine.

| name | task | trained as |
|---|---|---|
| `minigrid-memory-s13` | `MiniGrid-MemoryS13-v0`, view of 3x3 | `ppo-lstm-minigrid-memory-s13`, seed 0 |
| `maze-random` | `memrl/MazeRandom-S11-v0`, view of 3x3 and a compass | `ppo-lstm-maze-random`, seed 0 |
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

FOLDER = "shipped"
SUFFIX = ".onnx"


def shipped() -> list[str]:
    """Names of the shipped policies."""
    names = (file.name for file in (files(__package__) / FOLDER).iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def locate(policy: Path) -> Path:
    """Return the file of a shipped policy; another path as it is.

    Args:
        policy: name of a shipped policy, or the path of a run folder or a policy file. What exists at
            that path comes before what is shipped by that name.
    """
    if policy.exists() or str(policy) not in shipped():
        return policy
    return Path(str(files(__package__) / FOLDER / f"{policy}{SUFFIX}"))
