"""Policy files: what is accepted, what is refused with which sentence, and how memory is carried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from memrl_ctrl.errors import FileError, PolicyError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.manifest import MANIFEST_KEY, decode_manifest, encode_manifest
from memrl_ctrl.policy.write import finish, proportional_policy, write_file

N = 16


def skewed_profile(towards_later: bool) -> np.ndarray:
    profile = np.zeros((1, N + 1), dtype=np.float32)
    profile[0, 3:12] = [5, 4, 3, 2, 1, 0.5, 0.2, 0.1, 0.05]
    if not towards_later:
        profile[0, :N] = profile[0, :N][::-1].copy()
    return profile


@pytest.fixture(scope="module")
def data() -> bytes:
    return proportional_policy(n_slices=N, gain_rad=0.5, max_step_rad=0.4)


@pytest.fixture
def policy(data: bytes) -> OnnxPolicy:
    policy = OnnxPolicy.load(data)
    policy.reset(1)
    return policy


ZERO = np.zeros((1, 1), dtype=np.float32)


def altered(data: bytes, change: Any, *, digest: bool = True, **manifest: Any) -> bytes:
    """Change the model, then write the manifest again (with the right digest unless told not to)."""
    model = onnx.load_from_string(data)
    spec = decode_manifest(model.metadata_props[0].value)
    change(model)
    spec = msgspec.structs.replace(spec, **manifest)
    if digest:
        return finish(model, spec)[0]
    onnx.helper.set_model_props(model, {MANIFEST_KEY: encode_manifest(spec)})
    return model.SerializeToString()


def nothing(_model: Any) -> None:
    pass


def test_the_action_follows_skewness(policy: OnnxPolicy) -> None:
    """The proportional controller answers skewness with its sign, clipped to its step."""
    up = policy.act(skewed_profile(True), ZERO)
    down = policy.act(skewed_profile(False), ZERO)
    assert up == pytest.approx(0.4)
    assert down == pytest.approx(-0.4)
    flat = np.ones((1, N + 1), dtype=np.float32)
    assert policy.act(flat, ZERO) == pytest.approx(0.0, abs=1e-6)


def test_an_empty_profile_asks_for_nothing(policy: OnnxPolicy) -> None:
    """A profile of zeros gives a finite action of zero."""
    assert policy.act(np.zeros((1, N + 1), np.float32), ZERO) == 0.0


def test_memory_is_fed_back_and_reset_by_row(policy: OnnxPolicy) -> None:
    """Memory goes from output to input, per row, and a mask resets some rows only."""
    policy.reset(3)
    observation = np.ones((3, N + 1), np.float32)
    for _ in range(4):
        policy.act(observation, np.zeros((3, 1), np.float32))
    policy.reset(3, np.array([False, True, False]))
    np.testing.assert_array_equal(policy.memory["calls_in"].ravel(), [4, 0, 4])
    policy.reset(2)
    np.testing.assert_array_equal(policy.memory["calls_in"].ravel(), [0, 0])


def test_memory_given_back_continues_where_it_was(policy: OnnxPolicy) -> None:
    """Memory read out and set again is a copy on both ways."""
    policy.act(skewed_profile(True), ZERO)
    kept = policy.memory
    policy.act(skewed_profile(True), ZERO)
    policy.memory = kept
    kept["calls_in"][:] = 99
    assert policy.memory["calls_in"][0, 0] == 1


def test_memory_that_does_not_fit_is_refused(policy: OnnxPolicy) -> None:
    """Memory of another name, shape or element type is refused."""
    with pytest.raises(ValueError, match="memory has"):
        policy.memory = {}
    with pytest.raises(ValueError, match="not float32"):
        policy.memory = {"calls_in": np.zeros((1, 1))}


def test_rows_that_do_not_fit_are_refused(policy: OnnxPolicy) -> None:
    """An observation of another shape is refused before the graph runs."""
    with pytest.raises(ValueError, match="observation has shape"):
        policy.act(np.zeros((2, N + 1), np.float32), ZERO)
    with pytest.raises(ValueError, match="previous_applied has shape"):
        policy.act(np.zeros((1, N + 1), np.float32), np.zeros((1, 2), np.float32))


def test_a_changed_weight_is_found(data: bytes) -> None:
    """A file whose graph was changed after it was written is refused by its digest."""

    def change(model: Any) -> None:
        gain = next(t for t in model.graph.initializer if t.name == "gain")
        gain.CopyFrom(onnx.numpy_helper.from_array(np.float32(5.0), "gain"))

    with pytest.raises(PolicyError, match="changed after it was written"):
        OnnxPolicy.load(altered(data, change, digest=False))


def test_weights_in_another_file_are_refused(data: bytes) -> None:
    """External data is refused, whatever it points at."""

    def change(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "phase")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    model = onnx.load_from_string(data)
    change(model)
    with pytest.raises(PolicyError, match="'phase' lie in another file"):
        OnnxPolicy.load(model.SerializeToString())


@pytest.mark.parametrize("domain", ["com.microsoft", "my.lab"])
def test_operators_outside_the_standard_are_refused(data: bytes, domain: str) -> None:
    """Custom operators are refused by name, before onnxruntime sees the file."""

    def change(model: Any) -> None:
        model.graph.node[0].domain = domain

    model = onnx.load_from_string(data)
    change(model)
    with pytest.raises(PolicyError, match=f"'Slice' of the domain '{domain}'"):
        OnnxPolicy.load(model.SerializeToString())


def test_an_operator_hidden_in_a_branch_is_refused(data: bytes) -> None:
    """Graphs inside attributes are looked into."""
    model = onnx.load_from_string(data)
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Evil", [], ["x"], domain="my.lab")], "body", [], []
    )
    node = onnx.helper.make_node("If", ["zero"], ["y"], then_branch=body, else_branch=body)
    model.graph.node.append(node)
    with pytest.raises(PolicyError, match="'Evil'"):
        OnnxPolicy.load(model.SerializeToString())


def test_functions_are_refused(data: bytes) -> None:
    """A file that defines its own functions is refused."""
    model = onnx.load_from_string(data)
    model.functions.add().name = "f"
    with pytest.raises(PolicyError, match="functions of its own"):
        OnnxPolicy.load(model.SerializeToString())


def test_a_file_without_manifest_is_refused(data: bytes) -> None:
    """Any other ONNX file is refused, and the sentence says how policies are made."""
    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    with pytest.raises(PolicyError, match=r"without a policy manifest.*memrl-ctrl export"):
        OnnxPolicy.load(model.SerializeToString())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid"),
        ('{"version": 1}', "not valid"),
        ('{"version": 1, "colour": "blue"}', "not valid"),
    ],
)
def test_a_wrong_manifest_is_refused(data: bytes, text: str, message: str) -> None:
    """A manifest that is no JSON, incomplete, or has unknown keys is refused."""
    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, {MANIFEST_KEY: text})
    with pytest.raises(PolicyError, match=message):
        OnnxPolicy.load(model.SerializeToString())


def test_a_manifest_of_another_version_is_refused(data: bytes) -> None:
    """A later manifest version is refused, not guessed at."""
    with pytest.raises(PolicyError, match="manifest version 2"):
        OnnxPolicy.load(altered_text(data, '"version":1', '"version":2'))


def altered_text(data: bytes, old: str, new: str) -> bytes:
    model = onnx.load_from_string(data)
    text = model.metadata_props[0].value
    assert old in text
    onnx.helper.set_model_props(model, {MANIFEST_KEY: text.replace(old, new, 1)})
    return model.SerializeToString()


def test_inputs_that_the_manifest_does_not_explain_are_refused(data: bytes) -> None:
    """Names, shapes and types of inputs and outputs must be the manifest's."""
    with pytest.raises(PolicyError, match="its inputs are"):
        OnnxPolicy.load(altered(data, nothing, memory=()))

    def rename(model: Any) -> None:
        model.graph.output[0].name = "calls_in"

    model = onnx.load_from_string(data)
    spec = decode_manifest(model.metadata_props[0].value)
    observation = msgspec.structs.replace(spec.observation, n_slices=N + 1, shape=(N + 2,))
    with pytest.raises(PolicyError, match=r"'observation' has shape .*float32 \[batch, 18\]"):
        OnnxPolicy.load(altered(data, nothing, observation=observation))
    memory = (msgspec.structs.replace(spec.memory[0], dtype="int64"),)
    with pytest.raises(PolicyError, match=r"'calls_in' is a tensor\(float\)"):
        OnnxPolicy.load(altered(data, nothing, memory=memory))


