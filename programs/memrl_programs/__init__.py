"""Machines and cycle programs that come with memrl-ctrl. Data only."""

from pathlib import Path


def directory() -> Path:
    """Return the folder that holds the YAML files."""
    return Path(__file__).parent
