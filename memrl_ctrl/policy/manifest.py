"""The manifest of a policy file: what a runtime must know to drive it, as JSON in the ONNX metadata.

A policy is one ONNX file whose graph is
`(observation, previous_applied, *memory_in) -> (action, *memory_out)` with a free batch dimension;
normalisation, action shape and scaling are inside the graph.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from memrl_ctrl.policy.statistics import ObservationStatistics

MANIFEST_KEY = "memrl_ctrl.manifest"
"""Key in the ONNX file's `metadata_props`."""
MANIFEST_VERSION = 1


class ObservationSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the first input is."""

    name: str = "observation"
    """Name of the graph's input."""
    kind: Literal["beam-phase", "task"]
    """`beam-phase`: made by `memrl_ctrl.observation`; `task`: the named environment's own."""
    shape: tuple[int, ...]
    """Shape without the batch dimension."""
    n_slices: int = 0
    """For `beam-phase`: bins of the profile; the synchronous phase / pi follows them."""
    version: int = 1
    """For `beam-phase`: version of the observation's definition."""
    meaning: dict[str, Any] = {}
    """For `task`: what the numbers are, where the environment says it. `entries` names those of a vector;
    `axes` those of an array, `channels` what each number along its last axis is (for MiniGrid also the
    `codes` that MiniGrid gives them)."""


class ActionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the first output is, and what `previous_applied` carries."""

    name: str = "action"
    """Name of the graph's output."""
    kind: Literal["delta-phi-rad", "task"]
    """`delta-phi-rad`: change of phi_hw in radians [batch, 1]; `task`: the environment's action."""
    shape: tuple[int, ...]
    """Shape without the batch dimension."""
    previous_name: str = "previous_applied"
    """Name of the input with what was really applied after the last call; 0 at the start."""
    low: float
    """Smallest value that the graph can give."""
    high: float
    """Largest value that the graph can give."""
    choices: tuple[int, ...] = ()
    """For discrete actions how many choices each has. The output is then int64 [batch, actions], the
    choices from 0; `previous_applied` is float32 of the same shape: 1 + the choice that was made, and
    0 at the start."""

    allowed_name: str = ""
    """Name of the input float32 [batch, sum of choices] with 1 where a choice may be made now, 0 where it
    may not; empty: there is none. Stands behind `previous_name` among the graph's inputs."""
    names: tuple[str, ...] = ()
    """For one discrete action names of its choices, where the environment says them."""
    single: bool = True
    """For one discrete action whether the environment takes it as a number, not as a vector of one."""

    @property
    def dtype(self) -> Literal["float32", "int64"]:
        """Type of the output's elements."""
        return "int64" if self.choices else "float32"


class MemorySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One memory array, fed back from output to input."""

    name_in: str
    """Name of the graph's input."""
    name_out: str
    """Name of the graph's output."""
    shape: tuple[int, ...]
    """Shape without the batch dimension."""
    reset: float = 0.0
    """Value of every element at the start of an episode."""
    dtype: Literal["float32", "int64"] = "float32"


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a policy comes from."""

    algorithm: str
    """For example `lstm-td3`; `none` for one that was not trained."""
    task: str = ""
    """Environment it was trained in."""
    steps: int = 0
    """Environment steps it was trained for."""
    seed: int = 0
    """Seed of the training run."""
    configuration: dict[str, Any] = {}
    """The whole resolved training configuration."""


class PolicyManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a runtime must know of a policy file."""

    version: int = MANIFEST_VERSION
    name: str
    """Name for people."""
    observation: ObservationSpec
    action: ActionSpec
    memory: tuple[MemorySpec, ...] = ()
    max_step_rad: float = 0.0
    """For `delta-phi-rad`: largest change that it can ask for in one cycle, rad."""
    training: Training
    statistics: ObservationStatistics | None = None
    """For `beam-phase`: what the training saw; None in files that do not say it."""
    graph_digest: str = ""
    """SHA-256 over the bytes of the GraphProto (nodes and weights) as they stand in the file,
    hexadecimal. The file's own digest, over all of its bytes, is computed at load and recorded."""
    parity_max_abs_diff: float | None = None
    """Largest difference between torch and onnxruntime that the export measured."""
    parity_steps: int = 0
    """Steps (rows times calls) over which parity was measured."""
    created_utc: str = ""
    versions: dict[str, str] = {}
    """Versions of the libraries that wrote it."""

    def __post_init__(self) -> None:
        """Refuse a manifest that contradicts itself.

        Raises:
            ValueError: with what does not fit (msgspec turns it into a ValidationError).
        """
        if self.version != MANIFEST_VERSION:
            raise ValueError(f"manifest version {self.version}; known is {MANIFEST_VERSION}")
        observation, action = self.observation, self.action
        if observation.kind == "beam-phase" and (
            observation.n_slices < 8 or observation.shape != (observation.n_slices + 1,)
        ):
            raise ValueError(
                f"a beam-phase observation of {observation.n_slices} slices (8 or more) has the "
                f"shape ({observation.n_slices + 1},), not {observation.shape}"
            )
        if action.kind == "delta-phi-rad" and not (
            action.shape == (1,) and math.isfinite(self.max_step_rad) and self.max_step_rad > 0.0
        ):
            raise ValueError(
                f"a delta-phi-rad action has the shape (1,) and a positive max_step_rad, not "
                f"{action.shape} and {self.max_step_rad}"
            )
        if self.statistics is not None and self.statistics.n_slices != observation.n_slices:
            raise ValueError(
                f"the statistics are of {self.statistics.n_slices} slices, the observation has "
                f"{observation.n_slices}"
            )
        names = [observation.name, action.previous_name, *(m.name_in for m in self.memory)]
        names += [action.allowed_name] if action.allowed_name else []
        if action.allowed_name and not action.choices:
            raise ValueError("only choices can be allowed or not; this action has none")
        if len(set(names)) != len(names):
            raise ValueError(f"input names stand twice: {names}")


def encode_manifest(manifest: PolicyManifest) -> str:
    """Return the manifest as JSON."""
    return msgspec.json.encode(manifest).decode()


def decode_manifest(text: str) -> PolicyManifest:
    """Read a manifest from JSON.

    Raises:
        msgspec.MsgspecError: it is no manifest; says where and what was expected.
    """
    return msgspec.json.decode(text, type=PolicyManifest)
