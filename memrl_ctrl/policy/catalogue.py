"""Policies that come with memrl-ctrl, by name.

| name | task | trained as |
|---|---|---|
| `minigrid-memory-s13` | `MiniGrid-MemoryS13-v0`, view of 3x3 | `ppo-lstm-minigrid-memory-s13`, seed 0 |
| `maze-random` | `memrl/MazeRandom-S11-v0`, view of 3x3 and a compass | `ppo-lstm-maze-random`, seed 0 |
| `psb` | `memrl/BeamPhase-v0`, 128 slices | `psb`, seed 1; lies with memrl_deploy, with its model card |

Those of games are for looking at. A package brings more by an entry point of the group
`memrl_ctrl.policies`: a function that returns a folder of ONNX files.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from memrl_ctrl import registry

POLICIES = "memrl_ctrl.policies"
FOLDER = "shipped"
SUFFIX = ".onnx"


def _shipped() -> dict[str, Path]:
    """Return the files of all shipped policies by name."""
    folders = [Path(str(files(__package__))) / FOLDER]
    folders += [
        registry.load(POLICIES, "policy folder", name)() for name in registry.points(POLICIES)
    ]
    return {
        file.name.removesuffix(SUFFIX): file
        for folder in folders
        for file in folder.iterdir()
        if file.name.endswith(SUFFIX)
    }


def shipped() -> list[str]:
    """Names of the shipped policies."""
    return sorted(_shipped())


def locate(policy: Path) -> Path:
    """Return the file of a shipped policy; another path as it is.

    Args:
        policy: name of a shipped policy, or the path of a run folder or a policy file. What exists at
            that path comes before what is shipped by that name.
    """
    if policy.exists():
        return policy
    return _shipped().get(str(policy), policy)
