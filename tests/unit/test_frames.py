"""Frames: typed headers and raw arrays."""

import msgspec
import numpy as np
import pytest

from memrl_ctrl.frames import MAJOR, PREFIX, FrameError, Message, pack, unpack


class Note(Message, tag="note"):
    text: str


class Count(Message, tag="count"):
    value: int


DECODER = msgspec.msgpack.Decoder(Note | Count)


def test_round_trip_keeps_message_and_arrays_to_the_bit():
    """What is packed comes back, NaN payloads and signed zeros included."""
    arrays = {
        "profile": np.array([[1.5, np.nan], [-0.0, np.inf]], dtype=np.float32),
        "flags": np.array([1, 2, 3], dtype=np.uint16),
        "nothing": np.zeros((0, 4)),
        "scalar": np.array(7, dtype=np.int64),
    }
    message, back = unpack(pack(Note(text="ä"), arrays), DECODER)
    assert message == Note(text="ä")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_big_endian_and_strided_arrays_are_stored_little_endian_and_contiguous():
    """The layout in the frame does not depend on the layout in memory."""
    array = np.arange(12, dtype=">f8").reshape(3, 4)[:, ::2]
    _, back = unpack(pack(Count(value=1), {"a": array}), DECODER)
    assert back["a"].dtype.str == "<f8"
    assert np.array_equal(back["a"], array)


def test_objects_are_not_packed():
    """An array of Python objects is refused: nothing is ever pickled."""
    with pytest.raises(FrameError, match="dtype object"):
        pack(Count(value=1), {"a": np.array([object()])})


def test_every_single_flipped_bit_is_noticed():
    """No flipped bit yields a frame, except in the minor version, which is ignored."""
    frame = pack(Count(value=3), {"a": np.arange(3.0)})
    for position in range(len(frame)):
        damaged = bytearray(frame)
        damaged[position] ^= 0x10
        if position in (6, 7):
            assert unpack(bytes(damaged), DECODER)[0] == Count(value=3)
            continue
        with pytest.raises(FrameError):
            unpack(bytes(damaged), DECODER)


def test_every_truncation_is_noticed():
    """No beginning of a frame is a frame."""
    frame = pack(Count(value=3), {"a": np.arange(3.0)})
    for length in range(len(frame)):
        with pytest.raises(FrameError):
            unpack(frame[:length], DECODER)


def test_another_major_version_is_refused_by_number():
    """A frame of another major version is refused, and both versions are named."""
    frame = bytearray(pack(Count(value=3)))
    frame[4:6] = (MAJOR + 1).to_bytes(2, "little")
    with pytest.raises(FrameError, match=f"version {MAJOR + 1}; this side speaks {MAJOR}"):
        unpack(bytes(frame), DECODER)


def test_large_frames_are_refused_unread():
    """A frame above the limit is refused, whatever is in it."""
    with pytest.raises(FrameError, match="at most 100"):
        unpack(b"\xff" * 101, DECODER, max_bytes=100)


def test_unexpected_message_is_refused():
    """A message that is not in the union is refused."""
    with pytest.raises(FrameError, match="header"):
        unpack(pack(Note(text="x")), msgspec.msgpack.Decoder(Count))


def test_prefix_is_sixteen_bytes():
    """The prefix has the size that the documentation gives."""
    assert PREFIX.size == 16
