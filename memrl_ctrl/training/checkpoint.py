"""Checkpoints: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memrl_ctrl.errors import FileError, UsageError

VERSION = 2
FOLDER = "checkpoints"


def file_of(folder: Path, steps: int) -> Path:
    """Return the file of a run's checkpoint at `steps`."""
    return folder / FOLDER / f"step-{steps:012d}.pt"


def save(folder: Path, steps: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint so that a reader sees the whole file or none.

    Args:
        folder: the run folder.
        steps: environment steps so far; names the file.
        content: tensors and plain values.

    Returns:
        The file.
    """
    path = file_of(folder, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"version": VERSION, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def find(folder: Path, steps: int | None = None) -> Path:
    """Return a checkpoint of a run: the one at `steps`, or the last.

    Raises:
        FileError: the folder is no run, or has no such checkpoint; says which there are.
    """
    found = all_of(folder)
    if steps is not None and steps not in found:
        listed = ", ".join(str(n) for n in found)
        raise UsageError(f"run {folder} has no checkpoint at step {steps}; there is: {listed}")
    return file_of(folder, found[-1] if steps is None else steps)


def all_of(folder: Path) -> list[int]:
    """Return the environment steps of a run's checkpoints, the first one first.

    Raises:
        FileError: the folder is no run, or has no checkpoints.
    """
    if not folder.is_dir():
        raise FileError(folder, "is no run folder; `memrl-ctrl train` makes one")
    files = sorted((folder / FOLDER).glob("step-*.pt"))
    if not files:
        raise FileError(folder, "has no checkpoints; it is no run folder, or the run just began")
    return sorted(int(file.stem.partition("-")[2]) for file in files)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        FileError: it is missing, cut short, damaged, or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise FileError(
            path, "is damaged or cut short; take another checkpoint of the run with --checkpoint"
        ) from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise FileError(path, f"is no checkpoint of version {VERSION}")
    return content


def packed(value: Any) -> Any:
    """Return nested dictionaries and sequences with their arrays as tensors, which a checkpoint holds."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [packed(item) for item in value]
    return value


def unpacked(value: Any) -> Any:
    """Return what `packed` was given; sequences as lists, numpy's scalars as plain numbers."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, Mapping):
        return {key: unpacked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    return value
