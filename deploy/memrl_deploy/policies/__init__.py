"""Where beam policies that come with memrl-ctrl are found: ONNX files, each with its model card.

None meets the specification yet, so none is here.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def directory() -> Path:
    """Return the folder that holds the policies."""
    return Path(str(files(__package__)))