def test_a_fixed_batch_is_refused(data: bytes) -> None:
    """A graph for one row only is refused: a cycle has many control points."""

    def change(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(PolicyError, match="fixed batch of 1"):
        OnnxPolicy.load(altered(data, change))


def test_a_graph_that_mixes_rows_is_refused(data: bytes) -> None:
    """A graph whose output has not one row per input row is refused by a trial run."""

    def change(model: Any) -> None:
        node = next(n for n in model.graph.node if n.output[0] == "action")
        node.output[0] = "inner"
        model.graph.node.append(
            onnx.helper.make_node("ReduceMean", ["inner"], ["action"], axes=[0], keepdims=1)
        )

    with pytest.raises(PolicyError, match="came out as"):
        OnnxPolicy.load(altered(data, change))


def test_no_file_and_junk_are_refused(data: bytes, tmp_path: Path) -> None:
    """A missing file, a folder, an empty file, text and a torn file each get one sentence."""
    with pytest.raises(PolicyError, match="no such file"):
        OnnxPolicy.load(tmp_path / "nothing.onnx")
    with pytest.raises(PolicyError, match="is a folder"):
        OnnxPolicy.load(tmp_path)
    for junk in (b"", b"hello, this is no policy", data[: len(data) // 2]):
        path = tmp_path / "junk.onnx"
        path.write_bytes(junk)
        with pytest.raises(PolicyError, match="not a usable ONNX file"):
            OnnxPolicy.load(path)


def test_a_written_file_is_the_same_policy(data: bytes, tmp_path: Path) -> None:
    """A file written to disk loads with the digest of its bytes, and leaves nothing beside it."""
    path = write_file(tmp_path / "p.onnx", data)
    assert OnnxPolicy.load(path).digest == OnnxPolicy.load(data).digest
    assert [p.name for p in tmp_path.iterdir()] == ["p.onnx"]
    assert write_file(tmp_path / "new" / "p.onnx", data).read_bytes() == data
    with pytest.raises(FileError, match="cannot be written"):
        write_file(path / "p.onnx", data)


def test_flipped_bytes_never_escape_as_another_error(data: bytes) -> None:
    """Whatever byte is damaged, the answer is a policy error or the same policy."""
    generator = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        place = int(generator.integers(len(data)))
        damaged[place] ^= 1 << int(generator.integers(8))
        try:
            OnnxPolicy.load(bytes(damaged))
        except PolicyError:
            continue


def test_nothing_is_kept_for_a_telemetry(tmp_path: Path) -> None:
    """A process that loads a policy leaves nothing below the user's home: onnxruntime tells nobody of it."""
    code = (
        "from memrl_ctrl.policy import OnnxPolicy; from memrl_ctrl.policy.catalogue import locate; "
        "from pathlib import Path; OnnxPolicy.load(locate(Path('psb')).read_bytes())"
    )
    home = tmp_path / "home"
    home.mkdir()
    kept = {
        k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    environment = {**kept, "HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path for path in home.rglob("*") if path.is_file()] == []
