"""Runs a policy file: onnxruntime, one thread, memory per row.

Two digests stand for a policy. The graph digest (in the manifest, checked at load) covers nodes and
weights as they stand in the file. The file digest (`OnnxPolicy.digest`, computed at load and recorded
in every trace) is the SHA-256 of all bytes of the file, manifest included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import PolicyError
from memrl_ctrl.policy._onnxruntime import ort, ort_state
from memrl_ctrl.policy.manifest import (
    MANIFEST_KEY,
    MemorySpec,
    PolicyManifest,
    decode_manifest,
)
from memrl_ctrl.policy.onnxfile import OnnxFileError, inspect_onnx

MAX_FILE_BYTES = 512 << 20
"""Largest file that is read, bytes."""

_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        value
        for value in vars(ort_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)
"""What onnxruntime raises; its own exceptions share no base but Exception."""

_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}
_FROM_BYTES = "policy given as bytes"

BoolArray = NDArray[np.bool_]
FloatBatch = NDArray[np.float32]


class OnnxPolicy:
    """A policy and the memory of its rows.

    Made by `load`; before the first `act`, `reset` says how many rows there are.
    """

    def __init__(self, session: Any, manifest: PolicyManifest, data: bytes, path: str) -> None:
        self._session = session
        self._manifest = manifest
        self._digest = hashlib.sha256(data).hexdigest()
        self.data = data
        """The whole file."""
        self.path = path
        """Where it was read from, for messages and provenance."""
        self._outputs = [manifest.action.name, *(m.name_out for m in manifest.memory)]
        self._memory: dict[str, NDArray[Any]] = {}
        self.reset(0)

    @classmethod
    def load(cls, source: str | Path | bytes) -> OnnxPolicy:
        """Read a policy file and prove that it is what its manifest says.

        Args:
            source: path of the file, or its bytes.

        Raises:
            PolicyError: it cannot be read, has no valid manifest, keeps weights in other files, uses
                operators of its own, or its inputs, outputs or digest are not as the manifest says.
        """
        path, data = _read(source)
        try:
            found = inspect_onnx(data)
        except OnnxFileError as error:
            raise PolicyError(path, f"not a usable ONNX file: {error}") from error
        manifest = _manifest(path, found.metadata)
        if found.graph_digest != manifest.graph_digest:
            raise PolicyError(
                path,
                f"its graph was changed after it was written: the manifest gives the digest "
                f"{manifest.graph_digest[:12] or '(none)'}, the graph has {found.graph_digest[:12]}; "
                "export it again",
            )
        session = open_session(path, data)
        _check_interface(path, session, manifest)
        return cls(session, manifest, data, path)

    @property
    def manifest(self) -> PolicyManifest:
        """What the file says of itself."""
        return self._manifest

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes of the file, hexadecimal."""
        return self._digest

    @property
    def rows(self) -> int:
        """Rows that the memory is kept for."""
        return self._rows

    def reset(self, rows: int, mask: BoolArray | None = None) -> None:
        """Begin episodes: memory back to its reset value.

        Args:
            rows: number of rows (control points, environments).
            mask: rows to begin anew [rows]; None is all. A change of `rows` begins all anew.
        """
        if mask is None or rows != self._rows:
            self._rows = rows
            self._memory = {
                spec.name_in: np.full((rows, *spec.shape), spec.reset, dtype=spec.dtype)
                for spec in self._manifest.memory
            }
            return
        for spec in self._manifest.memory:
            memory = self._memory[spec.name_in].copy()
            memory[mask] = spec.reset
            self._memory[spec.name_in] = memory

    _rows = -1
    _allowed: FloatBatch | None = None

    def allow(self, allowed: FloatBatch) -> None:
        """Say which choices may be made in the next call of `act`; without it all may.

        Args:
            allowed: 1 where a choice may be made [rows, sum of choices]; a policy that was trained where
                all may be made does not look at it.
        """
        self._allowed = np.ascontiguousarray(allowed, dtype=np.float32)

    def act(self, observation: FloatBatch, previous_applied: FloatBatch) -> NDArray[Any]:
        """Ask for the next action of every row, and carry the memory on.

        Args:
            observation: [rows, *manifest.observation.shape] float32.
            previous_applied: [rows, *manifest.action.shape] float32: what was really applied since
                the last call, 0 at the start.

        Returns:
            [rows, *manifest.action.shape] float32; rad for `delta-phi-rad`; int64 for choices.

        Raises:
            ValueError: the shapes are not those of the manifest, or `reset` was for other rows.
        """
        spec = self._manifest
        for what, array, shape in (
            ("observation", observation, spec.observation.shape),
            ("previous_applied", previous_applied, spec.action.shape),
        ):
            if array.shape != (self._rows, *shape):
                raise ValueError(f"{what} has shape {array.shape}, not {(self._rows, *shape)}")
        feeds = {
            spec.observation.name: np.ascontiguousarray(observation, dtype=np.float32),
            spec.action.previous_name: np.ascontiguousarray(previous_applied, dtype=np.float32),
            **self._memory,
        }
        if spec.action.allowed_name:
            every = np.ones((self._rows, sum(spec.action.choices)), dtype=np.float32)
            feeds[spec.action.allowed_name] = every if self._allowed is None else self._allowed
        self._allowed = None
        action, *memory = self._session.run(self._outputs, feeds)
        self._memory = {m.name_in: new for m, new in zip(spec.memory, memory, strict=True)}
        result: NDArray[Any] = action
        return result

    @property
    def memory(self) -> dict[str, NDArray[Any]]:
        """Copies of the memory, by input name [rows, *shape]."""
        return {name: array.copy() for name, array in self._memory.items()}

    @memory.setter
    def memory(self, memory: Mapping[str, NDArray[Any]]) -> None:
        specs = {spec.name_in: spec for spec in self._manifest.memory}
        if set(memory) != set(specs):
            raise ValueError(f"memory has {sorted(memory)}, the policy has {sorted(specs)}")
        rows = {array.shape[0] for array in memory.values()}
        if len(rows) > 1:
            raise ValueError(f"memory arrays have different numbers of rows: {sorted(rows)}")
        self._rows = rows.pop() if rows else self._rows
        self._memory = {name: _fitting(specs[name], array) for name, array in memory.items()}


