"""What a classical controller is: a pure function with an explicit memory, called like a policy.

`Controller.step` is `(observation, previous_applied_rad, memory) -> (delta_phi_rad, memory)`, batched
over rows; all that is carried from shot to shot stands in the memory, arrays of fixed shapes. So the
same object runs hundreds of episodes at once, is recorded and replayed like a policy file, and one row
never touches another. `Driven` keeps the memory between calls, as `memrl_ctrl.policy.OnnxPolicy` does.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MismatchError
from memrl_ctrl.policy.manifest import (
    ActionSpec,
    MemorySpec,
    ObservationSpec,
    PolicyManifest,
    Training,
)

if TYPE_CHECKING:
    from memrl_ctrl.beam import Conditions

Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Memory = Mapping[str, Array]

N_SLICES = 128
"""Bins that controllers see, unless told otherwise."""
LARGEST_STEP_RAD = math.pi / 2.0
"""Largest change that a controller asks for in one shot, rad: as the policies'."""


class Controller(ABC):
    """A control law for many control points at once, without a state of its own.

    One with numbers to tune is a dataclass; its fields are its settings.

    A row that is not shown (an observation of zeros: its reading could not be used) gets no change and
    keeps its memory.
    """

    name: ClassVar[str]
    """Name in tables, on the command line and in traces."""
    n_slices: int = N_SLICES
    """Bins of the profile that it sees."""
    ranges: ClassVar[Mapping[str, tuple[float, float, str]]] = MappingProxyType({})
    """What is tuned: the argument's lower and upper end, and the scale, `linear` or `log`."""
    needs_points: ClassVar[bool] = False
    """Whether it has to be told what the control system knows of each point; see `inform`."""
    _points: Conditions | None = None

    def inform(self, points: Conditions) -> None:
        """Tell what the control system knows of each row: field, voltages, ring.

        Args:
            points: one for each row; phi_2, emittance and intensity do not count.
        """
        self._points = points

    def points(self, rows: int) -> Conditions:
        """Return what is known of each row.

        Raises:
            MismatchError: it was not told, or of another number of rows.
        """
        if self._points is None:
            raise MismatchError(
                f"controller {self.name!r} works with a model of each point: it needs the cycle program "
                "that the machine plays"
            )
        if len(self._points) != rows:
            raise MismatchError(
                f"controller {self.name!r} knows {len(self._points)} points, and {rows} are asked for"
            )
        return self._points

    @abstractmethod
    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the memory: names and shapes of float32 arrays without the batch dimension."""

    @abstractmethod
    def decide(
        self, observation: Array, previous_rad: NDArray[np.float64], memory: dict[str, Array]
    ) -> tuple[NDArray[np.float64], dict[str, Array]]:
        """Return the changes asked for, rad [rows], and the new memory.

        Args:
            observation: [rows, n_slices + 1]; see `memrl_ctrl.observation`.
            previous_rad: what was really applied since the last call [rows], rad.
            memory: arrays [rows, ...], which may be changed in place.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What it was tuned to, as plain values."""
        own: Any = self
        return (
            {one.name: getattr(self, one.name) for one in fields(own)} if is_dataclass(own) else {}
        )

    @property
    def digest(self) -> str:
        """SHA-256 of name and settings, hexadecimal."""
        return hashlib.sha256(settings_text(self).encode()).hexdigest()

    def step(
        self, observation: Array, previous_applied_rad: Array, memory: Memory
    ) -> tuple[Array, dict[str, Array]]:
        """Decide for every row.

        Args:
            observation: [rows, n_slices + 1]; zeros where there is nothing to be seen.
            previous_applied_rad: [rows, 1], 0 at the start.
            memory: from the last call, or zeros at the start; not changed.

        Returns:
            Changes of phi_hw [rows, 1], rad, within the largest step, and the new memory.
        """
        shown = observation[:, :-1].any(axis=1) & np.isfinite(observation).all(axis=1)
        before = {name: array.copy() for name, array in memory.items()}
        wanted, after = self.decide(
            observation, previous_applied_rad[:, 0].astype(np.float64), before
        )
        clipped = np.clip(np.where(shown, wanted, 0.0), -LARGEST_STEP_RAD, LARGEST_STEP_RAD)
        hidden = np.flatnonzero(~shown)
        for name, array in after.items():
            array[hidden] = memory[name][hidden]
        return clipped.astype(np.float32)[:, None], after


def settings_text(controller: Controller) -> str:
    """Return name and settings as one canonical line of JSON."""
    return json.dumps(
        {"controller": controller.name, "settings": controller.settings}, sort_keys=True
    )


class Driven:
    """A controller with the memory of its rows; the same calls as `memrl_ctrl.policy.OnnxPolicy`.

    Args:
        controller: what decides.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.path = f"controller {controller.name}"
        """For messages and provenance."""
        self.data = settings_text(controller).encode()
        """Name and settings: what stands where a policy has its file."""
        specs = controller.memory_specs()
        self._manifest = PolicyManifest(
            name=controller.name,
            observation=ObservationSpec(
                kind="beam-phase", shape=(controller.n_slices + 1,), n_slices=controller.n_slices
            ),
            action=ActionSpec(
                kind="delta-phi-rad", shape=(1,), low=-LARGEST_STEP_RAD, high=LARGEST_STEP_RAD
            ),
            memory=tuple(
                MemorySpec(name_in=f"{name}_in", name_out=f"{name}_out", shape=shape)
                for name, shape in specs.items()
            ),
            max_step_rad=LARGEST_STEP_RAD,
            training=Training(
                algorithm=f"controller {controller.name}", configuration=controller.settings
            ),
        )
        self.reset(0)

    @property
    def manifest(self) -> PolicyManifest:
        """What a policy file would say of itself."""
        return self._manifest

    @property
    def digest(self) -> str:
        """SHA-256 of name and settings, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def inform(self, points: Conditions) -> None:
        """Tell what the control system knows of each row; see `Controller.inform`."""
        self.controller.inform(points)

    @property
    def rows(self) -> int:
        """Rows that the memory is kept for."""
        return self._rows

    def reset(self, rows: int, mask: BoolArray | None = None) -> None:
        """Begin episodes: memory back to zeros, in all rows or those in `mask` [rows]."""
        if mask is None or rows != self.rows:
            self._rows = rows
            self._memory = {
                name: np.zeros((rows, *shape), dtype=np.float32)
                for name, shape in self.controller.memory_specs().items()
            }
            return
        for name, array in self._memory.items():
            fresh = array.copy()
            fresh[mask] = 0.0
            self._memory[name] = fresh

    _rows = -1

    def act(self, observation: Array, previous_applied: Array) -> Array:
        """Ask for the next change of every row, rad [rows, 1], and carry the memory on.

        Raises:
            ValueError: the shapes are not those of the manifest, or `reset` was for other rows.
        """
        for what, array, shape in (
            ("observation", observation, self._manifest.observation.shape),
            ("previous_applied", previous_applied, (1,)),
        ):
            if array.shape != (self.rows, *shape):
                raise ValueError(f"{what} has shape {array.shape}, not {(self.rows, *shape)}")
        action, self._memory = self.controller.step(observation, previous_applied, self._memory)
        return action

    @property
    def memory(self) -> dict[str, NDArray[Any]]:
        """Copies of the memory, by input name [rows, *shape]."""
        return {f"{name}_in": array.copy() for name, array in self._memory.items()}

    @memory.setter
    def memory(self, memory: Mapping[str, NDArray[Any]]) -> None:
        wanted = {f"{name}_in": shape for name, shape in self.controller.memory_specs().items()}
        if set(memory) != set(wanted):
            raise ValueError(f"memory has {sorted(memory)}, the controller has {sorted(wanted)}")
        for name, array in memory.items():
            if array.shape[1:] != wanted[name]:
                raise ValueError(f"memory {name!r} is {array.shape[1:]}, not {wanted[name]}")
            self._rows = array.shape[0]
        self._memory = {
            name.removesuffix("_in"): np.array(array, dtype=np.float32)
            for name, array in memory.items()
        }
