"""Policies written by hand as ONNX: a proportional controller, and the finish of every policy file.

Needs the `onnx` package (extra `train`), which is imported where it is used.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from memrl_ctrl import __version__
from memrl_ctrl.errors import MissingExtraError
from memrl_ctrl.outputs import write_output
from memrl_ctrl.policy.manifest import (
    MANIFEST_KEY,
    ActionSpec,
    MemorySpec,
    ObservationSpec,
    PolicyManifest,
    Training,
    encode_manifest,
)
from memrl_ctrl.policy.onnxfile import inspect_onnx

OPSET = 17
IR_VERSION = 8


def _onnx() -> Any:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("writing a policy file", "onnx", "train") from error
    return onnx


def finish(model: Any, manifest: PolicyManifest) -> tuple[bytes, PolicyManifest]:
    """Put a manifest into an ONNX model.

    The graph's digest is taken from the bytes as they are serialised and written into the manifest,
    with the time and the versions of the libraries.

    Args:
        model: `onnx.ModelProto`, weights inside; its metadata is replaced.
        manifest: without digest.

    Returns:
        The file's bytes, and the manifest as it stands in them.
    """
    onnx = _onnx()
    del model.metadata_props[:]
    digest = inspect_onnx(model.SerializeToString()).graph_digest
    complete = msgspec.structs.replace(
        manifest,
        graph_digest=digest,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"memrl-ctrl": __version__, "onnx": onnx.__version__, **manifest.versions},
    )
    onnx.helper.set_model_props(model, {MANIFEST_KEY: encode_manifest(complete)})
    data: bytes = model.SerializeToString()
    return data, complete


def write_file(path: str | Path, data: bytes) -> Path:
    """Write a file whole or not at all, and the folders it needs; see `memrl_ctrl.outputs`.

    Raises:
        FileError: it cannot be written; what was there is still there.
    """
    return write_output(path, data)


def proportional_policy(
    *,
    n_slices: int = 128,
    gain_rad: float = 1.0,
    max_step_rad: float = np.pi / 2.0,
    lstm_units: int = 0,
    name: str = "proportional",
) -> bytes:
    """Return a proportional controller on the profile's skewness, as the bytes of a policy file.

    The action is `gain_rad * skewness`, clipped to `max_step_rad`. Skewness is that of the profile
    over RF phase, negative values (noise) taken as zero. At the reference optimum it falls with
    phi_2: where phi_2 is too high, skewness is negative, so that a positive gain corrects. The memory
    counts the calls of each row and takes no part in the action.

    Args:
        n_slices: bins that the policy sees.
        gain_rad: radians asked for at a skewness of 1.
        max_step_rad: largest change in one call, rad.
        lstm_units: units of an LSTM that sees the observation and takes no part in the action: the cost
            of a recurrent policy, for benchmarks. 0: none.
        name: name for people.
    """
    onnx = _onnx()
    helper, proto = onnx.helper, onnx.TensorProto
    phase = (2.0 * np.pi * (np.arange(n_slices) + 0.5) / n_slices - np.pi).astype(np.float32)
    constants = {
        "phase": phase[None, :],
        "zero": np.float32(0.0),
        "tiny": np.float32(1e-12),
        "gain": np.float32(gain_rad),
        "low": np.float32(-max_step_rad),
        "high": np.float32(max_step_rad),
        "one": np.float32(1.0),
        "axis": np.array([1], dtype=np.int64),
        "begin": np.array([0], dtype=np.int64),
        "end": np.array([n_slices], dtype=np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Slice", ["observation", "begin", "end", "axis"], ["raw"]),
        node("Max", ["raw", "zero"], ["density"]),
        node("ReduceSum", ["density", "axis"], ["area_"]),
        node("Max", ["area_", "tiny"], ["area"]),
        node("Mul", ["density", "phase"], ["first"]),
        node("ReduceSum", ["first", "axis"], ["first_sum"]),
        node("Div", ["first_sum", "area"], ["mean"]),
        node("Sub", ["phase", "mean"], ["centred"]),
        node("Mul", ["centred", "centred"], ["squared"]),
        node("Mul", ["squared", "centred"], ["cubed"]),
        node("Mul", ["density", "squared"], ["second"]),
        node("Mul", ["density", "cubed"], ["third"]),
        node("ReduceSum", ["second", "axis"], ["second_sum"]),
        node("ReduceSum", ["third", "axis"], ["third_sum"]),
        node("Div", ["second_sum", "area"], ["variance_"]),
        node("Div", ["third_sum", "area"], ["moment"]),
        node("Max", ["variance_", "tiny"], ["variance"]),
        node("Sqrt", ["variance"], ["width"]),
        node("Mul", ["variance", "width"], ["scale"]),
        node("Div", ["moment", "scale"], ["skewness"]),
        node("Mul", ["skewness", "gain"], ["wanted"]),
        # Stays in the graph so that the input is used; 0 unless what was applied is not finite.
        node("Mul", ["previous_applied", "zero"], ["nothing"]),
        node("Add", ["wanted", "nothing"], ["sum"]),
        node("Clip", ["sum", "low", "high"], ["action"]),
        node("Add", ["calls_in", "one"], ["calls_out"]),
    ]

    memory = [MemorySpec(name_in="calls_in", name_out="calls_out", shape=(1,))]
    if lstm_units:
        more, weights, memories = _lstm_beside(helper, n_slices + 1, lstm_units)
        nodes += more
        constants |= weights
        memory += memories

    def value(label: str, size: int) -> Any:
        return helper.make_tensor_value_info(label, proto.FLOAT, ["batch", size])

    graph = helper.make_graph(
        nodes,
        name,
        [
            value("observation", n_slices + 1),
            value("previous_applied", 1),
            *(value(spec.name_in, spec.shape[0]) for spec in memory),
        ],
        [value("action", 1), *(value(spec.name_out, spec.shape[0]) for spec in memory)],
        [onnx.numpy_helper.from_array(array, label) for label, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    manifest = PolicyManifest(
        name=name,
        observation=ObservationSpec(kind="beam-phase", shape=(n_slices + 1,), n_slices=n_slices),
        action=ActionSpec(kind="delta-phi-rad", shape=(1,), low=-max_step_rad, high=max_step_rad),
        memory=tuple(memory),
        max_step_rad=max_step_rad,
        training=Training(algorithm="none"),
    )
    return finish(model, manifest)[0]


def _lstm_beside(
    helper: Any, inputs: int, units: int
) -> tuple[list[Any], dict[str, Any], list[MemorySpec]]:
    """Return nodes, weights and memories of an LSTM (ONNX operator LSTM) that sees the observation."""
    generator = np.random.default_rng(0)
    scale = 1.0 / np.sqrt(units)
    shapes = {"lstm_w": (1, 4 * units, inputs), "lstm_r": (1, 4 * units, units)}
    weights: dict[str, Any] = {
        label: generator.uniform(-scale, scale, shape).astype(np.float32)
        for label, shape in shapes.items()
    }
    weights["lstm_axis"] = np.array([0], dtype=np.int64)
    node = helper.make_node
    nodes = [
        node("Unsqueeze", [label, "lstm_axis"], [f"{label}_one"])
        for label in ("observation", "h_in", "c_in")
    ]
    nodes += [
        node(
            "LSTM",
            ["observation_one", "lstm_w", "lstm_r", "", "", "h_in_one", "c_in_one"],
            ["", "h_out_one", "c_out_one"],
            hidden_size=units,
        ),
        node("Squeeze", ["h_out_one", "lstm_axis"], ["h_out"]),
        node("Squeeze", ["c_out_one", "lstm_axis"], ["c_out"]),
    ]
    memories = [
        MemorySpec(name_in=f"{label}_in", name_out=f"{label}_out", shape=(units,)) for label in "hc"
    ]
    return nodes, weights, memories
