"""From a reading to the policy's answer, with the memory kept per control point.

The runtime and the replay use the same object, so that a replay repeats exactly what was done.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl import observation
from memrl_ctrl.backend import BoolArray, MachineDescription, Reading
from memrl_ctrl.cheapest_path import cheapest_path
from memrl_ctrl.controllers import Driven
from memrl_ctrl.errors import MismatchError
from memrl_ctrl.metrics import measure
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.profile_sums import ProfileSums
from memrl_ctrl.trace import PolicyStep

FloatArray = NDArray[np.float64]
Asked = OnnxPolicy | Driven
"""A policy file, or a classical controller that is called like one."""


def check_fit(policy: Asked, machine: MachineDescription) -> None:
    """Refuse a policy that cannot drive a machine.

    A largest step above the machine's is no reason: the guard cuts it.

    Raises:
        MismatchError: with what does not fit, and what would.
    """
    spec = policy.manifest
    if spec.observation.kind != "beam-phase" or spec.action.kind != "delta-phi-rad":
        task = spec.training.task or "another task"
        raise MismatchError(
            f"{policy.path} is a policy for {task}, not for the beam: it sees "
            f"{spec.observation.kind!r} and gives {spec.action.kind!r}; a machine needs a policy that "
            "was trained in memrl/BeamPhase-v0"
        )
    if spec.observation.version != observation.VERSION:
        raise MismatchError(
            f"{policy.path} sees version {spec.observation.version} of the observation; this "
            f"release makes version {observation.VERSION}: use the release that exported it, or "
            "train again"
        )
    if spec.observation.n_slices > machine.n_slices:
        raise MismatchError(
            f"{policy.path} sees {spec.observation.n_slices} slices a turn and the machine "
            f"{machine.name!r} measures only {machine.n_slices}: use a policy with at most "
            f"{machine.n_slices} slices"
        )


class Inference:
    """A policy on a machine: one call for all control points, one memory for each.

    A point whose reading cannot be used is not shown (the policy sees zeros) and keeps its memory. A
    point whose answer or memory comes out not finite keeps its memory too.

    Args:
        policy: its memory is reset.
        machine: for the number of points.

    Raises:
        MismatchError: they do not fit.
    """

    def __init__(self, policy: Asked, machine: MachineDescription) -> None:
        check_fit(policy, machine)
        self.policy = policy
        self._n_slices = policy.manifest.observation.n_slices
        self._outputs = {m.name_in: m.name_out for m in policy.manifest.memory}
        # What was applied when the policy was last asked; NaN before the first time.
        self._applied = np.full(machine.points, np.nan)
        self._applied_before = self._applied
        self._warm_up(machine)
        policy.reset(machine.points)

    def _warm_up(self, machine: MachineDescription) -> None:
        """Do everything once, the guard's part too, so that no compilation falls into the first cycle."""
        points, spec = machine.points, self.policy.manifest
        profile = np.ones((points, machine.n_slices), dtype=np.float32)
        phase = np.zeros(points)
        # A reading's arrays may be read-only (they come from a frame): another type when compiled.
        for writeable in (True, False):
            profile.flags.writeable = phase.flags.writeable = writeable
            beam_observation(profile, phase, self._n_slices)
            measure(profile)
            ProfileSums.of(profile)
        choices = np.zeros((points, 2))
        cheapest_path(choices, choices)
        self.policy.reset(points)
        self.policy.act(
            np.zeros((points, *spec.observation.shape), dtype=np.float32),
            np.zeros((points, *spec.action.shape), dtype=np.float32),
        )

    def observe(self, reading: Reading, usable: BoolArray) -> NDArray[np.float32]:
        """Return what the policy sees [points, n_slices + 1]."""
        seen = beam_observation(reading.profile, reading.synchronous_phase_rad, self._n_slices)
        seen[~usable] = 0.0
        return seen

    def step(
        self, seen: NDArray[np.float32], applied_rad: FloatArray, usable: BoolArray
    ) -> PolicyStep:
        """Ask the policy.

        Args:
            seen: from `observe`.
            applied_rad: phi_hw applied when the reading was taken [points].
            usable: points that may be shown [points].

        Returns:
            Exactly what went in and what came out. The memory is what the points carry on.
        """
        moved = np.where(usable, applied_rad - self._applied, 0.0)
        self._applied_before = self._applied
        self.note_applied(applied_rad, usable)
        return self.ask(seen, np.nan_to_num(moved, nan=0.0).astype(np.float32)[:, None], usable)

    def undo(self, step: PolicyStep) -> None:
        """Forget the last `step`, which returned this: as if its cycle had never been seen."""
        self.policy.memory = dict(step.memory_in)
        self._applied = self._applied_before

    def forget(self) -> None:
        """Forget what was applied, as at the start; the memory is the policy's own to reset."""
        self._applied = np.full_like(self._applied, np.nan)
        self._applied_before = self._applied

    def note_applied(self, applied_rad: FloatArray, usable: BoolArray) -> None:
        """Keep what is applied now at the points that are shown; the next `step` starts from it."""
        self._applied = np.where(usable, applied_rad, self._applied)

    def ask(
        self, seen: NDArray[np.float32], previous: NDArray[np.float32], usable: BoolArray
    ) -> PolicyStep:
        """Ask the policy, with the change that was really applied [points, 1] given, rad."""
        before = self.policy.memory
        action = self.policy.act(seen, previous)
        after = self.policy.memory
        keeps = ~usable | ~np.isfinite(action).all(axis=1)
        for array in after.values():
            keeps |= ~np.isfinite(array.reshape(array.shape[0], -1)).all(axis=1)
        if keeps.any():
            for name, array in after.items():
                array[keeps] = before[name][keeps]
            self.policy.memory = after
        return PolicyStep(
            observation=seen,
            previous_applied=previous,
            memory_in=before,
            action=action,
            memory_out={self._outputs[name]: array for name, array in after.items()},
        )
