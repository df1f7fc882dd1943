"""Where beam policies that come with memrl-ctrl are found: ONNX files, each with its model card.

`psb`: the PS Booster's second harmonic, any program; see psb.md.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def directory() -> Path:
    """Return the folder that holds the policies."""
    return Path(str(files(__package__)))
