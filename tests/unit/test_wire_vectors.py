"""The test vectors of docs/protocol/vectors are what is sent, and say what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from memrl_backends.zmq import vectors, wire
from memrl_ctrl.frames import FrameError, unpack

FOLDER = Path(__file__).parents[2] / "docs" / "protocol" / "vectors"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def test_every_vector_is_there_and_no_other() -> None:
    """The folder holds a frame and a description for each vector, byte for byte."""
    expected = vectors.all_vectors()
    assert sorted(expected) == NAMES == sorted(path.stem for path in FOLDER.glob("*.bin"))
    for name, (data, shown) in expected.items():
        assert (FOLDER / f"{name}.bin").read_bytes() == data, name
        assert json.loads((FOLDER / f"{name}.json").read_text()) == shown, name


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_says_what_it_is(name: str) -> None:
    """What is described is decoded from the bytes; what is to be refused is refused."""
    data = (FOLDER / f"{name}.bin").read_bytes()
    shown = json.loads((FOLDER / f"{name}.json").read_text())
    if "refused" in shown:
        with pytest.raises(FrameError):
            wire.decode_request(data)
        return
    decoders = {"client": [wire.requests], "machine": [wire.replies, wire.published]}
    message, arrays = first(data, decoders[shown["from"]])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message)) == shown["message"]
    assert set(arrays) == set(shown["arrays"])
    for key, array in arrays.items():
        described = shown["arrays"][key]
        assert array.dtype.str == described["type"]
        assert list(array.shape) == described["shape"]
        np.testing.assert_array_equal(array.reshape(-1), described["values"])


def first(data: bytes, decoders: list[msgspec.msgpack.Decoder[Any]]) -> tuple[Any, Any]:
    for decoder in decoders:
        try:
            return unpack(data, decoder)
        except FrameError as error:
            problem = error
    raise problem


def test_every_message_has_a_vector() -> None:
    """No request, reply or publication is left out."""
    seen = {
        json.loads((FOLDER / f"{name}.json").read_text()).get("message", {}).get("type")
        for name in NAMES
    }
    tags = {
        kind.__struct_config__.tag
        for union in (wire.AnyRequest, wire.AnyReply, wire.AnyPublished)
        for kind in union.__args__
    }
    assert tags <= seen
