"""Cells that were played, kept in a folder, so that an interrupted table goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memrl_ctrl import __version__
from memrl_ctrl.bench.beam.conditions import USUAL, Condition
from memrl_ctrl.bench.beam.play import Played
from memrl_ctrl.errors import FileError
from memrl_ctrl.outputs import output_file


def key_of(
    digest: str,
    condition: Condition,
    *,
    episodes: int,
    seed: int,
    programs: Sequence[str | Path],
    ablated: bool,
) -> str:
    """Return what a cell depends on as a digest, hexadecimal.

    Args:
        digest: of the policy or controller.
        condition: what it meets.
        episodes, seed, programs: see `play`.
        ablated: whether its memory is cut.
    """
    machine = condition.machine
    what = [
        __version__, digest, condition.name, condition.shots, dict(USUAL), dict(condition.options),
        [dict(fault) for fault in condition.faults], machine.__name__ if machine else "",
        condition.correlation_slices,
        episodes, seed, [str(program) for program in programs], ablated,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class Store:
    """A folder with a file for each cell; without a folder nothing is kept.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / "cells"

    def load(self, name: str, condition: str, key: str) -> Played | None:
        """Return a cell that was played with the same settings, or None.

        Raises:
            FileError: its file is damaged.
        """
        if self._folder is None:
            return None
        path = self._path(name, condition)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as held:
                if str(held["key"]) != key:
                    return None
                return Played(**{k: held[k].astype(_TYPES[k]) for k in _TYPES})
        except (OSError, ValueError, KeyError) as error:
            raise FileError(
                path, f"is damaged ({error}); delete it to have it played again"
            ) from error

    def save(self, name: str, condition: str, key: str, played: Played) -> None:
        """Keep a cell, whole or not at all."""
        if self._folder is None:
            return
        arrays: dict[str, Any] = {k: getattr(played, k) for k in _TYPES}
        arrays["error_deg"] = played.error_deg.astype(np.float32)
        arrays["applied_deg"] = played.applied_deg.astype(np.float32)
        with (
            output_file(self._path(name, condition)) as partial,
            partial.open("wb") as file,
        ):
            np.savez_compressed(file, key=np.array(key), **arrays)

    def _path(self, name: str, condition: str) -> Path:
        if self._folder is None:
            raise ValueError("there is no folder")
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        return self._folder / f"{safe}__{condition}.npz"


_TYPES = {
    "error_deg": np.float64,
    "applied_deg": np.float64,
    "decide_s": np.float64,
    "rows": np.int64,
}