def _fitting(spec: MemorySpec, array: NDArray[Any]) -> NDArray[Any]:
    if array.shape[1:] != tuple(spec.shape) or array.dtype != np.dtype(spec.dtype):
        raise ValueError(
            f"memory {spec.name_in!r} is {array.dtype} {array.shape[1:]}, "
            f"not {spec.dtype} {tuple(spec.shape)}"
        )
    return array.copy()


def _read(source: str | Path | bytes) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return _FROM_BYTES, source
    path = Path(source)
    try:
        if path.is_dir():
            raise PolicyError(path, "is a folder; a policy is one ONNX file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PolicyError(path, f"larger than {MAX_FILE_BYTES >> 20} MB, no policy is")
        return str(path), path.read_bytes()
    except FileNotFoundError as error:
        raise PolicyError(
            path, "no such file; `memrl-ctrl export RUN --out FILE` writes one"
        ) from error
    except OSError as error:
        raise PolicyError(path, f"cannot be read: {error.strerror}") from error


def _manifest(path: str, metadata: Mapping[str, str]) -> PolicyManifest:
    text = metadata.get(MANIFEST_KEY)
    if text is None:
        raise PolicyError(
            path,
            f"an ONNX file without a policy manifest (metadata {MANIFEST_KEY!r}); "
            "policies are written by `memrl-ctrl export`",
        )
    try:
        return decode_manifest(text)
    except msgspec.MsgspecError as error:
        raise PolicyError(path, f"its policy manifest is not valid: {error}") from error


def open_session(path: str, data: bytes) -> Any:
    """Open an ONNX file in onnxruntime: one thread, no spinning.

    Raises:
        PolicyError: it cannot be loaded.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    for key, value in (
        ("session.intra_op.allow_spinning", "0"),
        ("session.inter_op.allow_spinning", "0"),
        ("session.load_model_format", "ONNX"),
    ):
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except _ORT_ERRORS as error:
        raise PolicyError(
            path, f"onnxruntime {ort.__version__} cannot load it: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_interface(path: str, session: Any, manifest: PolicyManifest) -> None:
    observation, action = manifest.observation, manifest.action
    wanted_in = {
        observation.name: ("float32", observation.shape),
        action.previous_name: ("float32", action.shape),
        **{m.name_in: (m.dtype, m.shape) for m in manifest.memory},
    }
    if action.allowed_name:
        wanted_in[action.allowed_name] = ("float32", (sum(action.choices),))
    wanted_out = {
        action.name: (action.dtype, action.shape),
        **{m.name_out: (m.dtype, m.shape) for m in manifest.memory},
    }
    for kind, wanted, nodes in (
        ("inputs", wanted_in, session.get_inputs()),
        ("outputs", wanted_out, session.get_outputs()),
    ):
        found = {node.name: node for node in nodes}
        if set(found) != set(wanted):
            raise PolicyError(
                path, f"its {kind} are {sorted(found)}, its manifest says {sorted(wanted)}"
            )
        for name, (dtype, shape) in wanted.items():
            if found[name].type != _TYPES[dtype]:
                raise PolicyError(path, f"{name!r} is a {found[name].type}; {_said(dtype, shape)}")
            if kind == "inputs":
                _check_input(path, found[name], dtype, tuple(shape))
    _probe(path, session, wanted_in, wanted_out)


def _said(dtype: str, shape: tuple[int, ...]) -> str:
    return f"its manifest says {dtype} [batch, {', '.join(map(str, shape))}]"


def _check_input(path: str, node: Any, dtype: str, shape: tuple[int, ...]) -> None:
    if len(node.shape) != 1 + len(shape) or tuple(node.shape[1:]) != shape:
        raise PolicyError(path, f"{node.name!r} has shape {node.shape}; {_said(dtype, shape)}")
    if isinstance(node.shape[0], int):
        raise PolicyError(
            path,
            f"{node.name!r} has a fixed batch of {node.shape[0]}; a policy serves any number of "
            "control points: export it with a free batch dimension",
        )


_Specs = Mapping[str, tuple[str, tuple[int, ...]]]


def _probe(path: str, session: Any, inputs: _Specs, outputs: _Specs) -> None:
    """Run once on zeros: graphs may leave the shapes of their outputs open."""
    for rows in (1, 3):
        feeds = {n: np.zeros((rows, *shape), dtype) for n, (dtype, shape) in inputs.items()}
        try:
            results = session.run(list(outputs), feeds)
        except _ORT_ERRORS as error:
            raise PolicyError(
                path, f"it cannot be run on {rows} rows of zeros: {_first_line(error)}"
            ) from error
        for (name, (dtype, shape)), result in zip(outputs.items(), results, strict=True):
            if result.shape != (rows, *shape):
                raise PolicyError(
                    path,
                    f"{name!r} came out as {list(result.shape)} for {rows} rows; "
                    f"{_said(dtype, shape)}",
                )
